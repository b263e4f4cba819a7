"""Pages with a part that a script writes, between two markers."""

from __future__ import annotations

from pathlib import Path


def around(path: Path, begin: str, end: str) -> tuple[str, str]:
    """The text before the first marker and after the second. Read it before a long computation.

    Raises:
        SystemExit: a marker is missing.
    """
    before, opened, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise SystemExit(f"{path} has no `{begin}` followed by `{end}`")
    return before, after
