"""LoRA training: losses, the training driver, merging."""
