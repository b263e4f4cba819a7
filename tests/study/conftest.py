"""Each test changes its own copy of a valid study."""

from __future__ import annotations

from pathlib import Path

import pytest
from drafts import STUDY, Draft


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return Draft(path)
