"""vLLM in a process of its own, and what it is told over a pipe."""
