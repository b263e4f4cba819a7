"""Randomisation test over personas: under the null, the sign of each persona's difference is a coin toss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flatprobe.statistics.bootstrap import Array, chunk_sizes
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.inference import ZERO, Options, join_notes

EXACT_PERSONAS = 16
"""Up to this many personas, all 2^n sign patterns are enumerated; above it, patterns are drawn."""


def persona_sign_flip(
    blank: Estimate, d_PQ: Array, n_PQ: Array | None, options: Options, generator: np.random.Generator
) -> Estimate:
    """Randomisation test of personas whose differences are symmetric about the null.

    It flips the signs of the personas' sums, so missing cells are allowed. The observed signs are one of the patterns.
    Tests against a margin are one-sided, on sums shifted by the margin.
    """
    cells_P = np.full(len(d_PQ), float(d_PQ.shape[1])) if n_PQ is None else n_PQ.sum(axis=1)
    share_P, cells_P = d_PQ.sum(axis=1) / cells_P.sum(), cells_P / cells_P.sum()
    exact = len(share_P) <= EXACT_PERSONAS
    patterns = 2 ** len(share_P) if exact else options.resamples
    margin, equivalence = options.margin, options.equivalence_margin

    def tail(values_P: Array, two_sided: bool = False) -> float:
        flipped = _flipped(values_P, patterns, None if exact else generator)
        observed = float(values_P.sum())
        extreme = np.abs(flipped) >= abs(observed) - ZERO if two_sided else flipped >= observed - ZERO
        count = int(extreme.sum())
        return count / patterns if exact else (1 + count) / (patterns + 1)

    drawn = None if exact else f"{patterns} sign patterns were drawn"
    return replace(
        blank,
        estimate=float(share_P.sum()),
        p_value=tail(share_P, two_sided=True),
        smallest_attainable_p=2 / patterns if exact else 1 / (patterns + 1),
        resamples=patterns,
        margin=margin,
        superiority_p=None if margin is None else tail(share_P - margin * cells_P),
        equivalence_margin=equivalence,
        equivalence_p=None
        if equivalence is None
        else max(tail(share_P + equivalence * cells_P), tail(equivalence * cells_P - share_P)),
        note=join_notes(blank.note, "this test has no interval", drawn),
    )


def _flipped(values_P: Array, patterns: int, generator: np.random.Generator | None) -> Array:
    """Sums of `values_P` under every sign pattern, or under `patterns` drawn ones if there is a generator."""
    if generator is None:
        sums = np.zeros(1)
        for value in values_P:
            sums = np.concatenate([sums + value, sums - value])
        return sums
    return np.concatenate(
        [
            (2.0 * generator.integers(0, 2, size=(size, len(values_P))) - 1.0) @ values_P
            for size in chunk_sizes(len(values_P), patterns)
        ]
    )
