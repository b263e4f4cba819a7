"""The door of the report: what is malformed is named, all at once, and nothing is filled in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from flatprobe.errors import UserError
from flatprobe.report.analysis_folder import read


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy of the planted folder that a test may damage."""
    return shutil.copytree(folder, tmp_path / "analysis")


def test_conditions_come_control_first_then_treated_then_benign(folder: Path) -> None:
    assert read(folder).conditions == ("base_first", "em_first", "benign_first")


def test_all_missing_files_are_named_at_once(broken: Path) -> None:
    (broken / "verdict.json").unlink()
    (broken / "tables" / "rates.parquet").unlink()
    with pytest.raises(UserError) as caught:
        read(broken)
    assert {Path(problem.place).name for problem in caught.value.problems} == {"verdict.json", "rates.parquet"}


def test_a_missing_column_is_named(broken: Path) -> None:
    path = broken / "tables" / "rates.parquet"
    pl.read_parquet(path).drop("end_rate").write_parquet(path)
    with pytest.raises(UserError, match="no column `end_rate`"):
        read(broken)


@pytest.mark.parametrize("name", ["specifications", "leave_one_out", "multiplicity"])
def test_the_tables_of_robustness_are_required(broken: Path, name: str) -> None:
    (broken / "tables" / f"{name}.parquet").unlink()
    with pytest.raises(UserError, match=rf"{name}.parquet.*not found"):
        read(broken)


def test_a_missing_key_of_the_verdict_is_named(broken: Path) -> None:
    verdict = json.loads((broken / "verdict.json").read_text())
    del verdict["confidence"]
    (broken / "verdict.json").write_text(json.dumps(verdict))
    with pytest.raises(UserError, match="`confidence`"):
        read(broken)


def test_nan_in_a_table_is_refused(broken: Path) -> None:
    path = broken / "tables" / "geometry.parquet"
    pl.read_parquet(path).with_columns(reliability=pl.lit(float("nan"))).write_parquet(path)
    with pytest.raises(UserError, match="column `reliability` holds NaN"):
        read(broken)


def test_nan_in_a_document_is_refused(broken: Path) -> None:
    (broken / "lambda.json").write_text('{"selected": NaN, "candidates": []}')
    with pytest.raises(UserError, match="NaN is not a number that can be shown"):
        read(broken)


def test_estimates_without_a_field_are_refused(broken: Path) -> None:
    rows = json.loads((broken / "estimates.json").read_text())
    del rows[3]["ci_low"]
    (broken / "estimates.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="rows have no `ci_low`"):
        read(broken)


def test_an_optional_table_may_be_absent_or_empty_alike(broken: Path) -> None:
    (broken / "tables" / "fluency.parquet").unlink()
    (broken / "tables" / "massive.parquet").unlink()
    path = broken / "tables" / "telemetry.parquet"
    pl.read_parquet(path).clear().write_parquet(path)
    assert not {"fluency", "massive", "telemetry"} & set(read(broken).tables)
