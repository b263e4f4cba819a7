from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import polars as pl
import pytest
from cell_tables import by_name, table
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from flatprobe.errors import UserError
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.seeds import SEED_SCOPES, crossed_anova_seed, over_seeds, seed_contrast

SEEDS = (42, 43, 44, 45)


def runs(seeds: Sequence[int] = SEEDS) -> pl.DataFrame:
    """Cells of several training seeds, 3 personas and 5 questions; all three shift the treated rate."""
    generator = np.random.default_rng(11)
    persona, question = generator.normal(0, 0.15, size=(3, 1)), generator.normal(0, 0.1, size=(1, 5))
    frames = []
    for seed in seeds:
        rate = np.clip(0.5 + generator.normal(0, 0.15) + persona + question, 0, 1)
        treated, control = generator.binomial(10, rate), generator.binomial(10, 0.3, size=(3, 5))
        frames.append(table(treated.tolist(), control.tolist()).with_columns(seed=pl.lit(seed)))
    return pl.concat(frames)


def contrast(cells: pl.DataFrame, margin: float | None = None) -> dict[str, Estimate]:
    personas = cells["persona"].unique().sort().to_list()
    return by_name(seed_contrast(cells, "em_first", "base_first", personas, pool="p", margin=margin, level=0.95))


def differences(cells: pl.DataFrame) -> pl.DataFrame:
    """Columns seed, persona, question_id, d."""
    rates = cells.with_columns(rate=pl.col("hits") / pl.col("total"))
    wide = rates.pivot("condition", index=["seed", "persona", "question_id"], values="rate")
    return wide.with_columns(d=pl.col("em_first") - pl.col("base_first"))


def test_seed_t_is_the_t_test_of_the_seeds_means() -> None:
    cells = runs()
    estimate = contrast(cells, margin=0.1)["seed_t"]
    means = differences(cells).group_by("seed").agg(pl.col("d").mean())["d"].to_numpy()
    oracle = stats.ttest_1samp(means, 0)
    assert estimate.estimate == pytest.approx(means.mean()) and estimate.df == 3
    assert estimate.p_value == pytest.approx(oracle.pvalue)
    assert estimate.ci_low == pytest.approx(oracle.confidence_interval().low)
    greater = stats.ttest_1samp(means, 0.1, alternative="greater")
    assert estimate.superiority_p == pytest.approx(greater.pvalue)


def test_the_crossed_analysis_has_the_mean_squares_of_a_three_way_anova() -> None:
    cells = runs()
    table = differences(cells)
    frame = pd.DataFrame({name: table[name].to_list() for name in ("seed", "persona", "question_id", "d")})
    # One model less the three-way term, whose residual is that term.
    anova = anova_lm(ols("d ~ (C(seed) + C(persona) + C(question_id)) ** 2", frame).fit())
    signs, squares, df = (np.array([1, 1, 1, -1, -1, -1, 1]), anova["mean_sq"].to_numpy(), anova["df"].to_numpy())
    assert df.tolist() == [3, 2, 4, 6, 12, 8, 24]
    combined = float(signs @ squares)
    assert combined > 0
    estimate = contrast(cells)["crossed_anova_seed"]
    assert estimate.note is None
    assert estimate.standard_error == pytest.approx((combined / 60) ** 0.5)
    assert estimate.df == pytest.approx(combined**2 / float((squares**2 / df).sum()))


def test_the_crossed_standard_error_is_unbiased_for_the_variance_of_the_mean() -> None:
    generator = np.random.default_rng(12)
    shapes = {(5, 1, 1): 0.3, (1, 4, 1): 0.4, (1, 1, 6): 0.2, (5, 4, 1): 0.3, (5, 1, 6): 0.2, (1, 4, 6): 0.3}
    tables = [
        sum(generator.normal(0, sd, size=shape) for shape, sd in shapes.items())
        + generator.normal(0, 0.5, size=(5, 4, 6))
        for _ in range(1500)
    ]
    truth = sum(sd**2 / np.prod(shape) for shape, sd in shapes.items()) + 0.25 / 120
    assert np.mean([crossed_anova_seed(d_SPQ).standard_error ** 2 for d_SPQ in tables]) == pytest.approx(
        truth, rel=0.06
    )


def test_a_variance_that_is_not_positive_falls_back_to_the_largest_one_way_variance() -> None:
    signs = np.array([1.0, -1.0])
    d_SPQ = 0.1 * np.einsum("s,p->sp", signs, signs)[:, :, None] + np.array([0.02, 0.0])[:, None, None]
    spread = crossed_anova_seed(np.broadcast_to(d_SPQ, (2, 2, 2)) + np.zeros((2, 2, 2)))
    assert "largest one-way variance (seed)" in (spread.note or "")
    assert spread.standard_error == pytest.approx(0.01) and spread.df == 1


@pytest.mark.parametrize("seeds", [(42,), (42, 43)])
def test_fewer_than_three_seeds_speak_about_these_checkpoints_only(seeds: tuple[int, ...]) -> None:
    for name, estimate in contrast(runs(seeds)).items():
        assert estimate.scope == SEED_SCOPES[name]
        assert estimate.estimate is None and estimate.p_value is None
        assert estimate.note == "needs at least 3 seeds: these checkpoints"


def test_a_missing_cell_leaves_the_seeds_means_and_refuses_the_crossed_analysis() -> None:
    cells = runs()
    gone = (pl.col("seed") == 43) & (pl.col("persona") == "a") & (pl.col("question_id") == "q01")
    estimates = contrast(cells.filter(~gone))
    assert estimates["seed_t"].p_value is not None
    assert "1 of 60 cells" in (estimates["seed_t"].note or "")
    assert estimates["crossed_anova_seed"].estimate is None
    assert "every cell in every seed" in (estimates["crossed_anova_seed"].note or "")


def test_seeds_that_do_not_vary_have_no_interval_and_say_so() -> None:
    same = pl.concat(table([[5, 6], [7, 9]], [[1, 2], [3, 3]]).with_columns(seed=pl.lit(s)) for s in (1, 2, 3))
    estimate = contrast(same)["seed_t"]
    assert estimate.estimate == pytest.approx(0.45) and estimate.p_value is None
    assert "no variation" in (estimate.note or "")


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        (runs().drop("seed"), "cells.missing_column"),
        (runs().with_columns(pl.col("seed").cast(pl.String)), "cells.column_type"),
        (runs().with_columns(seed=pl.when(pl.col("seed") != 44).then("seed")), "cells.missing_key"),
        (runs().filter(~((pl.col("seed") == 44) & (pl.col("condition") == "em_first"))), "cells.unshared_seed"),
        (pl.concat([runs(), runs((42,))]), "cells.duplicate"),
    ],
)
def test_seeds_that_cannot_be_paired_are_refused(cells: pl.DataFrame, code: str) -> None:
    with pytest.raises(UserError) as error:
        contrast(cells)
    assert {problem.code for problem in error.value.problems} == {code}


def test_counts_are_summed_over_seeds_once_each_seed_has_been_checked() -> None:
    cells = runs((42, 43))
    pooled = over_seeds(cells, "em_first", "base_first", ["a", "b", "c"])
    assert pooled["total"].unique().to_list() == [20] and pooled.height == 30
    assert pooled["hits"].sum() == cells["hits"].sum()
    nan = cells.with_columns(pl.col("hits").cast(pl.Float64)).with_columns(
        hits=pl.when(pl.col("seed") == 42).then("hits")
    )
    with pytest.raises(UserError) as error:
        over_seeds(nan, "em_first", "base_first", ["a", "b", "c"])
    assert {problem.code for problem in error.value.problems} == {"cells.fractional_count"}
    assert over_seeds(cells.drop("seed"), "em_first", "base_first", ["a"]).height == 60
