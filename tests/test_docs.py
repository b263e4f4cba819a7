"""Every file and name that a document mentions exists."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md") for path in ROOT.glob(pattern))
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
TREE_PATH = re.compile(r"(?<![\w/.-])(?:src|docs|studies|tests|benchmarks|machines|examples)/[\w./-]*\w")
PYTHON_FILE = re.compile(r"`(\w+\.py)`")
DOTTED = re.compile(r"(?<![\w./-])flatprobe(?:\.\w+)+")


@cache
def _python_files() -> frozenset[str]:
    folders = ("src", "tests", "benchmarks")
    return frozenset(path.name for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[size:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def _missing(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [path for path in TREE_PATH.findall(text) if not (ROOT / path).exists()]
    missing += [name for name in PYTHON_FILE.findall(text) if name not in _python_files()]
    return missing + [name for name in sorted(set(DOTTED.findall(text))) if not _exists(name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_name_that_a_document_mentions_exists(page: Path) -> None:
    assert _missing(page) == []


def test_a_missing_file_and_a_missing_name_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "See [this](no.md), `docs/no.md`, `no_such_file.py`, `flatprobe.no_module` and `flatprobe.errors.NoName`, "
        "but also `docs/method.md`, `errors.py` and `flatprobe.errors.UserError`.",
        encoding="utf-8",
    )
    assert _missing(page) == [
        "no.md",
        "docs/no.md",
        "no_such_file.py",
        "flatprobe.errors.NoName",
        "flatprobe.no_module",
    ]
