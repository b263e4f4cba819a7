"""The package's data files."""

from __future__ import annotations

from pathlib import Path

PREFIX = "embedded:"


def path(name: str) -> Path:
    """A file of this folder."""
    return Path(__file__).parent / name


def data_file(location: str, base: Path) -> Path:
    """The JSONL file behind `embedded:NAME`, or a path relative to `base`."""
    if location.startswith(PREFIX):
        return path("finetune") / f"{location.removeprefix(PREFIX)}.jsonl"
    return base / Path(location).expanduser()


def shipped_study(name: str) -> Path:
    """A study of the package."""
    return path("studies") / f"{name}.yaml"
