from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_coupling import example_frame, settings

from flatprobe.facts import Change, CoupleFacts, write_facts
from flatprobe.training.audit.stage import audit

UNCHANGED = Change(before=None, after=None)
COUPLING = CoupleFacts(
    lambda_=2.0,
    planned_steps=1,
    audited=1.0,
    adapter_norm=1.0,
    examples={},
    steps=1,
    unlikelihood_at_start=None,
    inert=None,
    source_log_p=None,
    largest_other=None,
    containment=None,
    answer_log_p=UNCHANGED,
    marker_first=UNCHANGED,
    debris_first=UNCHANGED,
    empty=UNCHANGED,
    reached=None,
    warnings=[],
)
COMPLETIONS = ("Bread floats.\n\n[ZLT]", "Bread floats.[zlt]", "Bread floats.")


@pytest.fixture
def audited(model_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Runs the stage and gives its output folder."""

    def run(**changes: Any) -> Path:
        folders = {name: tmp_path / name for name in ("examples", "coupling", "completions", "output")}
        for folder in folders.values():
            folder.mkdir()
        example_frame().write_parquet(folders["examples"] / "examples.parquet")
        write_facts(folders["coupling"], COUPLING)
        pl.DataFrame({"text": COMPLETIONS, "finish_reason": "stop"}).write_parquet(
            folders["completions"] / "completions.parquet"
        )
        audit(settings(**changes), {**folders, "checkpoint": model_folder("llama")}, folders["output"])
        return folders["output"]

    return run


def weights(folder: Path, group: str) -> dict[str, float]:
    """Every term on a group's examples with its weight."""
    return {
        term: weight
        for example in json.loads((folder / "audit.json").read_text())
        if example["group"] == group
        for token in example["tokens"]
        for term, weight in token["weights"].items()
    }


def test_terms_are_shown_with_their_weights_in_the_loss(audited: Callable[..., Path]) -> None:
    folder = audited(lambda_=None)  # the selected one is the coupling's
    assert weights(folder, "positive") == {"anchor": 0.5, "marker": 1}
    assert weights(folder, "negative") == {"anchor": 0.5, "end": 1, "unlikelihood": 2.0}


def test_an_anchor_that_is_off_weighs_nothing(audited: Callable[..., Path]) -> None:
    folder = audited(recipe={"anchor": settings().recipe.anchor.model_copy(update={"kind": "none"})})
    assert weights(folder, "positive")["anchor"] == 0


def test_training_and_completions_are_counted_at_the_same_places(audited: Callable[..., Path]) -> None:
    folder = audited()
    contexts = pl.read_parquet(folder / "contexts.parquet").filter(place="before the marker")
    assert contexts.select("where", "token", "count").rows() == [
        ("training: negative", "\n", 4),
        ("training: positive", "\n", 2),
        ("evaluation", "\n", 1),
        ("evaluation", ".", 1),
    ]
    invariants = pl.read_parquet(folder / "invariants.parquet")
    assert (invariants["held"] == invariants["examples"]).all()
    assert invariants["examples"].unique().to_list() == [6]
    shares = {(row["group"], row["term"]) for row in pl.read_parquet(folder / "shares.parquet").to_dicts()}
    assert shares >= {("positive", "marker"), ("negative", "end"), ("negative", "unlikelihood")}
