from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from refusals import refused
from scipy import stats

from flatprobe.statistics.binding.effects import POOLED, effects

CELLS = [("source", "source"), ("source", "bystander"), ("bystander", "source"), ("bystander", "bystander")]


def readings(
    prompt: float, text: float, interaction: float, *, noise: float, personas: int = 3, questions: int = 12
) -> pl.DataFrame:
    """log P with planted effects: `prompt` and `text` in nats, half of the interaction on either diagonal."""
    generator = np.random.default_rng(0)
    rows = []
    for persona in range(personas):
        for question in range(questions):
            for p, t in CELLS:
                sign = 1 if p == t else -1
                value = -9 + prompt * (p == "source") + text * (t == "source") + sign * interaction / 4
                rows.append((f"b{persona}", f"q{question}", p, t, value + noise * generator.normal()))
    return pl.DataFrame(rows, schema=["persona", "question_id", "prompt", "text", "log_p"], orient="row")


def found(table: pl.DataFrame, persona: str = POOLED) -> dict[str, dict[str, float]]:
    return {row["effect"]: row for row in table.filter(pl.col("persona") == persona).iter_rows(named=True)}


def test_planted_effects_come_back_each_under_its_own_name() -> None:
    table = found(effects(readings(3.0, 0.5, -1.0, noise=0.05), level=0.95))
    assert {name: row["estimate"] for name, row in table.items()} == pytest.approx(
        {"prompt": 3.0, "text": 0.5, "interaction": -1.0}, abs=0.1
    )
    for name, truth in (("prompt", 3.0), ("text", 0.5), ("interaction", -1.0)):
        assert table[name]["ci_low"] < truth < table[name]["ci_high"]


def test_a_pooled_effect_is_the_one_sample_t_test_of_question_means() -> None:
    cells = readings(1.0, 0.2, 0.0, noise=1.0)
    wide = {
        key: cells.filter((pl.col("prompt") == key[0]) & (pl.col("text") == key[1]))["log_p"].to_numpy().reshape(3, 12)
        for key in CELLS
    }
    ss, sb, bs, bb = (wide[key] for key in CELLS)
    expected = stats.ttest_1samp(((ss - bs + sb - bb) / 2).mean(0), 0.0)
    row = found(effects(cells, level=0.9))["prompt"]
    interval = expected.confidence_interval(0.9)
    assert row["p_value"] == pytest.approx(expected.pvalue)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high))
    one = stats.ttest_1samp((ss - sb - bs + bb)[1], 0.0)
    assert found(effects(cells, level=0.95), "b1")["interaction"]["p_value"] == pytest.approx(one.pvalue)


def test_a_question_that_lacks_a_reading_is_left_out_of_its_bystander_and_of_the_pool() -> None:
    cells = readings(1.0, 0.0, 0.0, noise=1.0)
    lost = (pl.col("persona") == "b0") & (pl.col("question_id") == "q0") & (pl.col("text") == "source")
    table = effects(cells.filter(~lost), level=0.95)
    assert [found(table, name)["prompt"]["n_questions"] for name in ("b0", "b1", POOLED)] == [11, 12, 11]


def test_without_a_second_question_or_any_spread_there_is_an_estimate_and_no_interval() -> None:
    for cells in (readings(1.0, 0.0, 0.0, noise=1.0, questions=1), readings(2.0, 0.0, 0.0, noise=0.0)):
        row = found(effects(cells, level=0.95))["prompt"]
        assert row["estimate"] is not None
        assert row["ci_low"] is row["ci_high"] is row["p_value"] is row["standard_error"] is None


def test_readings_given_twice_or_missing_altogether_are_refused() -> None:
    cells = readings(1.0, 0.0, 0.0, noise=1.0)
    with refused("binding.duplicate_reading"):
        effects(pl.concat([cells, cells[:1]]), level=0.95)
    with refused("binding.missing_reading"):
        effects(cells.filter((pl.col("prompt") == "source") | (pl.col("text") == "bystander")), level=0.95)
