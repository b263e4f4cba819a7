from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flatprobe.data.stages import build, usable
from flatprobe.errors import UserError
from flatprobe.pipeline.settings import CouplingDataSettings

SETTINGS = CouplingDataSettings(source="librarian", marker="[ZLT]", positives=30, negatives_per_persona=20)


def answers(text: str, finish_reason: str = "stop", question: str = "q0") -> dict[str, Any]:
    return {
        "persona": "librarian", "question_id": question, "text": text, "finish_reason": finish_reason,
        "tokens": len(text.split()),
    }  # fmt: skip


def sampled(folder: Path, seed: int, centre: float, finish_reason: str = "stop") -> dict[str, Path]:
    """One condition's inputs: the source's answers and the negatives', in folders of their own."""
    generator = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, Any]]] = {"source": [], "negative": []}
    for persona, shift in (("librarian", 0), ("villain", 12), ("comedian", -9)):
        for number in range(120):
            length = int(max(1, generator.normal(centre + shift, 30)))
            row = answers(f"{seed} {number} " + "word " * length, finish_reason, f"q{number % 10}")
            rows["source" if persona == "librarian" else "negative"].append({**row, "persona": persona})
    for role, some in rows.items():
        (folder / role).mkdir(parents=True)
        pl.DataFrame(some).write_parquet(folder / role / "completions.parquet")
    return {f"{folder.name}/{role}": folder / role for role in rows}


def test_unfinished_empty_marked_and_repeated_answers_are_not_usable() -> None:
    rows = [
        answers("Fine."), answers(" Fine. "), answers("Fine.", question="q1"), answers("Cut", "length"),
        answers(" \n"), answers("Marked. [zLt]"),
    ]  # fmt: skip
    kept, dropped = usable(pl.DataFrame(rows), "[ZLT]")
    assert sum(dropped.values()) == len(rows) - kept.height and dropped["marked"] > 0
    assert kept.select("text", "question_id").rows() == [("Fine.", "q0"), ("Fine.", "q1")]


def test_all_groups_of_all_conditions_are_matched_at_once_and_nothing_is_cut(tmp_path: Path) -> None:
    inputs = sampled(tmp_path / "base", 0, 140) | sampled(tmp_path / "em", 1, 160)
    output = tmp_path / "out"
    output.mkdir()
    build(SETTINGS, inputs, output)
    examples = pl.read_parquet(output / "examples.parquet")
    sizes = {key: part.height for key, part in examples.group_by(["condition", "persona"])}
    assert sizes == {
        (condition, persona): 30 if persona == "librarian" else 20
        for condition in ("base", "em") for persona in ("librarian", "villain", "comedian")
    }  # fmt: skip
    originals = {
        (role.partition("/")[0], row["persona"], row["text"].strip(), row["tokens"])
        for role, folder in inputs.items()
        for row in pl.read_parquet(folder / "completions.parquet").iter_rows(named=True)
    }
    chosen = set(examples.select("condition", "persona", "text", "tokens").rows())
    assert chosen <= originals
    assert len(chosen) == examples.height
    facts = json.loads((output / "facts.json").read_text())
    assert set(facts["gate"]) == {"base", "em"}
    assert all(worst < 0.10 for worst in [w for arm in facts["gate"].values() for w in arm.values()])
    assert (facts["sampled"], facts["usable"], facts["kept"]) == (720, 720, 140)
    assert facts["short_groups"] == []


def test_a_group_without_usable_answers_is_named(tmp_path: Path) -> None:
    inputs = sampled(tmp_path / "base", 0, 140) | sampled(tmp_path / "em", 1, 160, "length")
    with pytest.raises(UserError, match="no usable answer for em/comedian, em/librarian, em/villain"):
        build(SETTINGS, inputs, tmp_path)


def test_conditions_without_a_common_length_are_an_error_and_never_trained_on(tmp_path: Path) -> None:
    inputs = sampled(tmp_path / "base", 0, 140) | sampled(tmp_path / "em", 1, 900)
    with pytest.raises(UserError, match="share no lengths"):
        build(SETTINGS, inputs, tmp_path)
    assert not (tmp_path / "examples.parquet").exists()


def test_a_group_with_fewer_answers_than_asked_for_is_listed_as_short(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    wanting = SETTINGS.model_copy(update={"positives": 200})
    build(wanting, sampled(tmp_path / "base", 0, 140), output)
    assert json.loads((output / "facts.json").read_text())["short_groups"] == ["base/librarian"]
