"""Variance components: closed forms, the published counts, and what the estimates do on average."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
from refusals import refused

from flatprobe.statistics.leakage.cells import PairedCells, pair_cells
from flatprobe.statistics.planning.components import PUBLISHED, Components, estimate_components, with_seed


def paired(hits_treated: object, total: object, hits_control: object, personas: int, missing: int = 0) -> PairedCells:
    """Cells with the same number of completions in both conditions."""
    treated, control = np.asarray(hits_treated).ravel(), np.asarray(hits_control).ravel()
    totals = np.broadcast_to(np.ravel(total), treated.shape).copy()
    return PairedCells(
        personas=tuple(f"p{n}" for n in range(personas)),
        questions=tuple(f"q{n}" for n in range((len(treated) + missing) // personas)),
        hits_treated=treated,
        total_treated=totals,
        hits_control=control,
        total_control=totals,
        missing=missing,
        places=np.arange(len(treated)) if missing else None,
    )


def test_the_published_components_are_those_of_the_published_counts(
    published: pl.DataFrame, bystanders: tuple[str, ...]
) -> None:
    found = estimate_components(pair_cells(published, "em_first", "base_first", bystanders))
    for name in ("persona", "question", "interaction", "completion"):
        assert getattr(found, name) == pytest.approx(getattr(PUBLISHED, name), rel=1e-12)
    assert found.seed is None and found.notes == ()


def test_the_components_are_those_of_a_random_effects_fit(published: pl.DataFrame, bystanders: tuple[str, ...]) -> None:
    """Mean squares from a least-squares analysis of variance, by another library."""
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    cells = pair_cells(published, "em_first", "base_first", bystanders)
    frame = pl.DataFrame(
        {
            "d": cells.differences,
            "p": np.repeat(cells.personas, len(cells.questions)),
            "q": np.tile(cells.questions, len(cells.personas)),
        }
    ).to_pandas()
    table = anova_lm(smf.ols("d ~ C(p) + C(q)", frame).fit())
    square = table["sum_sq"] / table["df"]
    assert (square["C(p)"] - square["Residual"]) / 20 == pytest.approx(PUBLISHED.persona)
    assert (square["C(q)"] - square["Residual"]) / 7 == pytest.approx(PUBLISHED.question)
    assert square["Residual"] - PUBLISHED.noise / 10 == pytest.approx(PUBLISHED.interaction)


def test_the_completion_noise_is_the_closed_form_of_the_counts() -> None:
    found = estimate_components(paired([[1, 2], [0, 4]], 4, [[2, 2], [2, 2]], personas=2))
    control = 2 * 2 / (4 * 3)
    treated = (1 * 3 + 2 * 2 + 0 + 0) / (4 * 4 * 3)
    assert found.completion == pytest.approx(treated + control)


def test_what_is_subtracted_follows_each_cell_where_numbers_of_completions_differ() -> None:
    """Two cells of 2 completions leave half their noise, two of 20 a twentieth."""
    totals = [[2, 20], [20, 2]]
    found = estimate_components(paired([[2, 2], [2, 1]], totals, [[0, 2], [1, 0]], personas=2))
    rates_t, rates_c = np.array([[1.0, 0.1], [0.1, 0.5]]), np.array([[0.0, 0.1], [0.05, 0.0]])
    d = rates_t - rates_c
    residual = (d[0, 0] - d[0, 1] - d[1, 0] + d[1, 1]) ** 2 / 4
    spread = [
        rates * (1 - rates) * np.array(totals) / (np.array(totals) - 1) / np.array(totals)
        for rates in (rates_t, rates_c)
    ]
    assert found.interaction == pytest.approx(residual - sum(part.mean() for part in spread))


def test_components_are_unbiased_on_planted_rates() -> None:
    generator = np.random.default_rng(3)
    personas, questions, completions, studies = 6, 8, 3, 400
    found = []
    for _ in range(studies):
        rate = 0.5 + generator.choice([-0.2, 0.2], (personas, 1)) + generator.choice([-0.1, 0.1], (1, questions))
        rate = rate + generator.choice([-0.1, 0.1], (personas, questions))
        hits = generator.binomial(completions, rate)
        control = generator.binomial(completions, 0.3, hits.shape)
        found.append(estimate_components(paired(hits, completions, control, personas)))
    completion = 0.5**2 - (0.04 + 0.01 + 0.01) + 0.3 * 0.7
    assert np.mean([c.persona for c in found]) == pytest.approx(0.04, abs=0.004)
    assert np.mean([c.noise for c in found]) == pytest.approx(completion, abs=0.005)
    # Truncation at 0 can only raise the two small ones.
    assert 0.009 < np.mean([c.question for c in found]) < 0.014
    assert 0.009 < np.mean([c.interaction for c in found]) < 0.03


def test_an_estimate_below_zero_becomes_zero_and_says_so() -> None:
    found = estimate_components(paired([[5, 3], [3, 5]], 10, [[0, 0], [0, 0]], personas=2))
    assert (found.persona, found.question) == (0.0, 0.0)
    assert any("persona variance was estimated as -0.0" in note for note in found.notes)
    assert any("question variance" in note for note in found.notes)


def test_a_single_completion_leaves_its_noise_in_the_interaction() -> None:
    found = estimate_components(paired([[1, 0], [0, 1]], 1, [[0, 0], [0, 0]], personas=2))
    assert found.completion is None and found.noise == 0.0
    assert found.interaction == pytest.approx(1.0)
    assert any("single completion" in note for note in found.notes)


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        (paired([1, 2, 3], 4, [0, 0, 0], personas=2, missing=1), "components.missing_cells"),
        (paired([1, 2, 3], 4, [0, 0, 0], personas=1), "components.too_few"),
        (paired([1, 2, 3], 4, [0, 0, 0], personas=3), "components.too_few"),
    ],
)
def test_tables_without_components_are_refused_by_name(cells: PairedCells, code: str) -> None:
    with refused(code):
        estimate_components(cells)


def test_the_variance_between_runs_is_theirs_less_the_completion_noise() -> None:
    components = Components(0.0, 0.0, 0.0, completion=0.4)
    runs = [paired([[n, n], [n, n]], 10, [[0, 0], [0, 0]], personas=2) for n in (2, 4, 6)]
    assert with_seed(components, runs).seed == pytest.approx(0.04 - 0.4 / 10 / 4)
    alike = with_seed(components, [runs[0], runs[0]])
    assert alike.seed == 0.0 and "seed variance" in alike.notes[0]
    with refused(("components.too_few_seeds", "seeds")):
        with_seed(components, runs[:1])


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_what_is_no_variance_is_refused(value: float) -> None:
    with refused(("components.variance", "variance component question")):
        dataclasses.replace(PUBLISHED, question=value)
