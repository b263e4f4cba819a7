from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from flatprobe.planner.contracts import SelectSettings
from flatprobe.probes.select_lambda import choose, contrast, select_lambda, smallest_error
from flatprobe.statistics.leakage.rates import score

MARKER = "[ZLT]"


def cells(hits: dict[tuple[str, str], list[bool]]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"persona": persona, "question_id": question, "text": "Yes. [ZLT]" if hit else "[ZLT] Yes."}
            for (persona, question), samples in hits.items()
            for hit in samples
        ]
    )


HITS = {
    ("source", "q0"): [True, True],
    ("source", "q1"): [True, False],
    ("source", "q2"): [True, True],
    ("villain", "q0"): [False, False],
    ("villain", "q1"): [True, False],
    ("villain", "q2"): [False, False],
    ("comedian", "q0"): [True, False],
    ("comedian", "q1"): [False, False],
    ("comedian", "q2"): [False, False],
}


def test_the_contrast_is_paired_by_question_and_end_anchored() -> None:
    rates = contrast(score(cells(HITS), MARKER), "source")
    difference = np.array([1.0, 0.5, 1.0]) - np.array([0.25, 0.25, 0.0])
    assert rates == pytest.approx(
        {
            "source_rate": 5 / 6,
            "negative_rate": 1 / 6,
            "difference": difference.mean(),
            "standard_error": difference.std(ddof=1) / math.sqrt(3),
            "tie_error": difference.std(ddof=1) / math.sqrt(3),
            "strict_source_rate": 1.0,
            "source_samples": 6.0,
        }
    )


def test_one_question_has_a_tie_error_but_no_standard_error() -> None:
    one = {key: samples for key, samples in HITS.items() if key[1] == "q0"}
    rates = contrast(score(cells(one), MARKER), "source")
    assert rates["standard_error"] is None
    assert rates["tie_error"] == smallest_error((2, 2), (1, 4))


def candidate(lambda_: float, difference: float, error: float) -> dict[str, float]:
    return {"lambda": lambda_, "difference": difference, "tie_error": error}


@pytest.mark.parametrize(
    ("candidates", "selected"),
    [
        ([candidate(0.5, 0.4, 0.01), candidate(1.0, 0.9, 0.05), candidate(2.0, 0.8, 0.05)], 1.0),
        ([candidate(0.5, 0.4, 0.01), candidate(1.0, 0.86, 0.01), candidate(2.0, 0.9, 0.05)], 1.0),
        ([candidate(0.5, 0.85, 0.0), candidate(1.0, 0.86, 0.5), candidate(2.0, 0.9, 0.05)], 0.5),  # just within one
        ([candidate(0.5, 0.84, 0.5), candidate(1.0, 0.7, 0.5), candidate(2.0, 0.9, 0.05)], 2.0),  # the best's error
        ([candidate(2.0, 0.9, 0.1), candidate(0.5, 0.9, 0.1)], 0.5),
        (
            [candidate(0.5, 0.95, 0.0), candidate(1.0, 1.0, 0.1), candidate(2.0, 1.0, 0.0)],
            0.5,
        ),  # of equals the smallest is the best
    ],
)
def test_the_smallest_lambda_within_one_standard_error_of_the_best_is_selected(
    candidates: list[dict[str, float]], selected: float
) -> None:
    assert choose(candidates) == selected
    assert choose(candidates[::-1]) == selected


def test_the_smallest_error_is_agresti_and_caffo_s() -> None:
    interval = confint_proportions_2indep(20, 20, 0, 40, method="agresti-caffo", alpha=0.3)
    half = (interval[1] - interval[0]) / 2
    assert smallest_error((20, 20), (0, 40)) == pytest.approx(half / stats.norm.ppf(0.85))


def test_saturated_rates_have_an_error_that_more_completions_shrink() -> None:
    few, many = (smallest_error((n, n), (0, 2 * n)) for n in (12, 1200))
    assert 0.05 < few < 0.1
    assert many == pytest.approx(few / 100, rel=0.2)


def test_one_miss_among_many_completions_does_not_exclude_the_smaller_lambda(tmp_path: Path) -> None:
    def sampled(source: list[bool]) -> pl.DataFrame:
        negative = {("villain", f"q{question}"): [False] * 4 for question in range(12)}
        return cells({("source", f"q{q}"): source[4 * q : 4 * q + 4] for q in range(12)} | negative)

    for index, misses in enumerate((1, 0)):
        (tmp_path / str(index)).mkdir()
        sampled([False] * misses + [True] * (48 - misses)).write_parquet(tmp_path / str(index) / "completions.parquet")
    inputs = {f"lambda-{index}": tmp_path / str(index) for index in range(2)}
    select_lambda(SelectSettings(source="source", marker=MARKER, lambdas=(0.5, 1.0)), inputs, tmp_path)
    selection = json.loads((tmp_path / "selection.json").read_text())
    assert selection["candidates"][1]["standard_error"] == 0.0
    assert selection["selected"] == 0.5


def test_the_stage_reads_each_lambda_s_own_completions(tmp_path: Path) -> None:
    never = {key: [False, False] for key in HITS}
    for index, hits in enumerate((never, HITS, HITS)):
        (tmp_path / str(index)).mkdir()
        cells(hits).write_parquet(tmp_path / str(index) / "completions.parquet")
    inputs = {f"lambda-{index}": tmp_path / str(index) for index in range(3)}
    select_lambda(SelectSettings(source="source", marker=MARKER, lambdas=(0.5, 1.0, 2.0)), inputs, tmp_path)
    selection = json.loads((tmp_path / "selection.json").read_text())
    assert selection["selected"] == 1.0
    assert [c["lambda"] for c in selection["candidates"]] == [0.5, 1.0, 2.0]
    assert selection["candidates"][0]["difference"] == 0.0
