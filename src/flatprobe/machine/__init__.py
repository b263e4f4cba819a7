"""How this machine runs stages: the machine file, and its values inside a worker."""
