"""Estimates of a study without a coupling, from planted states on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy import stats

from flatprobe.analysis.estimate import estimate
from flatprobe.planner.contracts import Entry, EstimateSettings
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.contrasts import GeometryOptions, geometry_contrasts
from flatprobe.statistics.geometry.measures import MEASURES
from flatprobe.statistics.geometry.states import StateKind, States
from flatprobe.study.decision_schema import Decision, GeometricLeg

PERSONAS = ("librarian", "archivist", "villain", "assistant")
QUESTIONS = ("q0", "q1", "q2", "q3", "q4")
LAYERS = (2, 9)
SETTINGS = EstimateSettings(
    rule=Decision(
        treated="tuned", control="model", benign=None, geometry=GeometricLeg(position="response_mean", level=0.9)
    ),
    source="librarian", bystanders=("archivist", "villain"), pools={}, trained=("librarian",), geometry_resamples=200,
    reliability_splits=4, seed=3, stop_at=None,
    entries=tuple(Entry(role=name, kind="states", condition=name, seed=3) for name in ("model", "tuned")),
)  # fmt: skip
States_PQLD = NDArray[np.float32]


def planted(seed: int, persona: float = 1.0, questions: int = len(QUESTIONS)) -> States_PQLD:
    generator = np.random.default_rng(seed)
    common = np.full(16, 4.0)
    persona_P1LD = persona * np.random.default_rng(0).normal(size=(len(PERSONAS), 1, len(LAYERS), 16))
    noise = 0.3 * generator.normal(size=(len(PERSONAS), questions, len(LAYERS), 16))
    states: States_PQLD = (common + persona_P1LD + noise).astype(np.float32)
    return states


def store(folder: Path, own: States_PQLD, unfinished: list[list[str]] | None = None) -> Path:
    folder.mkdir()
    arrays = {"own.response_mean": own, "fixed.response_mean": own, "own.turn_end_token": own}
    save_file(arrays, folder / "states.safetensors")
    index = {
        "personas": PERSONAS, "questions": QUESTIONS[: own.shape[1]], "layers": LAYERS,
        "positions": ["response_mean", "turn_end_token"], "unfinished": unfinished or [],
        "unfinished_fixed": [],
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))
    return folder


Compare = Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]]


@pytest.fixture
def compared(tmp_path: Path) -> Compare:
    def run(base: States_PQLD, treated: States_PQLD, **unfinished: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        inputs = {
            "model": store(tmp_path / "base", base, unfinished.get("in_base")),
            "tuned": store(tmp_path / "treated", treated, unfinished.get("in_treated")),
            "tables": tmp_path,
        }
        output = tmp_path / "out"
        output.mkdir()
        estimate(SETTINGS, inputs, output)
        comparison = json.loads((output / "comparison.json").read_text())
        return comparison["rows"], comparison

    return run


def only(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def contrast(
    treated: States_PQLD, base: States_PQLD, questions: tuple[str, ...] = QUESTIONS, **changes: Any
) -> list[Estimate]:
    states = {
        name: States(name, PERSONAS, questions, LAYERS, values)
        for name, values in (("treated", treated), ("base", base))
    }
    options = GeometryOptions(
        kind=StateKind("own", "response_mean"), pool="bystanders", resamples=200, seed=3, level=0.9, **changes
    )
    return geometry_contrasts(states, [("treated", "base")], "librarian", ["archivist", "villain"], options)


def test_rows_of_the_pool_are_the_experiments_own_estimates(compared: Compare) -> None:
    base, treated = planted(1), planted(2, persona=0.6)
    rows, _ = compared(base, treated)
    estimates = contrast(treated, base)
    found = only(rows, persona=None, position="response_mean", responses="own", pool="bystanders")
    found = [row for row in found if row["estimator"] is not None]
    assert len(found) == len(estimates) == 3 * len(MEASURES) * 3
    for row, expected in zip(found, estimates, strict=True):
        assert (row["measure"], row["layer"], row["estimator"]) == (
            expected.quantity, expected.layer, expected.estimator,
        )  # fmt: skip
        assert (row["difference"], row["ci_low"], row["ci_high"], row["p_value"], row["adjusted_p"]) == (
            expected.estimate, expected.ci_low, expected.ci_high, expected.p_value, expected.adjusted_p,
        )  # fmt: skip


def test_every_persona_has_its_cosines_with_a_jackknife_over_questions(compared: Compare) -> None:
    base, treated = planted(1), planted(2, persona=0.6)
    rows, _ = compared(base, treated)
    found = only(rows, measure="cosine_difference", layer=9, position="response_mean", responses="own")
    by_persona = {row["persona"]: row for row in found if row["persona"] is not None}
    assert set(by_persona) == {"archivist", "villain", "assistant"}

    def cosine(states: States_PQLD, kept: list[int]) -> float:
        source, other = states[0, kept, 1].astype(float).mean(0), states[2, kept, 1].astype(float).mean(0)
        return float(source @ other / np.linalg.norm(source) / np.linalg.norm(other))

    every = list(range(len(QUESTIONS)))
    row = by_persona["villain"]
    assert row["base"] == pytest.approx(cosine(base, every))
    assert row["treated"] == pytest.approx(cosine(treated, every))
    assert row["difference"] == pytest.approx(row["treated"] - row["base"])
    without = np.array(
        [cosine(treated, kept) - cosine(base, kept) for q in every if (kept := [r for r in every if r != q])]
    )
    error = np.sqrt(((without - without.mean()) ** 2).sum() * 4 / 5)
    half = error * stats.t(4).ppf(0.95)
    assert row["ci_low"] == pytest.approx(row["difference"] - half)
    assert row["ci_high"] == pytest.approx(row["difference"] + half)
    assert row["estimator"] == "question_jackknife_t" and row["adjusted_p"] is None


def test_descriptions_have_levels_of_both_checkpoints_and_no_interval(compared: Compare) -> None:
    rows, _ = compared(planted(1), planted(2))
    cosines = only(rows, measure="cosine_difference", persona=None, estimator="question_bootstrap")
    levels = {(row["layer"], row["position"], row["responses"]): row for row in cosines}
    described = only(rows, measure="headroom")
    assert len(described) == 3 * (len(LAYERS) + 1)
    for row in described:
        beside = levels[row["layer"], row["position"], row["responses"]]
        assert row["base"] == pytest.approx(1 - beside["base"])
        assert row["difference"] == pytest.approx(-beside["difference"])
        assert row["ci_low"] is row["p_value"] is row["estimator"] is None
    assert {row["measure"] for row in rows if row["estimator"] is None} == {
        "headroom", "reliability", "separability", "mean_norm",
    }  # fmt: skip


def test_equal_states_differ_by_exactly_nothing_and_are_called_identical(compared: Compare) -> None:
    rows, facts = compared(planted(1), planted(1))
    assert facts["identical"] is True
    for row in rows:
        assert row["difference"] == (1.0 if row["effect"] == "ratio" else 0.0), row


def test_states_that_differ_somewhere_are_not_identical(compared: Compare) -> None:
    other = planted(1)
    other[3, 4, 1, 0] += 1  # a reference, which is in no pool
    assert compared(planted(1), other)[1]["identical"] is False


def test_one_question_gives_numbers_without_intervals_and_says_why(compared: Compare) -> None:
    rows, _ = compared(planted(1, questions=1), planted(2, questions=1))
    cosines = [row for row in only(rows, measure="cosine_difference") if "persona" not in row["estimator"]]
    assert cosines and all(row["difference"] is not None for row in cosines)
    bootstraps = only(cosines, estimator="question_bootstrap")
    assert all(row["ci_low"] is row["p_value"] is None for row in bootstraps)
    assert all(row["note"].startswith("one question has no variation between questions") for row in cosines)
    contraction = only(rows, measure="contraction")
    assert all(row["difference"] is None and row["note"].startswith("undefined") for row in contraction)


def test_questions_with_an_unfinished_answer_are_left_out_of_rows_of_their_own(compared: Compare) -> None:
    base, treated = planted(1), planted(2)
    rows, facts = compared(
        base, treated, in_base=[["villain", "q1"]], in_treated=[["assistant", "q0"], ["librarian", "q3"]]
    )
    assert facts["unfinished"] == {"model": 1, "tuned": 2}
    finished = only(rows, pool="finished answers only", estimator="question_bootstrap")
    assert {row["responses"] for row in finished} == {"own"}
    kept = [0, 2, 4]  # q0 stays: the assistant is in no pool
    names = tuple(QUESTIONS[q] for q in kept)
    expected = contrast(treated[:, kept], base[:, kept], names, measures=("contraction",))
    [row] = only(finished, measure="contraction", layer=None, position="response_mean")
    assert row["difference"] == next(e for e in expected if e.layer is None).estimate
    assert row["n_questions"] == 3


def test_the_descriptive_tables_are_those_of_a_study(compared: Compare, tmp_path: Path) -> None:
    compared(planted(1), planted(2))
    for name in ("geometry", "cosines", "massive", "persona_pairs"):
        table = pl.read_parquet(tmp_path / "out" / f"{name}.parquet")
        assert set(table["condition"]) == {"model", "tuned"}
        assert set(table["position"]) == {"response_mean", "turn_end_token"}
