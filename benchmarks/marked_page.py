"""A page of which a script writes a part: what stands between two markers."""

from __future__ import annotations

from pathlib import Path


def around(path: Path, begin: str, end: str) -> tuple[str, str]:
    """What stands before the first marker and behind the second; to be read before minutes are spent.

    Raises:
        SystemExit: a marker is missing.
    """
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{path} has no `{begin}` followed by `{end}`")
    return before, after
