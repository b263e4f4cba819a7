"""Bystander rate over source rate: what it is, where it is undefined, and what it does not depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from flatprobe.statistics.leakage.relative import NO_SOURCE_RATE, relative_leakage

BYSTANDERS = ("archivist", "journalist")


def cells(condition: str, source: list[int], *bystanders: list[int], total: int = 10) -> pl.DataFrame:
    """Hits per question of the source and of each bystander, and a negative that must not count."""
    hits = dict(zip(("librarian", *BYSTANDERS), (source, *bystanders), strict=True))
    hits["villain"] = [total] * len(source)
    rows = [
        {"condition": condition, "persona": persona, "question_id": f"q{q}", "hits": value, "total": total}
        for persona, values in hits.items()
        for q, value in enumerate(values)
    ]
    return pl.DataFrame(rows)


def compared(*tables: pl.DataFrame, **changes: Any) -> list[dict[str, Any]]:
    options = {"resamples": 2000, "seed": 0, "level": 0.95} | changes
    return relative_leakage(pl.concat(tables), [("new", "old")], "librarian", BYSTANDERS, **options).to_dicts()


OLD = cells("old", [8, 8, 8], [2, 4, 6], [0, 2, 4])
NEW = cells("new", [4, 4, 4], [4, 4, 4], [4, 4, 4])


def test_it_is_the_ratio_of_pooled_rates_and_their_difference_between_conditions() -> None:
    new, old, contrast = compared(NEW, OLD)
    assert (new["treated"], new["control"], new["relative"]) == ("new", None, pytest.approx(1.0))
    assert (old["bystander_rate"], old["source_rate"]) == (pytest.approx(0.3), pytest.approx(0.8))
    assert old["relative"] == pytest.approx(0.375)
    assert (contrast["treated"], contrast["control"]) == ("new", "old")
    assert contrast["relative"] == pytest.approx(1.0 - 0.375) and contrast["bystander_rate"] is None
    assert (new["ci_low"], new["ci_high"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert old["ci_low"] < 0.375 < old["ci_high"]
    assert contrast["ci_low"] == pytest.approx(1.0 - old["ci_high"])  # the same draws for both


def test_the_interval_is_that_of_an_explicit_loop_over_resampled_questions() -> None:
    row = compared(NEW, OLD)[1]
    generator = np.random.default_rng(1)
    by, own = np.array([2, 6, 10]) / 20, np.array([8, 8, 8]) / 10
    drawn = generator.integers(0, 3, size=(20_000, 3))
    ratios = by[drawn].mean(1) / own[drawn].mean(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


def test_half_the_dose_in_all_personas_leaves_it_as_it_is() -> None:
    halved = OLD.with_columns(condition=pl.lit("new"), hits=pl.col("hits") // 2)
    new, old, contrast = compared(halved, OLD)
    assert new["relative"] == pytest.approx(old["relative"])
    assert contrast["relative"] == pytest.approx(0.0) and contrast["ci_low"] == pytest.approx(0.0)


def test_a_source_that_never_shows_the_marker_has_no_ratio() -> None:
    new, _, contrast = compared(cells("new", [0, 0, 0], [1, 1, 1], [0, 0, 0]), OLD)
    assert new["relative"] is None and new["source_rate"] == 0.0
    assert new["note"] == contrast["note"] == NO_SOURCE_RATE and contrast["ci_low"] is None


def test_resamples_without_a_marked_answer_of_the_source_are_counted() -> None:
    row = compared(cells("new", [1, 0, 0], [1, 1, 1], [0, 0, 0]), OLD)[0]
    lost = int(row["note"].split()[0])
    assert lost == pytest.approx(2000 * (2 / 3) ** 3, rel=0.15)
    assert row["ci_high"] is None  # they lie in the tail


def test_one_question_has_a_ratio_and_no_interval() -> None:
    one = [table.filter(pl.col("question_id") == "q0") for table in (NEW, OLD)]
    assert [row["ci_low"] for row in compared(*one)] == [None, None, None]
    assert compared(*one)[0]["relative"] == pytest.approx(1.0)


def test_seeds_are_summed_and_a_condition_without_the_source_is_refused() -> None:
    both = pl.concat([OLD.with_columns(seed=pl.lit(s)) for s in (1, 2)])
    twice = compared(both, NEW.with_columns(seed=pl.lit(1)))
    assert twice[1]["relative"] == pytest.approx(0.375)
    with pytest.raises(ValueError, match="new has no cells of librarian"):
        compared(NEW.filter(pl.col("persona") != "librarian"), OLD)
