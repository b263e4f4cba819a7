"""The drawing estimators and the tests against margins, against scipy and closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from cell_tables import by_name, pair, random_cells, table
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from refusals import refused
from scipy import stats

from flatprobe.statistics import bootstrap
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.cells import PairedCells, pair_cells
from flatprobe.statistics.leakage.estimators import SCOPES, contrast_cells, leakage_contrast

T_TYPE = ("question_t", "persona_t", "crossed_anova", "two_way_cluster_t", "pigeonhole_t")


@pytest.fixture(scope="module")
def paired(published: pl.DataFrame, bystanders: tuple[str, ...]) -> PairedCells:
    return pair_cells(published, "em_first", "base_first", bystanders)


def one(paired: PairedCells, name: str, resamples: int = 4000, **options: float) -> Estimate:
    """A single estimator's estimate; `options` are margins."""
    (estimate,) = contrast_cells(paired, resamples=resamples, seed=5, estimators=[name], level=0.95, **options)  # type: ignore[arg-type]
    return estimate


def test_the_cell_bootstrap_agrees_with_scipy_to_the_draws_noise(paired: PairedCells) -> None:
    oracle = stats.bootstrap(
        (paired.differences,), np.mean, n_resamples=20_000, method="percentile",
        rng=np.random.default_rng(1), vectorized=True,
    )  # fmt: skip
    estimate = one(paired, "cell_bootstrap", 20_000)
    # The end of a percentile interval has SD sqrt(.025 * .975 / R) / density = about .019 standard errors.
    noise = 4 * 2**0.5 * 0.019 * oracle.standard_error
    assert estimate.standard_error == pytest.approx(oracle.standard_error, rel=0.03)
    assert estimate.ci_low == pytest.approx(oracle.confidence_interval.low, abs=noise)
    assert estimate.ci_high == pytest.approx(oracle.confidence_interval.high, abs=noise)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sign_flip_agrees_with_scipys_permutation_test(seed: int) -> None:
    paired = pair(random_cells(np.random.default_rng(seed), 8, 5))
    d_PQ = paired.d_PQ
    assert d_PQ is not None
    oracle = stats.permutation_test(
        (d_PQ.mean(axis=1),), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert one(paired, "persona_sign_flip").p_value == pytest.approx(oracle.pvalue)
    shifted = stats.permutation_test(
        (d_PQ.mean(axis=1) - 0.07,), np.mean, permutation_type="samples", n_resamples=np.inf,
        alternative="greater", vectorized=True,
    )  # fmt: skip
    assert one(paired, "persona_sign_flip", margin=0.07).superiority_p == pytest.approx(shifted.pvalue)


def test_sign_flip_weighs_a_persona_by_its_cells_when_some_are_missing() -> None:
    cells = table([[9, 8, 7], [6, 6, 5], [1, 9, 2]], [[1, 2, 3], [5, 1, 0], [3, 3, 3]])
    gone = (pl.col("condition") == "base_first") & (pl.col("question_id") == "q01") & (pl.col("persona") == "c")
    paired = pair(cells.filter(~gone))
    # Sums of differences: a 1.8, b 1.1, c -.3; 8 patterns, of which only +++- - as observed - and its mirror
    # image, and those with c flipped, reach |1.8 + 1.1 - .3| = 2.6.
    assert one(paired, "persona_sign_flip").p_value == 4 / 8


@pytest.mark.parametrize("name", T_TYPE)
def test_margins_of_t_estimators_are_tested_on_their_own_t(paired: PairedCells, name: str) -> None:
    estimate = one(paired, name, margin=0.15, equivalence_margin=0.35)
    value, error, df = estimate.estimate, estimate.standard_error, estimate.df
    assert value is not None and error is not None and df is not None
    assert estimate.superiority_p == pytest.approx(stats.t.sf((value - 0.15) / error, df))
    sides = stats.t.sf((value + 0.35) / error, df), stats.t.cdf((value - 0.35) / error, df)
    assert estimate.equivalence_p == pytest.approx(max(sides))
    assert (estimate.margin, estimate.equivalence_margin) == (0.15, 0.35)


@pytest.mark.parametrize("name", ["cell_bootstrap", "question_bootstrap_t", "completion_resampling"])
def test_margins_of_resampling_estimators_are_near_those_of_a_normal(paired: PairedCells, name: str) -> None:
    estimate = one(paired, name, 20_000, margin=0.28, equivalence_margin=0.33)
    value, error = estimate.estimate, estimate.standard_error
    assert value is not None and error is not None
    normal = stats.t(19) if name == "question_bootstrap_t" else stats.norm
    assert estimate.superiority_p == pytest.approx(normal.sf((value - 0.28) / error), abs=0.03)
    assert estimate.equivalence_p == pytest.approx(normal.cdf((value - 0.33) / error), abs=0.03)


@pytest.mark.parametrize("name", SCOPES)
def test_a_margin_at_the_estimate_leaves_even_odds_and_a_far_one_is_never_certain(
    paired: PairedCells, name: str
) -> None:
    at, far = one(paired, name, margin=0.302143), one(paired, name, margin=0.0)
    # Sign patterns are few, and the observed one always counts.
    assert at.superiority_p == pytest.approx(0.5, abs=0.09 if name == "persona_sign_flip" else 0.03)
    assert far.superiority_p is not None and 0 < far.superiority_p <= 0.04
    assert far.equivalence_p is None and one(paired, name).superiority_p is None


def test_a_one_sided_bootstrap_p_is_the_registered_formulas_half(paired: PairedCells) -> None:
    estimate = one(paired, "cell_bootstrap", 999, margin=0.0)
    assert estimate.superiority_p == 1 / 1000 and estimate.p_value == 2 / 1000


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"margin": 15.0}, "options.margin"),
        ({"margin": -0.1}, "options.margin"),
        ({"margin": float("nan")}, "options.margin"),
        ({"equivalence_margin": 0.0}, "options.equivalence_margin"),
        ({"level": 1.0}, "options.level"),
        ({"resamples": 0}, "options.resamples"),
        ({"seed": -1}, "options.seed"),
        ({"estimators": ["crosed_anova"]}, "options.estimator"),
    ],
)
def test_options_that_mean_nothing_are_refused_by_name(
    paired: PairedCells, options: dict[str, float], code: str
) -> None:
    with refused(code):
        contrast_cells(paired, **{"resamples": 10, "seed": 1, "level": 0.95, **options})  # type: ignore[arg-type]


def test_the_draws_of_an_estimator_do_not_depend_on_which_others_are_asked_for(paired: PairedCells) -> None:
    together = by_name(contrast_cells(paired, resamples=300, seed=5, level=0.95))
    for name in SCOPES:
        assert one(paired, name, 300) == together[name]


def test_chunks_change_neither_the_number_of_draws_nor_the_exact_part(
    paired: PairedCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = by_name(contrast_cells(paired, resamples=3000, seed=5, level=0.95))
    monkeypatch.setattr(bootstrap, "CHUNK_VALUES", 7000)
    chunked = by_name(contrast_cells(paired, resamples=3000, seed=5, level=0.95))
    for name in SCOPES:
        assert chunked[name].resamples == whole[name].resamples
        if whole[name].standard_error is not None:
            assert chunked[name].standard_error == pytest.approx(whole[name].standard_error, rel=0.1)
    assert chunked["cell_bootstrap"] == whole["cell_bootstrap"]


def every_persona_is_paired(cells: pl.DataFrame) -> bool:
    """Whether each of the four personas has a question in both conditions."""
    paired = cells.filter(pl.struct("persona", "question_id").is_duplicated())
    return paired["persona"].n_unique() == 4


@given(seed=st.integers(0, 1000), shuffle=st.integers(0, 1000), dropped=st.sampled_from([0.0, 0.15]))
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_rows_plays_no_part(seed: int, shuffle: int, dropped: float) -> None:
    generator = np.random.default_rng(seed)
    cells = random_cells(generator, 4, 6)
    cells = cells.filter(pl.Series(generator.random(cells.height) >= dropped))
    assume(every_persona_is_paired(cells))
    shuffled = cells.sample(fraction=1, shuffle=True, seed=shuffle)
    runs = [
        leakage_contrast(frame, "em_first", "base_first", "abcd", pool="p", resamples=50, seed=3, level=0.95)
        for frame in (cells, shuffled)
    ]
    assert runs[0] == runs[1]


@given(seed=st.integers(0, 1000), dropped=st.sampled_from([0.0, 0.15]))
@settings(max_examples=25, deadline=None)
def test_swapping_the_conditions_mirrors_every_exact_estimator(seed: int, dropped: float) -> None:
    generator = np.random.default_rng(seed)
    cells = random_cells(generator, 4, 6)
    cells = cells.filter(pl.Series(generator.random(cells.height) >= dropped))
    assume(every_persona_is_paired(cells))
    there, back = pair(cells), pair(cells, "base_first", "em_first")
    for name in (*T_TYPE[:4], "persona_sign_flip"):
        forth, mirrored = one(there, name, 50), one(back, name, 50)
        assert forth.p_value == (None if forth.p_value is None else pytest.approx(mirrored.p_value))
        if forth.estimate is None or mirrored.estimate is None:
            assert forth.estimate == mirrored.estimate
            continue
        assert mirrored.estimate == pytest.approx(-forth.estimate)
        if forth.ci_low is not None and mirrored.ci_high is not None:
            assert mirrored.ci_high == pytest.approx(-forth.ci_low)


@pytest.mark.parametrize(("hits", "shown"), [((0, 0), "+0.0 pp"), ((10, 10), "+0.0 pp"), ((10, 0), "+100.0 pp")])
def test_constant_cells_are_said_by_every_estimator(hits: tuple[int, int], shown: str) -> None:
    paired = pair(table([[hits[0]] * 4] * 3, [[hits[1]] * 4] * 3))
    rows = by_name(contrast_cells(paired, resamples=199, seed=1, margin=0.15, equivalence_margin=0.05, level=0.95))
    assert all("no variation" in (row.note or "") for row in rows.values())
    assert shown in (rows["cell_bootstrap"].note or "")
    for name in (*T_TYPE, "question_bootstrap_t"):
        row = rows[name]
        assert row.estimate == (hits[0] - hits[1]) / 10 and row.standard_error == pytest.approx(0, abs=1e-12)
        assert (row.p_value, row.ci_low, row.superiority_p, row.equivalence_p) == (None, None, None, None)
    registered = rows["cell_bootstrap"]
    assert registered.p_value == (1.0 if hits[0] == hits[1] else 2 / 200)
    assert registered.ci_low == registered.ci_high == registered.estimate


def test_equal_differences_of_unequal_completions_leave_only_binomial_noise() -> None:
    rows = by_name(contrast_cells(pair(table([[5] * 4] * 3, [[3] * 4] * 3)), resamples=2000, seed=1, level=0.95))
    noise = (0.5 * 0.5 / 10 / 12 + 0.3 * 0.7 / 10 / 12) ** 0.5
    assert rows["completion_resampling"].standard_error == pytest.approx(noise, rel=0.1)
    assert rows["cell_bootstrap"].standard_error == pytest.approx(0, abs=1e-12)
    assert rows["crossed_anova"].p_value is None


def test_one_completion_per_cell_has_no_binomial_noise_and_is_analysed_otherwise() -> None:
    rows = by_name(
        contrast_cells(
            pair(table([[1, 0, 1], [1, 1, 0]], [[0, 0, 1], [0, 1, 0]], total=1)), resamples=200, seed=1, level=0.95
        )
    )
    assert "all completions have the marker or none has" in (rows["completion_resampling"].note or "")
    assert rows["question_t"].estimate == pytest.approx(1 / 3) and rows["question_t"].p_value is not None


def test_one_cell_has_an_estimate_and_binomial_noise_and_nothing_else() -> None:
    rows = by_name(contrast_cells(pair(table([[7]], [[2]])), resamples=500, seed=1, level=0.95))
    assert rows["completion_resampling"].standard_error == pytest.approx((0.21 / 10 + 0.16 / 10) ** 0.5, rel=0.15)
    assert "no variation" in (rows["cell_bootstrap"].note or "")
    for name in list(SCOPES)[2:]:
        assert rows[name].estimate is None and "not estimated: one" in (rows[name].note or "")


def test_unequal_completions_weigh_cells_equally() -> None:
    cells = table([[2, 6], [5, 5]], [[0, 0], [0, 0]])
    doubled = cells.with_columns(
        hits=pl.when(pl.col("persona") == "a").then(pl.col("hits") * 2).otherwise("hits"),
        total=pl.when(pl.col("persona") == "a").then(20).otherwise("total"),
    )
    for name in ("cell_bootstrap", "crossed_anova", "persona_sign_flip"):
        same = [replace(one(pair(frame), name, 100), bootstrap_bias=None) for frame in (cells, doubled)]
        assert same[0] == same[1]


def test_a_pigeonhole_with_resamples_that_hold_no_cell_is_refused_by_name() -> None:
    gone = (pl.col("persona") == "a") & (pl.col("question_id") == "q00")
    rows = by_name(
        contrast_cells(pair(table([[1, 2], [3, 5]], [[0, 0], [1, 0]]).filter(~gone)), resamples=200, seed=1, level=0.95)
    )
    assert rows["pigeonhole_t"].estimate is None and "resamples hold no cell" in (rows["pigeonhole_t"].note or "")
    assert rows["two_way_cluster_t"].estimate is not None
