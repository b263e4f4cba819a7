"""Sampling with `transformers`: prompts prefilled once, slots refilled as completions end."""
