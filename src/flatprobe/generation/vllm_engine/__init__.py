"""vLLM in a child process, and the engine that commands it over a pipe."""
