"""What an adapter does to the weights: size, effective rank and intruder dimensions of each module's update.

The update of a LoRA is dW = scale * B A, of rank r at most, so its norm and singular values come from an r x r matrix
after QR of both factors. Only the comparison with the weight's own directions meets the whole matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL = 1024  # rows up to which a symmetric matrix is decomposed as fast as it is iterated
OVERSAMPLED = 20  # directions iterated beyond those that are wanted
ITERATIONS, BETWEEN_CHECKS = 300, 10
RESIDUAL = 1e-4  # of a converged direction, relative to its eigenvalue


@dataclass(frozen=True)
class Change:
    """What an update does to one weight matrix. Norms are Frobenius norms."""

    weight_norm: float
    change_norm: float
    norm_ratio: float
    effective_rank: float | None
    """exp of the entropy of the update's normalised singular values (Roy & Vetterli 2007); None without an update."""
    intruders: int
    least_cosine: float
    """The smallest over the leading directions of `cosines`: below the threshold exactly when there is an intruder."""


@torch.inference_mode()
def change_of(weight: Tensor, a: Tensor, b: Tensor, scale: float, *, leading: int, cosine: float) -> Change:
    """Measure one module's update.

    Intruder dimensions are those of Shuttleworth et al. 2024 (arXiv:2410.21228): of the `leading` left singular vectors
    of weight + update, those whose absolute cosine with every left singular vector of the weight is below `cosine`.

    Args:
        weight: [out, in], not zero.
        a: [r, in]; b: [out, r]; scale: alpha/r, or alpha/sqrt(r) with rank stabilisation.
    """
    weight, a, b = weight.float(), a.float(), b.float()
    values = update_singular_values(a, b, scale)
    norm, change = float(weight.norm()), float(values.norm())
    changed = weight + scale * (b @ a)
    greatest = cosines(changed, weight, min(leading, *weight.shape))
    return Change(
        weight_norm=norm,
        change_norm=change,
        norm_ratio=change / norm,
        effective_rank=effective_rank(values),
        intruders=int((greatest < cosine).sum()),
        least_cosine=float(greatest.min()),
    )


def update_singular_values(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """The singular values [r] of scale * b @ a, largest first, without forming the product."""
    _, right = torch.linalg.qr(a.T)
    _, left = torch.linalg.qr(b)
    values: Tensor = torch.linalg.svdvals(scale * (left @ right.T).double())
    return values


def effective_rank(values: Tensor) -> float | None:
    """exp(-sum p log p) with p = values / sum(values), between 1 and their number; None where all are 0."""
    total = values.sum()
    if total <= 0:
        return None
    shares = values[values > 0] / total
    return math.exp(float(-(shares * shares.log()).sum()))


def cosines(changed: Tensor, weight: Tensor, leading: int) -> Tensor:
    """Per leading left singular vector of `changed`, the greatest absolute cosine with any of the weight's: [leading].

    Exact, and mostly without the weight's whole decomposition: what is left of a unit vector outside some of the
    weight's directions bounds its cosine with every other one. Where that bound does not decide, all are computed.
    """
    vectors = leading_left(changed, leading)
    first = leading_left(weight, min(3 * leading, *weight.shape))
    found = (first.T @ vectors).square()
    greatest, rest = found.max(0).values, 1.0 - found.sum(0)
    open_ = greatest < rest
    if bool(open_.any()):
        every = all_left(weight)
        greatest[open_] = (every.T @ vectors[:, open_]).square().max(0).values
    return greatest.sqrt().clamp(max=1.0)


def leading_left(matrix: Tensor, count: int) -> Tensor:
    """The first left singular vectors [out, count], from the product of the matrix with itself over its longer side."""
    rows, columns = matrix.shape
    if rows <= columns:
        return leading_eigenvectors(matrix @ matrix.T, count)
    images = matrix @ leading_eigenvectors(matrix.T @ matrix, count)
    vectors: Tensor = images / images.norm(dim=0)
    return vectors


def leading_eigenvectors(symmetric: Tensor, count: int) -> Tensor:
    """Eigenvectors [n, count] of the largest eigenvalues of an [n, n] matrix without negative ones, largest first.

    Large matrices are iterated on; small ones, and those on which that is slow, are decomposed.
    """
    large = len(symmetric) > max(SMALL, 2 * (count + OVERSAMPLED))
    found = _iterated(symmetric, count) if large else None
    vectors: Tensor = torch.linalg.eigh(symmetric).eigenvectors if found is None else found
    return vectors[:, -count:].flip(1)


def _iterated(symmetric: Tensor, count: int) -> Tensor | None:
    """The same by subspace iteration, largest last, or None where the last `count` do not converge.

    Starts from a fixed draw, so that the same matrix gives the same vectors.
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(len(symmetric), count + OVERSAMPLED, generator=generator).to(symmetric.device)
    for step in range(1, ITERATIONS + 1):
        basis = torch.linalg.qr(symmetric @ basis).Q
        if step % BETWEEN_CHECKS:
            continue
        image = symmetric @ basis
        values, turn = torch.linalg.eigh(basis.T @ image)
        vectors: Tensor = basis @ turn
        residual = (image @ turn - vectors * values).norm(dim=0)
        if bool((residual < RESIDUAL * values)[-count:].all()):
            return vectors
    return None


def all_left(matrix: Tensor) -> Tensor:
    """All left singular vectors [out, min(out, in)], largest singular value first."""
    vectors: Tensor = torch.linalg.svd(matrix, full_matrices=False).U
    return vectors
