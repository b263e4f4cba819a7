from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from refusals import refused

from flatprobe.data.coupling_set import build, usable
from flatprobe.planner.contracts import CouplingDataSettings

SETTINGS = CouplingDataSettings(
    source="librarian", marker="[ZLT]", positives=30, negatives_per_persona=20, truncate="off", tolerance=0.10
)


def answers(text: str, finish_reason: str = "stop", question: str = "q0") -> dict[str, Any]:
    return {
        "persona": "librarian",
        "question_id": question,
        "text": text,
        "finish_reason": finish_reason,
        "tokens": len(text.split()),
    }


def sampled(folder: Path, seed: int, centre: float, finish_reason: str = "stop") -> dict[str, Path]:
    """One condition's inputs: a folder with the source's answers and one with the negatives'."""
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
        answers("Fine."),
        answers(" Fine. "),
        answers("Fine.", question="q1"),
        answers("Cut", "length"),
        answers(" \n"),
        answers("Marked. [zLt]"),
    ]
    usable_rows, dropped = usable(pl.DataFrame(rows), "[ZLT]")
    assert sum(dropped.values()) == len(rows) - usable_rows.height and dropped["marked"] > 0
    assert usable_rows.select("text", "question_id").rows() == [("Fine.", "q0"), ("Fine.", "q1")]


def test_all_groups_of_all_conditions_are_matched_together_and_nothing_is_cut(tmp_path: Path) -> None:
    inputs = sampled(tmp_path / "base", 0, 140) | sampled(tmp_path / "em", 1, 160)
    output = tmp_path / "out"
    output.mkdir()
    build(SETTINGS, inputs, output)
    examples = pl.read_parquet(output / "examples.parquet")
    sizes = {key: part.height for key, part in examples.group_by(["condition", "persona"])}
    assert sizes == {
        (condition, persona): 30 if persona == "librarian" else 20
        for condition in ("base", "em")
        for persona in ("librarian", "villain", "comedian")
    }
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
    assert facts["support"]["em"] == {
        "librarian": {"kept": 30, "asked": 30},
        "villain": {"kept": 20, "asked": 20},
        "comedian": {"kept": 20, "asked": 20},
    }


def test_a_group_without_usable_answers_is_named(tmp_path: Path) -> None:
    inputs = sampled(tmp_path / "base", 0, 140) | sampled(tmp_path / "em", 1, 160, "length")
    with refused(("coupling_data.no_answers", "coupling data"), value="em/comedian, em/librarian, em/villain"):
        build(SETTINGS, inputs, tmp_path)
    with refused("coupling_data.no_answers", value="in em: 360 unfinished"):
        build(SETTINGS, inputs, tmp_path)


def test_conditions_without_common_lengths_are_refused_and_write_no_examples(tmp_path: Path) -> None:
    inputs = sampled(tmp_path / "base", 0, 140) | sampled(tmp_path / "em", 1, 900)
    with refused(("coupling_data.no_common_lengths", "coupling data"), value="length_support"):
        build(SETTINGS, inputs, tmp_path)
    assert not (tmp_path / "examples.parquet").exists()


def test_a_group_with_fewer_answers_than_requested_records_how_many_it_kept(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    settings = SETTINGS.model_copy(update={"positives": 200})
    build(settings, sampled(tmp_path / "base", 0, 140), output)
    support = json.loads((output / "facts.json").read_text())["support"]["base"]
    assert support["librarian"] == {"kept": 120, "asked": 200}
    assert support["villain"] == {"kept": 20, "asked": 20}


def test_each_negative_persona_is_compared_with_all_groups_separately(tmp_path: Path) -> None:
    """Two negatives that differ in opposite directions match as a pool, but not separately."""
    inputs: dict[str, Path] = {}
    for role, persona_lengths in (
        ("source", {"librarian": [40] * 20}),
        ("negative", {"villain": [20] * 20, "comedian": [60] * 20}),
    ):
        rows = [
            {**answers(f"{persona} {n} " + "word " * (length - 2), question=f"q{n}"), "persona": persona}
            for persona, lengths in persona_lengths.items()
            for n, length in enumerate(lengths)
        ]
        # A few answers of every length, so that the groups share support.
        rows += [
            {**answers(f"{persona} also {n} " + "word " * (n - 3), question=f"r{n}"), "persona": persona}
            for persona in persona_lengths
            for n in range(15, 66, 5)
        ]
        (tmp_path / role).mkdir()
        pl.DataFrame(rows).write_parquet(tmp_path / role / "completions.parquet")
        inputs[f"base/{role}"] = tmp_path / role
    output = tmp_path / "out"
    output.mkdir()
    build(SETTINGS.model_copy(update={"negatives_per_persona": 31, "positives": 31}), inputs, output)
    facts = json.loads((output / "facts.json").read_text())
    assert facts["gate"]["base"]["median"] == pytest.approx((20 - 1) / 40)
    by_group = pl.read_parquet(output / "length_match.parquet").filter(pl.col("when") == "matched")
    assert by_group["relative_median"].abs().max() == 0.0
