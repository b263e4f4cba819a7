from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from flatprobe.training import weights
from flatprobe.training.weights import (
    change_of,
    cosines,
    effective_rank,
    leading_eigenvectors,
    leading_left,
    update_singular_values,
)

SHAPES = [(40, 40), (24, 60), (60, 24)]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense_cosines(changed: torch.Tensor, weight: torch.Tensor, leading: int) -> np.ndarray:
    """The definition, by numpy's full decompositions in double precision."""
    new = np.linalg.svd(changed.double().numpy(), full_matrices=False)[0][:, :leading]
    old = np.linalg.svd(weight.double().numpy(), full_matrices=False)[0]
    return np.abs(old.T @ new).max(0)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_s_norm_and_effective_rank_are_those_of_the_whole_product(shape: tuple[int, int]) -> None:
    weight, a, b = drawn(*shape), drawn(4, shape[1], seed=1), drawn(shape[0], 4, seed=2)
    change = change_of(weight, a, b, 0.3, leading=5, cosine=0.5)
    product = 0.3 * b.double().numpy() @ a.double().numpy()
    values = np.linalg.svd(product, compute_uv=False)
    assert update_singular_values(a, b, 0.3).numpy() == pytest.approx(values[:4], rel=1e-5)
    assert change.change_norm == pytest.approx(np.linalg.norm(product), rel=1e-5)
    assert change.norm_ratio == pytest.approx(
        np.linalg.norm(product) / np.linalg.norm(weight.numpy()), rel=1e-5
    )
    assert change.effective_rank == pytest.approx(math.exp(entropy(values[:4])), rel=1e-5)


@pytest.mark.parametrize("scale", [0.01, 0.3, 3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_cosines_and_intruders_are_those_of_dense_decompositions(
    shape: tuple[int, int], scale: float
) -> None:
    weight, a, b = drawn(*shape), drawn(3, shape[1], seed=1), drawn(shape[0], 3, seed=2)
    changed = weight + scale * b @ a
    expected = dense_cosines(changed, weight, 5)
    assert cosines(changed, weight, 5).numpy() == pytest.approx(expected, abs=2e-3)
    change = change_of(weight, a, b, scale, leading=5, cosine=0.6)
    assert change.least_cosine == pytest.approx(expected.min(), abs=2e-3)
    assert change.intruders == (expected < 0.6).sum()


def test_a_strong_new_direction_is_an_intruder_and_a_strengthened_old_one_is_not() -> None:
    left, values, right = torch.linalg.svd(drawn(30, 30))
    spread = left.sum(1, keepdim=True) / math.sqrt(30)  # equally far from every left singular vector
    new = change_of(left @ values.diag() @ right, right[:1], spread, 1e4, leading=3, cosine=0.5)
    assert new.intruders == 1
    assert new.least_cosine == pytest.approx(1 / math.sqrt(30), abs=0.005)
    old = change_of(left @ values.diag() @ right, right[:1], left[:, :1], 100.0, leading=3, cosine=0.5)
    assert (old.intruders, old.least_cosine) == (0, pytest.approx(1.0, abs=1e-3))


def test_an_update_of_nothing_has_no_effective_rank_and_no_intruder() -> None:
    change = change_of(drawn(20, 20), drawn(2, 20, seed=1), torch.zeros(20, 2), 2.0, leading=4, cosine=0.5)
    assert (change.change_norm, change.norm_ratio, change.effective_rank, change.intruders) == (
        0.0,
        0.0,
        None,
        0,
    )


def test_effective_rank_runs_from_one_to_the_number_of_equal_values() -> None:
    assert effective_rank(torch.tensor([3.0, 0.0, 0.0])) == pytest.approx(1.0)
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0])) == pytest.approx(3.0)
    assert effective_rank(torch.zeros(3)) is None


@pytest.mark.parametrize("shape", [(150, 130), (130, 150)])
def test_iterated_directions_are_those_of_the_decomposition(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    matrix = drawn(*shape) @ torch.diag(torch.arange(1, shape[1] + 1).float() ** -0.7)
    expected = torch.linalg.svd(matrix.double()).U[:, :6]
    decomposed = []
    plain = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: decomposed.append(len(m)) or plain(m))
    monkeypatch.setattr(weights, "SMALL", 10)
    found = leading_left(matrix, 6)
    assert max(decomposed) < min(shape)  # only the small projected matrix was
    assert (expected.float().T @ found).diag().abs().numpy() == pytest.approx(np.ones(6), abs=1e-3)


def test_directions_that_do_not_converge_are_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SMALL", 10)
    monkeypatch.setattr(weights, "ITERATIONS", 10)
    flat = torch.diag(1 + 1e-3 * torch.arange(200).float())
    found = leading_eigenvectors(flat, 3)
    assert found.abs().argmax(0).tolist() == [199, 198, 197]
