"""Personas in a plane that shows their measured distances: classical scaling, aligned between conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import orthogonal_procrustes

from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import Array

PLANE = 2
EIGENVALUE_ROUNDING = 1e-12
"""Eigenvalues below this share of the largest absolute one are rounding errors."""


@dataclass(frozen=True, eq=False)
class ConditionMap:
    """One condition's personas in the plane."""

    points_P2: Array
    """Coordinates, in the square root of the distances' unit; the personas' mean is the origin."""
    shown: float
    """Share of the variance that the plane shows: its part of the positive eigenvalues' sum."""
    stress: float
    """Kruskal's stress-1 of the plane's distances against the measured ones; negative squares count as 0."""
    negative: float
    """Share of the eigenvalues' absolute sum that is negative; those axes are left out."""
    unaligned: float | None
    """Squared distance that is left after alignment, over the squared size of both configurations, in [0, 1]; None for
    the reference."""


def persona_map(squared: Mapping[str, Array], reference: str) -> dict[str, ConditionMap] | None:
    """Place the personas of every condition in one plane, from squared distances (P, P) per condition.

    Torgerson's classical scaling: B = -J D J / 2 = V diag(l) V'. Unbiased squared distances are not Euclidean, so some
    l may be negative; those axes are left out, and `negative` reports their share. All positive dimensions together are
    rotated and mirrored onto those of `reference` by orthogonal Procrustes (Schönemann 1966), but not scaled, so that a
    contraction stays visible. All conditions are drawn in the plane of the reference's first two axes. Alignment in all
    dimensions keeps a contraction along one axis from exchanging axes.

    None where a distance is unknown, or where a condition has no positive distance or eigenvalue. Raises UserError for
    an absent reference and for conditions of different sizes.
    """
    if reference not in squared or len({d.shape for d in squared.values()}) != 1:
        raise UserError.one(
            "geometry.map",
            "persona map",
            f"no distances of {reference}, or different personas",
            "record the states of the same personas in all conditions",
        )
    if not all(np.isfinite(d).all() for d in squared.values()):
        return None
    scaled = {name: _scaling(d) for name, d in squared.items()}
    if not all((values > 0).any() for _, values in scaled.values()) or not all((d > 0).any() for d in squared.values()):
        return None
    target_PP = _mirrored(scaled[reference][0])
    return {
        name: _condition(scaled[name], squared[name], target_PP, is_reference=name == reference) for name in squared
    }


def _scaling(squared_PP: Array) -> tuple[Array, Array]:
    """Coordinates (P, P), 0 in columns of non-positive eigenvalues, and eigenvalues (P,), both in descending order."""
    centred = squared_PP - squared_PP.mean(axis=0)
    centred = centred - centred.mean(axis=1, keepdims=True)
    values_P, vectors_PP = np.linalg.eigh(-(centred + centred.T) / 4)
    values_P, vectors_PP = values_P[::-1], vectors_PP[:, ::-1]
    values_P = np.where(np.abs(values_P) > EIGENVALUE_ROUNDING * np.abs(values_P).max(), values_P, 0.0)
    return vectors_PP * np.sqrt(np.clip(values_P, 0, None)), values_P


def _mirrored(points_PP: Array) -> Array:
    """Make the largest coordinate of every axis positive, because the sign of an eigenvector is arbitrary."""
    largest = points_PP[np.abs(points_PP).argmax(axis=0), np.arange(points_PP.shape[1])]
    mirrored: Array = points_PP * np.where(largest < 0, -1.0, 1.0)
    return mirrored


def _condition(scaled: tuple[Array, Array], squared_PP: Array, target_PP: Array, *, is_reference: bool) -> ConditionMap:
    points_PP, values_P = scaled
    unaligned = None
    if is_reference:
        points_PP = target_PP
    else:
        turn_PP, _ = orthogonal_procrustes(points_PP, target_PP)
        points_PP = points_PP @ turn_PP
        both = float((points_PP**2).sum() + (target_PP**2).sum())
        unaligned = float(((points_PP - target_PP) ** 2).sum()) / both
    plane_P2 = np.zeros((len(points_PP), PLANE))
    plane_P2[:, : points_PP.shape[1]] = points_PP[:, :PLANE]
    return ConditionMap(
        points_P2=plane_P2,
        shown=float((plane_P2**2).sum() / values_P[values_P > 0].sum()),
        stress=_stress(plane_P2, squared_PP),
        negative=float(-values_P[values_P < 0].sum() / np.abs(values_P).sum()),
        unaligned=unaligned,
    )


def _stress(plane_P2: Array, squared_PP: Array) -> float:
    """sqrt(sum (d - distance in the plane)^2 / sum d^2) over pairs (Kruskal 1964)."""
    first, second = np.triu_indices(len(plane_P2), 1)
    measured = np.sqrt(np.clip(squared_PP[first, second], 0, None))
    drawn = np.linalg.norm(plane_P2[first] - plane_P2[second], axis=1)
    return float(np.sqrt(((drawn - measured) ** 2).sum() / (measured**2).sum()))
