"""Gates, the registered rule, and the verdict."""
