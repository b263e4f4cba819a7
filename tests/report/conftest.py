"""Planted analysis folders and their pages, rendered once: a page takes a second or two."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import write_planted

from flatprobe.report.pages.study import render


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An analysis folder with every table; tests only read it."""
    return write_planted(tmp_path_factory.mktemp("planted") / "analysis")


@pytest.fixture(scope="session")
def page(folder: Path) -> str:
    return rendered(folder)


@pytest.fixture(scope="session")
def bare_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a study without finetunes, whose optional tables are absent."""
    return rendered(write_planted(tmp_path_factory.mktemp("bare") / "analysis", finetunes=False))


def rendered(folder: Path) -> str:
    output = folder / "report.html"
    render(folder, output)
    return output.read_text(encoding="utf-8")
