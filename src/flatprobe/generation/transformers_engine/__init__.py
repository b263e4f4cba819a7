"""Sampling with `transformers`: prompts are prefilled once; rows take the next request when a completion ends."""
