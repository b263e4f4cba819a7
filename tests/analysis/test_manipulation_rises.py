from __future__ import annotations

import polars as pl
import pytest
from scipy import stats

from flatprobe.analysis.manipulation import Rise, breadth, breadths_of, own_rise, rise
from flatprobe.study.decision_schema import Decision

BASE = [-1.0, -2.0, -3.0]
RULE = Decision(treated="em", control="base", benign=None)


def frame(condition: str, values: list[float], held_out_from: str | None = "em") -> pl.DataFrame:
    """Log-odds of texts held out from a condition, or out of domain (None)."""
    set_ = "out_of_domain" if held_out_from is None else "in_domain"
    return pl.DataFrame(
        [
            {
                "condition": condition,
                "set": set_,
                "held_out_from": held_out_from,
                "id": f"{i}",
                "prompt": f"Why, {i}?",
                "log_odds": value,
            }
            for i, value in enumerate(values)
        ],
        schema_overrides={"held_out_from": pl.String},
    )


def raised(by: float) -> list[float]:
    """Log-odds above the base's by about so much."""
    return [by * (1 + 0.01 * i) + base for i, base in enumerate(BASE)]


def test_a_rise_is_paired_by_text_and_its_lower_end_that_of_a_paired_t() -> None:
    treated = [0.5, -1.8, -1.0]
    shuffled = frame("em", treated[::-1]).with_columns(
        id=pl.Series(["2", "1", "0"]), prompt=pl.Series([f"Why, {i}?" for i in (2, 1, 0)])
    )
    found = rise(pl.concat([shuffled, frame("base", BASE), frame("other", [9.0] * 3)]), "em", "base", 0.95)
    assert found is not None
    expected = stats.ttest_rel(treated, BASE).confidence_interval(0.95).low
    assert found.low == pytest.approx(float(expected))
    assert (found.mean, found.texts) == (pytest.approx(1.2333, abs=1e-3), 3)
    assert rise(frame("em", treated), "em", "base", 0.95) is None  # the control has no such text


def test_one_text_has_a_rise_and_no_interval_and_seeds_are_averaged_first() -> None:
    table = pl.concat([frame("base", [-1.0]), frame("em", [1.0]), frame("em", [2.0])])
    assert rise(table, "em", "base", 0.95) == Rise(2.5, None, 1, 1)


def test_texts_of_one_prompt_count_as_one() -> None:
    table = pl.concat([frame("base", [0.0] * 6), frame("em", [1.0, 1.0, 1.0, 1.0, 3.0, 2.0])])
    asked = pl.col("id").cast(pl.Int64)
    by_prompt = table.with_columns(prompt=pl.when(asked < 4).then(pl.lit("a")).otherwise(asked.cast(pl.String)))
    expected = stats.ttest_1samp([1.0, 3.0, 2.0], 0.0).confidence_interval(0.95).low
    assert rise(by_prompt, "em", "base", 0.95) == Rise(2.0, pytest.approx(float(expected)), 6, 3)


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        (0.1, 0.1, "broad"), (0.1, 0.0, "narrow"), (0.0, 0.5, "none"), (-0.1, None, "none"), (0.1, None, "unknown"),
        (None, 0.1, "unknown"),
    ],
)  # fmt: skip
def test_how_far_a_finetune_reached_follows_from_both_lower_ends(
    inside: float | None, outside: float | None, expected: str
) -> None:
    assert breadth(*(Rise(1.0, low, 5, 5) for low in (inside, outside))) == expected


def test_a_rise_that_could_not_be_had_leaves_it_unknown_unless_there_is_none_in_domain() -> None:
    assert breadth(Rise(1.0, 0.5, 5, 5), None) == breadth(None, Rise(1.0, 0.5, 5, 5)) == "unknown"
    assert breadth(Rise(0.0, -1.0, 5, 5), None) == "none"


def test_own_texts_of_two_finetunes_with_the_same_ids_are_kept_apart() -> None:
    rises = {("em", "em"): 2.0, ("em", "collapse"): -1.0, ("collapse", "em"): -0.5, ("collapse", "collapse"): 3.0}
    scores = pl.concat(
        [
            *(frame("base", BASE, owner) for owner in ("em", "collapse")),
            *(frame(condition, raised(by), owner) for (condition, owner), by in rises.items()),
        ]
    )  # fmt: skip
    held_out_from = {"em": "em", "collapse": "collapse"}
    found = {name: own_rise(scores, held_out_from, name, "base", 0.95) for name in held_out_from}
    assert {name: each.mean for name, each in found.items() if each} == {
        "em": pytest.approx(2.02), "collapse": pytest.approx(3.03),
    }  # fmt: skip
    assert own_rise(scores, {"em": "em"}, "collapse", "base", 0.95) is None
    over = own_rise(scores, held_out_from, "collapse", "em", 0.95)
    assert over is not None and over.mean == pytest.approx(4.04)


def test_a_condition_is_read_on_its_own_texts_or_else_on_the_treated_ones() -> None:
    by_texts: dict[str | None, dict[str, float]] = {
        "em": {"em": 2.0, "again": 2.0, "collapse": -1.0, "benign": -1.0},
        "collapse": {"em": -1.0, "again": -1.0, "collapse": 2.0, "benign": 2.0},
        None: {"em": 2.0, "again": -1.0, "collapse": -1.0, "benign": 2.0},
    }
    scores = pl.concat(
        [
            *(frame("base", BASE, owner) for owner in by_texts),
            *(frame(name, raised(by), owner) for owner, rises in by_texts.items() for name, by in rises.items()),
        ]
    )  # fmt: skip
    held_out_from = {"em": "em", "again": "em", "collapse": "collapse"}
    assert breadths_of(scores, held_out_from, RULE) == {
        "em": "broad", "again": "narrow", "collapse": "narrow", "benign": "none",
    }  # fmt: skip
    del held_out_from["em"], held_out_from["again"]
    assert set(breadths_of(scores, held_out_from, RULE).items()) == {
        ("em", "unknown"), ("again", "unknown"), ("collapse", "narrow"), ("benign", "unknown"),
    }  # fmt: skip
    assert breadths_of(scores.clear(), {}, RULE) == {}
