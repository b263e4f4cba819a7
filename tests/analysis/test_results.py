"""Results of a finished run as objects and frames."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from refusals import refused

import flatprobe


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A run folder with a planted analysis."""
    shutil.copytree(folder, tmp_path / "run" / "analysis")
    return tmp_path / "run"


def test_results_hold_the_verdict_the_estimates_and_every_table(run: Path) -> None:
    results = flatprobe.read_results(run)
    assert results.verdict is not None and results.verdict.verdict in results.verdict.headline()
    assert results.estimates_frame().height == len(results.estimates) > 0
    assert "rates" in results.tables
    assert results["rates"].equals(pl.read_parquet(run / "analysis" / "tables" / "rates.parquet"))
    with pytest.raises(KeyError, match="rates"):
        _ = results["rate"]


def test_a_study_without_a_coupling_has_no_verdict(run: Path) -> None:
    (run / "analysis" / "verdict.json").unlink()
    assert flatprobe.read_results(run).verdict is None


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with refused(("results.no_run", str(tmp_path))):
        flatprobe.read_results(tmp_path)


@pytest.mark.parametrize("name", ["verdict", "estimates", "study"])
def test_a_damaged_document_is_named(run: Path, name: str) -> None:
    path = run / "analysis" / f"{name}.json"
    path.write_text("{")
    with refused(("results.damaged", str(path))):
        flatprobe.read_results(run)


def test_a_damaged_table_is_named_by_the_results_and_by_the_report(run: Path) -> None:
    path = run / "analysis" / "tables" / "rates.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with refused(("results.damaged", str(path))):
        _ = flatprobe.read_results(run)["rates"]
    from flatprobe.report.analysis_folder import read

    with refused(("analysis.not_parquet", str(path))):
        read(run / "analysis")
