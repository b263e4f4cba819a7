"""An engine behind a running server that speaks OpenAI's completions protocol."""
