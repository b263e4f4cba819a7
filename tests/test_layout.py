"""The house: imports run downwards only, and rooms for statistics and pages need no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flatprobe

PACKAGE = Path(flatprobe.__file__).parent
FLOORS = (
    ("errors", "provenance", "worker_cache"),
    ("console",),
    ("config",),
    ("pipeline",),
    ("machine",),
    ("models",),
    ("study",),
    ("statistics",),
    ("decision",),
    ("simulation", "counts"),
    ("planner",),
    ("facts", "table_schemas"),
    ("data",),
    ("activations",),
    ("training",),
    ("generation",),
    ("probes",),
    ("report",),
    ("analysis",),
    ("prepare",),
    ("compare",),
    ("api",),
    ("cli",),
    ("__init__", "__main__"),
)
"""Rooms from the ground up; a room imports from lower floors and from itself."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
WITHOUT_TORCH = (
    "study", "pipeline", "planner", "statistics", "decision", "simulation", "counts", "report", "config",
)  # fmt: skip


def imports() -> Iterator[tuple[str, str]]:
    """Every (file, imported module of the package), imports inside functions and for types included."""
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "flatprobe":
                yield from ((file, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flatprobe."):
                yield file, str(node.module).removeprefix("flatprobe.")
            elif isinstance(node, ast.Import):
                yield from (
                    (file, alias.name.removeprefix("flatprobe."))
                    for alias in node.names
                    if alias.name.startswith("flatprobe.")
                )


def room_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def test_every_room_has_a_floor() -> None:
    rooms = {
        room_of(path.relative_to(PACKAGE).as_posix())
        for path in PACKAGE.rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert rooms <= FLOOR.keys()


def test_imports_run_downwards_only() -> None:
    upwards = [
        f"{file} imports {module}"
        for file, module in imports()
        if (target := module.partition(".")[0]) != room_of(file) and FLOOR[target] >= FLOOR[room_of(file)]
    ]
    assert upwards == []


def test_statistics_and_pages_import_no_torch() -> None:
    modules = [
        ".".join(("flatprobe", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for room in WITHOUT_TORCH
        for path in (PACKAGE / room).rglob("*.py")
    ]
    script = f"import sys, {', '.join(modules)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("words", [["--help"], ["geometry", "--help"], ["run", "--help"]])
def test_help_imports_no_torch(words: list[str]) -> None:
    script = (
        "import sys; from flatprobe.cli.app import main\n"
        f"sys.argv = ['flatprobe', *{words!r}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'polars' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
