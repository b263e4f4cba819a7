"""What an engine process asks of torch, without its weight."""

__version__ = "double"
