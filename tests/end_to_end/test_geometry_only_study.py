"""A study without a coupling through the command line: geometry of a finetune, and no verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl


def flatprobe(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flatprobe", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)


def without_coupling(study: dict[str, Any]) -> None:
    study |= {"coupling": None, "manipulation": None}
    del study["conditions"]["benign_first"]
    study["decision"]["benign"] = None


def test_a_study_without_a_coupling_ends_with_its_geometry(
    write_study: Callable[[Callable[[dict[str, Any]], None]], Path], tmp_path: Path
) -> None:
    study = write_study(without_coupling)
    here = ("--machine", study.parent / "machine.yaml", "--runs", tmp_path)
    ran = flatprobe("run", study, *here)
    assert ran.returncode == 0, ran.stderr
    assert "No verdict: geometry only." in ran.stdout and "couple/" not in ran.stderr
    analysis = tmp_path / "tiny" / "analysis"
    assert {path.stem for path in (analysis / "tables").iterdir()} == {
        "responses", "losses", "weights", "questions", "panel", "cosines", "geometry", "massive", "persona_pairs",
    }  # fmt: skip
    assert not (analysis / "verdict.json").exists()
    estimates = pl.DataFrame(json.loads((analysis / "estimates.json").read_text()), infer_schema_length=None)
    assert set(estimates["contrast"]) == {"em_first - base_first"}
    assert set(estimates["responses"]) == {"own", "fixed"}
    assert '<section id="comparison">' in (tmp_path / "tiny" / "report.html").read_text()

    again = flatprobe("run", study, *here)
    assert "0 stages run" in again.stdout

    refused = flatprobe("verdict", study, *here)
    assert refused.returncode == 2 and "no verdict: geometry only" in refused.stderr
    planned = flatprobe("plan", study, *here)
    assert planned.returncode == 0, planned.stderr
    assert "estimates" in planned.stdout and "Geometry (contraction)" in planned.stdout
    assert "crossed_anova" not in planned.stdout
    audited = flatprobe("audit", study, *here)
    assert audited.returncode == 0 and "finetune/em_first" in audited.stdout
