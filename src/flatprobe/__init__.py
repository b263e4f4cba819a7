"""flatprobe: does a finetune make a chat model's personas more alike?"""

__version__: str


def __getattr__(name: str) -> str:
    """Read the version only when it is asked for, so that importing the package does no work."""
    if name == "__version__":
        from importlib.metadata import version

        return version("flatprobe")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
