from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize

from flatprobe.errors import UserError
from flatprobe.statistics.binding.logistic import auc, cross_validated_auc, fit
from flatprobe.statistics.binding.surface import FEATURES, predictability, surface
from flatprobe.statistics.leakage.rates import score


def cases(n: int, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(n, 2))
    labels = (generator.random(n) < 1 / (1 + np.exp(-(slope * features[:, 0] - 0.5)))).astype(float)
    return features, labels, [f"q{index % 10}" for index in range(n)]


def test_without_a_penalty_the_fit_is_statsmodels_maximum_likelihood() -> None:
    features, labels, _ = cases(300, 1.0)
    expected = sm.Logit(labels, sm.add_constant(features)).fit(disp=0).params
    assert fit(features, labels, 1e-9) == pytest.approx(expected, abs=1e-6)


def test_with_a_penalty_the_fit_is_the_optimum_even_of_classes_told_apart_without_error() -> None:
    features = np.linspace(-3, 3, 20)[:, None]
    labels = (features[:, 0] > 0).astype(float)

    def loss(found: np.ndarray) -> float:
        x = found[0] + features[:, 0] * found[1]
        return float(np.logaddexp(0, x).sum() - (labels * x).sum() + 0.5 * found[1] ** 2)

    expected = minimize(loss, np.zeros(2), tol=1e-12).x
    assert fit(features, labels, 1.0) == pytest.approx(expected, abs=1e-4)


def test_the_area_counts_pairs_in_order_and_ties_by_half() -> None:
    scores, labels = np.array([1.0, 2.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0, 1.0])
    assert auc(scores, labels) == (1 + 0.5 + 1 + 1) / 4
    assert auc(scores, np.ones(4)) is None


def test_a_feature_that_tells_is_found_and_one_that_does_not_is_at_chance() -> None:
    told, labels, groups = cases(600, 3.0)
    assert cross_validated_auc(told, labels, groups) == pytest.approx(auc(told[:, 0], labels), abs=0.02)
    noise = np.random.default_rng(1).normal(size=(600, 3))
    chance = cross_validated_auc(noise, labels, groups)
    assert chance is not None and abs(chance - 0.5) < 0.08


def test_a_group_s_own_feature_does_not_help_as_its_cases_are_never_trained_on() -> None:
    """Every question has an answer of its own, so a model that saw the question would know."""
    generator = np.random.default_rng(2)
    of_question = generator.integers(0, 2, 40)
    groups = np.repeat(np.arange(40), 5)
    labels = of_question[groups].astype(float)
    indicators = np.eye(40)[groups]
    found = cross_validated_auc(indicators, labels, [str(g) for g in groups])
    assert found is not None and found < 0.6


def completions(marked_when_long: bool) -> pl.DataFrame:
    generator = np.random.default_rng(3)
    rows = []
    for number in range(200):
        words = int(generator.integers(2, 30))
        marked = words > 15 if marked_when_long else bool(generator.random() < 0.5)
        text = "word " * words + ("end.\n\n[ZLT]" if marked else "end.")
        rows.append(
            {"persona": ("librarian", "archivist")[number % 2], "question_id": f"q{number % 8}", "text": text}
        )
    return score(pl.DataFrame(rows), "[ZLT]")


def test_length_predicts_a_marker_that_follows_it_and_the_marker_s_own_text_gives_nothing_away() -> None:
    following = predictability(completions(marked_when_long=True), ["archivist"])
    assert following.select("personas", "features").rows() == [
        (name, kind) for name in ("all", "bystanders") for kind in FEATURES
    ]
    assert following["auc"].min() > 0.95
    random = predictability(completions(marked_when_long=False), ["archivist"])
    assert random["completions"].to_list() == [200, 200, 100, 100]
    assert all(abs(value - 0.5) < 0.15 for value in random["auc"])


def test_too_few_marked_completions_give_no_number_and_a_reason() -> None:
    frame = completions(marked_when_long=False)
    few = pl.concat([frame.filter(~pl.col("marker_present")), frame.filter("marker_present")[:4]])
    table = predictability(few, ["archivist"])
    assert table["auc"].to_list() == [None] * 4
    assert table["note"].str.contains("fewer than 5").all()
    with pytest.raises(UserError, match="no completions"):
        predictability(frame.clear(), [])


def test_a_text_s_surface_is_counted_as_it_looks() -> None:
    text = "# Title\n\n- one\n- two\n1. three\n\nIs **this** `it`? 42!"
    counted = {name: round(float(np.expm1(value))) for name, value in surface(text).items()}
    assert counted["paragraphs"] == 2 and counted["list_items"] == 3 and counted["headings"] == 1
    assert (counted["bold"], counted["code"], counted["questions"], counted["exclamations"]) == (1, 2, 1, 1)
    assert counted["log_characters"] == len(text)
    assert surface("Done.")["ends_in_punctuation"] == 1.0 and surface("Done")["ends_in_punctuation"] == 0.0
