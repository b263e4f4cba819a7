"""A planted analysis folder with every table."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import write_planted


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An analysis folder with every table; tests only read it."""
    return write_planted(tmp_path_factory.mktemp("planted") / "analysis")
