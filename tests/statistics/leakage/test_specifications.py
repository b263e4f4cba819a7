from __future__ import annotations

import polars as pl
import pytest
from refusals import refused

from flatprobe.statistics.leakage.estimators import SCOPES, leakage_contrast
from flatprobe.statistics.leakage.specifications import SCHEMA, specification_curve

RESAMPLES = 100


@pytest.fixture(scope="module")
def cells(published: pl.DataFrame) -> pl.DataFrame:
    """The worked example at two lambdas, with a stricter detector, and an uncoupled baseline."""
    coupled = published.with_columns(
        pl.col("hits") // 2, hits_all=pl.col("hits"), coupled=pl.lit(True), seed=pl.lit(42)
    ).rename({"hits": "end_hits", "hits_all": "hits"})
    weaker = coupled.with_columns(pl.col("hits") // 3, pl.col("end_hits") // 3)
    baseline = coupled.with_columns(
        pl.lit(None, pl.Float64).alias("lambda"), hits=pl.lit(0, pl.Int64), coupled=pl.lit(False)
    )
    labelled = [frame.with_columns(pl.lit(value).alias("lambda")) for frame, value in ((coupled, 1.0), (weaker, 2.0))]
    only = labelled[0].filter(pl.col("condition") == "em_first").with_columns(pl.lit(4.0).alias("lambda"))
    return pl.concat([*labelled, baseline, only], how="diagonal")


@pytest.fixture(scope="module")
def curve(cells: pl.DataFrame, bystanders: tuple[str, ...]) -> pl.DataFrame:
    pools = {"bystanders": bystanders, "as_written": ("villain", "assistant")}
    return specification_curve(
        cells,
        "em_first",
        "base_first",
        pools,
        trained=["assistant", "librarian"],
        resamples=RESAMPLES,
        seed=3,
        level=0.95,
    )


def test_every_estimator_stands_once_for_every_pool_lambda_and_detector(curve: pl.DataFrame) -> None:
    assert curve.columns == list(SCHEMA)
    assert curve.height == 2 * 2 * 2 * len(SCOPES)
    keys = ["pool", "lambda", "detector", "estimator"]
    assert curve.select(keys).is_unique().all()
    assert set(curve["lambda"]) == {1.0, 2.0}  # neither the baseline nor a lambda of one condition only
    assert curve["estimator"].to_list() == list(SCOPES) * 8


def test_each_specification_is_the_contrast_of_its_own_counts(
    curve: pl.DataFrame, cells: pl.DataFrame, bystanders: tuple[str, ...]
) -> None:
    chosen = cells.filter(pl.col("coupled") & (pl.col("lambda") == 2.0)).with_columns(hits="end_hits")
    direct = leakage_contrast(
        chosen, "em_first", "base_first", bystanders, pool="bystanders", resamples=RESAMPLES, seed=3, level=0.95
    )
    rows = curve.filter(pl.col("pool") == "bystanders", pl.col("lambda") == 2.0, pl.col("detector") == "end_anchored")
    for row, estimate in zip(rows.iter_rows(named=True), direct, strict=True):
        for name in ("estimator", "scope", "estimate", "standard_error", "ci_low", "ci_high", "p_value", "note"):
            assert row[name] == getattr(estimate, name)
    strict = curve.filter(pl.col("pool") == "bystanders", pl.col("lambda") == 1.0, pl.col("detector") == "strict")
    assert strict["estimate"].to_list() == pytest.approx([0.3021428571] * len(SCOPES))


def test_a_pool_that_holds_a_trained_persona_is_labelled_contaminated(curve: pl.DataFrame) -> None:
    named = curve.select(
        "pool", "contaminated", labelled=pl.col("note").str.contains("trained on").fill_null(False)
    ).unique()
    assert set(named.rows()) == {("bystanders", False, False), ("as_written", True, True)}


def test_seeds_are_summed_and_plain_counts_need_no_further_columns(
    published: pl.DataFrame, bystanders: tuple[str, ...]
) -> None:
    def estimates(frame: pl.DataFrame) -> pl.DataFrame:
        return specification_curve(
            frame, "em_first", "base_first", {"p": bystanders}, resamples=RESAMPLES, seed=3, level=0.95
        )

    twice = pl.concat(published.with_columns(seed=pl.lit(seed)) for seed in (1, 2))
    plain, summed = estimates(published), estimates(twice)
    assert plain["lambda"].null_count() == plain.height == len(SCOPES) == summed.height
    assert set(plain["detector"]) == {"strict"}
    assert summed["estimate"].to_list() == pytest.approx(plain["estimate"].to_list())


def test_a_curve_without_pool_lambda_or_counts_is_refused(cells: pl.DataFrame, bystanders: tuple[str, ...]) -> None:
    apart = cells.filter((pl.col("condition") == "em_first") == (pl.col("lambda") == 1.0))
    for frame, pools, code in (
        (cells, {}, "specifications.no_pool"),
        (cells.drop("hits"), {"p": bystanders}, "cells.missing_column"),
        (apart, {"p": bystanders}, "specifications.no_common_lambda"),
    ):
        with refused(code):
            specification_curve(frame, "em_first", "base_first", pools, resamples=RESAMPLES, seed=3, level=0.95)
