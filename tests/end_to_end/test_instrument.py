"""Contrasts with known answers of a tiny model, through the command line; their outcome means nothing at this size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

WriteStudy = Callable[[Callable[[dict[str, Any]], None]], Path]
KNOWN = [
    {"treated": "collapse", "control": "base_first", "geometry": "found"},
    {"treated": "base_again", "control": "base_first", "geometry": "not_found", "leakage": "not_found"},
]


def controlled(study: dict[str, Any]) -> None:
    """The tiny study with an imitating condition and a second coupling of the control."""
    collapse = {"imitate": {"persona": "assistant", "samples": 3, "match": "states"}, "rows": 36, "held_out": 6}
    study["conditions"] = {
        "base_first": {}, "collapse": {"finetune": collapse}, "base_again": {"seed_offset": 1},
    }  # fmt: skip
    study["manipulation"] = None
    study["coupling"]["unlikelihood"]["lambdas"] = [1.0]
    study["decision"] |= {"treated": "collapse", "benign": None, "known_answers": KNOWN}


@pytest.fixture(scope="module")
def analysis(write_study: WriteStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The analysis folder of a finished run."""
    study, runs = write_study(controlled), tmp_path_factory.mktemp("runs")
    words = ["run", study, "--machine", study.parent / "machine.yaml", "--runs", runs]
    command = [sys.executable, "-m", "flatprobe", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    assert "Instrument check" in done.stdout
    return runs / "tiny" / "analysis"


def verdict_of(analysis: Path) -> dict[str, Any]:
    verdict: dict[str, Any] = json.loads((analysis / "verdict.json").read_text())
    return verdict


def test_every_known_answer_is_decided_and_shown(analysis: Path) -> None:
    verdict = verdict_of(analysis)
    collapse, again = verdict["known_answers"]
    assert (collapse["treated"], again["treated"]) == ("collapse", "base_again")
    assert collapse["evidence"] == verdict["numbers"]["main"]
    assert collapse["expected"] == {"geometry": "found", "leakage": None}
    right = sum(known["as_expected"] for known in (collapse, again))
    assert verdict["instrument"].endswith(f"{right} of 2 as expected")
    page = (analysis.parent / "report.html").read_text()
    assert verdict["instrument"] in page and "base_again − base_first" in page


def test_answers_whose_states_are_read_are_looked_at_in_every_condition(analysis: Path) -> None:
    looked_at = [gate for gate in verdict_of(analysis)["gates"] if gate["name"] == "unfinished"]
    assert {gate["arm"] for gate in looked_at} == {"base_first", "collapse", "base_again"}
    assert all(gate["blocks"] == "nothing" and gate["statistic"] is not None for gate in looked_at)


def test_leakage_stands_beside_the_source_s_own_in_tables_and_page(analysis: Path) -> None:
    table = pl.read_parquet(analysis / "tables" / "relative_leakage.parquet")
    assert table["treated"].to_list() == ["collapse", "base_first", "base_again", "collapse", "base_again"]
    assert "Relative to the source" in (analysis.parent / "report.html").read_text()


def test_states_are_brought_nearer_to_those_that_they_shall_match(analysis: Path) -> None:
    losses = pl.read_parquet(analysis / "tables" / "losses.parquet").filter(pl.col("stage") == "finetune")
    assert set(losses["term"]) == {"states", "total"}
    states = losses.filter(pl.col("term") == "states").sort("step")["value"]
    assert 0 < states[-1] < states[0]


def test_one_checkpoint_against_itself_has_no_geometric_effect_at_all(analysis: Path) -> None:
    found = verdict_of(analysis)["known_answers"][1]["evidence"]["geometry"]
    assert set(found["effects_by_layer"].values()) == {found["effect"]} == {0.0}


def test_the_coupling_trained_again_is_another_one(analysis: Path) -> None:
    losses = pl.read_parquet(analysis / "tables" / "losses.parquet").filter(pl.col("stage") == "couple")
    first, again = (
        losses.filter(pl.col("condition") == name)["value"].to_list() for name in ("base_first", "base_again")
    )
    assert first and first != again


def test_finetuned_bystanders_were_not_coupled_so_no_roles_overlap(analysis: Path) -> None:
    gates = {gate["name"]: gate for gate in verdict_of(analysis)["gates"] if gate["arm"] == "study"}
    assert gates["role_overlap"]["passed"] and gates["role_overlap"]["statistic"] == 0


def test_imitation_makes_the_imitated_answer_likelier_under_every_persona(analysis: Path) -> None:
    odds = pl.read_parquet(analysis / "tables" / "manipulation.parquet").filter(pl.col("set") == "in_domain")
    means = dict(odds.group_by("condition").agg(pl.col("log_odds").mean()).rows())
    assert odds.filter(pl.col("condition") == "collapse").height >= 2
    assert odds["held_out_from"].unique().to_list() == ["collapse"]
    assert means["collapse"] > means["base_first"]
