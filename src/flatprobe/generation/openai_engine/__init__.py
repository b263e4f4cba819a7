"""Sampling from a running server that speaks OpenAI's protocol."""
