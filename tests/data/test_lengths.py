from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from flatprobe.data.lengths import (
    Selection,
    common_density,
    excess,
    match,
    outside,
    select,
    settle,
    summarise,
    target_quantiles,
)

LENGTHS = st.lists(st.integers(1, 60), min_size=3, max_size=30).map(np.array)


def surplus(centre: float, spread: float, n: int, seed: int) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(centre, spread, n), 1, None).astype(np.int64)


def test_groups_with_different_lengths_are_selected_to_agree_within_the_tolerance() -> None:
    groups = {"a": surplus(40, 12, 600, 0), "b": surplus(48, 10, 600, 1), "c": surplus(44, 16, 600, 2)}
    selections = match(groups, dict.fromkeys(groups, 150))
    assert selections is not None
    selected = {name: groups[name][selection.index] for name, selection in selections.items()}
    pooled = np.concatenate(list(selected.values()))
    unmatched = summarise(groups["b"], np.concatenate(list(groups.values())))
    assert unmatched.ks_distance > 0.1
    for lengths in selected.values():
        summary = summarise(lengths, pooled)
        assert summary.count == 150
        assert abs(summary.relative_median) < 0.03
        assert abs(summary.relative_iqr) < 0.10
        assert summary.ks_distance < 0.05


@given(LENGTHS, LENGTHS, st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_each_answer_is_selected_at_most_once_and_as_many_as_requested_if_they_exist(
    a: np.ndarray, b: np.ndarray, size: int
) -> None:
    selections = match({"a": a, "b": b}, {"a": size, "b": size})
    if common_density([a, b])[1].sum() == 0:
        assert selections is None
        return
    assert selections is not None
    for name, lengths in (("a", a), ("b", b)):
        index = selections[name].index
        assert len(set(index.tolist())) == len(index) == min(size, len(lengths))
        assert index.max() < len(lengths)


def test_groups_without_a_common_length_have_no_match() -> None:
    assert match({"short": np.array([3, 4, 5]), "long": np.array([90, 95])}, {"short": 1, "long": 1}) is None


def test_the_target_lies_under_every_group_and_sums_to_one() -> None:
    edges, density = common_density([np.array([2, 2, 2, 2]), np.array([2, 2, 2])])
    assert edges[:3].tolist() == [0, 4, 8]
    assert density.tolist() == pytest.approx([1, *[0] * (len(density) - 1)])
    left, right = surplus(20, 3, 500, 5), surplus(60, 3, 500, 6)
    both = common_density([np.concatenate([left, right]), left])
    centre = float((both[1] * (both[0][:-1] + both[0][1:]) / 2).sum())
    assert both[1].sum() == pytest.approx(1)
    assert centre == pytest.approx(20, abs=3)  # the target has no mass where only one group has lengths


def test_small_groups_of_similar_lengths_share_support_without_a_common_length() -> None:
    groups = {"a": np.array([11, 20, 33, 47]), "b": np.array([16, 25, 38, 52]), "c": np.array([14, 22, 29, 41])}
    assert match(groups, dict.fromkeys(groups, 2)) is not None


def test_target_quantiles_are_linear_inside_a_bin_and_never_in_an_empty_one() -> None:
    edges, density = np.arange(0.0, 24.0, 4), np.array([0.0, 0.5, 0.0, 0.5, 0.0])
    assert target_quantiles(edges, density, 4).tolist() == pytest.approx([5, 7, 13, 15])


def test_the_selection_has_the_smallest_total_distance_to_the_targets() -> None:
    lengths = np.array([10, 11, 30, 50])
    assert select(lengths, np.array([10.4, 10.6])).index.tolist() == [0, 1]
    far = select(lengths, np.array([49.0, 11.0, 40.0]))
    assert (far.index.tolist(), far.targets.tolist()) == ([1, 2, 3], [11.0, 40.0, 49.0])


def test_groups_outside_the_tolerance_differ_from_the_pooled_lengths() -> None:
    same = surplus(40, 10, 300, 1)
    assert outside({"a": same, "b": same}, 0.0) == set()
    assert outside({"a": same, "b": same, "c": surplus(60, 10, 100, 2)}, 0.10) == {"c"}


def test_a_summary_agrees_with_numpy_and_scipy() -> None:
    lengths, pooled = surplus(40, 9, 50, 3), surplus(44, 12, 300, 4)
    summary = summarise(lengths, pooled)
    assert summary.median == np.median(lengths)
    assert summary.iqr == np.subtract(*np.percentile(lengths, [75, 25]))
    assert summary.ks_distance == ks_2samp(lengths, pooled).statistic
    assert summary.relative_median == pytest.approx(np.median(lengths) / np.median(pooled) - 1)


def test_spread_relative_to_a_pool_without_spread_is_in_tokens() -> None:
    pooled = np.full(100, 7)
    assert summarise(np.array([3, 7, 20]), pooled).relative_iqr == 8.5  # quartiles 5 and 13.5
    assert summarise(np.full(5, 7), pooled).relative_iqr == 0.0


def test_an_excess_ignores_one_token_and_is_relative_to_the_pool() -> None:
    pooled = np.array([10, 20, 20, 20, 30])  # quartiles 20 and 20
    assert excess(np.full(5, 21), pooled) == (0.0, 0.0)
    assert excess(np.full(5, 17), pooled) == (pytest.approx(2 / 20), 0.0)
    assert excess(np.array([18, 18, 20, 22, 22]), pooled) == (0.0, pytest.approx(3.0))
    wide = np.array([10, 15, 20, 25, 30])
    assert excess(np.array([12, 13, 20, 27, 28]), wide) == (0.0, pytest.approx(3 / 10))


def selected_lengths(groups: dict[str, np.ndarray], selections: dict[str, Selection]) -> dict[str, np.ndarray]:
    return {name: groups[name][selection.index] for name, selection in selections.items()}


def test_small_groups_outside_the_tolerance_exchange_answers_until_they_are_within() -> None:
    groups = {f"g{seed}": surplus(40, 8, 24, seed) for seed in range(12)}
    matched = match(groups, dict.fromkeys(groups, 8))
    assert matched is not None
    before = outside(selected_lengths(groups, matched), 0.1)
    settled = settle(groups, matched, 0.1)
    assert before and not outside(selected_lengths(groups, settled), 0.1)
    for name, selection in settled.items():
        assert len(set(selection.index.tolist())) == 8 and (np.diff(selection.index) > 0).all()
        assert sorted(selection.targets) == pytest.approx(sorted(matched[name].targets))


def test_groups_that_no_exchange_improves_stay_unchanged() -> None:
    groups = {"a": np.array([10, 10, 10, 10]), "b": np.array([30, 30, 30, 30])}
    selections = {name: Selection(np.array([0, 1]), np.array([20.0, 20.0])) for name in groups}
    settled = settle(groups, selections, 0.1)
    selected = selected_lengths(groups, settled)
    assert selected["a"].tolist() == [10, 10]
    assert outside(selected, 0.1) == {"a", "b"}


def test_groups_within_the_tolerance_stay_unchanged() -> None:
    groups = {"a": surplus(40, 12, 600, 0), "b": surplus(41, 12, 600, 1)}
    matched = match(groups, dict.fromkeys(groups, 150))
    assert matched is not None
    settled = settle(groups, matched, 0.1)
    for name in groups:
        assert settled[name].index.tolist() == matched[name].index.tolist()
