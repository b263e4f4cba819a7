"""Published counts and planted states for the statistics' tests."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def published() -> pl.DataFrame:
    """Counts of the worked example: condition, persona, question_id, hits, total."""
    return pl.read_csv(DATA / "leakage_cells.csv")


@pytest.fixture(scope="session")
def bystanders() -> tuple[str, ...]:
    """The seven bystanders of the worked example."""
    return (
        "software_engineer", "kindergarten_teacher", "medical_doctor", "comedian", "police_officer",
        "villain", "zelthari_scholar",
    )  # fmt: skip
