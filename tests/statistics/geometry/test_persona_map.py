"""The persona map: classical scaling of distances that may be negative, aligned without scaling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from flatprobe.errors import UserError
from flatprobe.statistics.geometry.persona_map import persona_map


def squared(points: np.ndarray) -> np.ndarray:
    return squareform(pdist(points, "sqeuclidean"))


@pytest.fixture
def points() -> np.ndarray:
    """Seven personas in three dimensions, ever flatter."""
    return np.random.default_rng(1).normal(size=(7, 3)) * [3.0, 1.5, 0.4]


def test_distances_of_a_plane_are_kept_and_all_variance_is_shown(points: np.ndarray) -> None:
    flat = points * [1, 1, 0]
    maps = persona_map({"base": squared(flat)}, "base")
    assert maps is not None
    base = maps["base"]
    assert pdist(base.points_P2) == pytest.approx(pdist(flat))
    assert base.points_P2.mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert (base.shown, base.stress, base.negative) == pytest.approx((1, 0, 0), abs=1e-12)
    assert base.unaligned is None


def test_the_plane_shows_the_two_largest_principal_components(points: np.ndarray) -> None:
    maps = persona_map({"base": squared(points)}, "base")
    assert maps is not None
    values = np.linalg.svd(points - points.mean(0), compute_uv=False) ** 2
    assert maps["base"].shown == pytest.approx(values[:2].sum() / values.sum())
    assert 0 < maps["base"].stress < 0.2


def test_a_rotated_and_mirrored_condition_coincides_with_the_reference(points: np.ndarray) -> None:
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0] @ np.diag([1, 1, -1])
    maps = persona_map({"base": squared(points), "treated": squared(points @ turn + 5)}, "base")
    assert maps is not None
    assert maps["treated"].points_P2 == pytest.approx(maps["base"].points_P2, abs=1e-9)
    assert maps["treated"].unaligned == pytest.approx(0, abs=1e-12)


def test_a_contraction_stays_a_contraction_even_along_the_longest_axis_alone(points: np.ndarray) -> None:
    maps = persona_map(
        {name: squared(points * [factor, 1, 1]) for name, factor in (("base", 1.0), ("treated", 0.1))}, "base"
    )
    assert maps is not None
    base, treated = (maps[name].points_P2.std(axis=0) for name in ("base", "treated"))
    assert treated[0] < 0.3 * base[0]  # in its own plane the third axis would come second
    assert treated[1] == pytest.approx(base[1], rel=0.25)
    halved = persona_map({"base": squared(points), "treated": squared(points / 2)}, "base")
    assert halved is not None
    assert halved["treated"].points_P2 == pytest.approx(halved["base"].points_P2 / 2)


def test_negative_eigenvalues_are_left_out_and_their_share_is_reported() -> None:
    distances = 1.0 - np.eye(4)
    distances[0, 1] = distances[1, 0] = -1.0
    centring = np.eye(4) - 0.25
    values = np.linalg.eigvalsh(-0.5 * centring @ distances @ centring)
    maps = persona_map({"base": distances}, "base")
    assert maps is not None
    assert maps["base"].negative == pytest.approx(-values[values < -1e-9].sum() / np.abs(values).sum())
    assert maps["base"].negative > 0.2
    positive = np.sort(values[values > 1e-9])[::-1]
    assert maps["base"].shown == pytest.approx(positive[:2].sum() / positive.sum())


def test_two_personas_lie_on_a_line() -> None:
    maps = persona_map({"base": np.array([[0.0, 4.0], [4.0, 0.0]])}, "base")
    assert maps is not None
    assert np.sort(maps["base"].points_P2[:, 0]) == pytest.approx([-1, 1])
    assert maps["base"].points_P2[:, 1] == pytest.approx(0)


def test_unknown_distances_and_indistinguishable_personas_have_no_map(points: np.ndarray) -> None:
    unknown = squared(points)
    unknown[0, 1] = np.nan
    assert persona_map({"base": squared(points), "treated": unknown}, "base") is None
    assert persona_map({"base": np.eye(3) - 1.0}, "base") is None


def test_another_reference_or_other_personas_are_refused(points: np.ndarray) -> None:
    for distances in ({"treated": squared(points)}, {"base": squared(points), "treated": squared(points[:4])}):
        with pytest.raises(UserError) as raised:
            persona_map(distances, "base")
        assert [(problem.code, problem.place) for problem in raised.value.problems] == [("geometry.map", "persona map")]


def test_without_a_positive_distance_there_is_no_map_though_an_eigenvalue_is_positive() -> None:
    squared = np.array([[0.0, -1.0, -1.0], [-1.0, 0.0, -9.0], [-1.0, -9.0, 0.0]])
    centring = np.eye(3) - 1 / 3
    assert np.linalg.eigvalsh(-centring @ squared @ centring / 2).max() > 0.1
    assert persona_map({"base": squared}, "base") is None
