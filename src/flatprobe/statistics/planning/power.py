"""Rejection probabilities of a planned test.

The estimate is normal around the true difference and independent of the standard error; the error model has its values
in equally likely studies. Where the standard error matches the scope and the reference is t with the same degrees of
freedom, the test statistic is noncentral t.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from scipy import optimize, special

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.planning.expected_errors import ErrorModel

LEVEL_ROUNDING = 1e-9
"""An alpha that equals a level of the test up to rounding counts as that level, so it is not below it."""


def rejection(model: ErrorModel, delta: float, alpha: float, *, sd: float) -> float | None:
    """Probability of two-sided p < alpha at a true difference `delta`, with estimates of standard deviation `sd`.

    None where the smallest attainable p is not below `alpha`.
    """
    bound_N = _bounds(model, alpha)
    return None if bound_N is None else _two_sided(bound_N, delta, sd)


def passing(model: ErrorModel, delta: float, margin: float, p_below: float, *, sd: float) -> float | None:
    """Probability of estimate >= margin (not negative) together with p < p_below; None as for `rejection`."""
    bound_N = _bounds(model, p_below)
    if bound_N is None:
        return None
    return float(special.ndtr((delta - np.maximum(margin, bound_N)) / sd).mean())


def smallest_detectable(model: ErrorModel, alpha: float, power: float) -> float | None:
    """Smallest true difference detected with the target power within the scope.

    None where even 1 (100 pp) is not enough, or the smallest attainable p is not below `alpha`.
    """
    bound_N = _bounds(model, alpha)
    if bound_N is None or _two_sided(bound_N, 1.0, model.sd_in_scope) < power:
        return None

    def excess(delta: float) -> float:
        return _two_sided(bound_N, delta, model.sd_in_scope) - power

    return 0.0 if excess(0.0) >= 0 else float(optimize.brentq(excess, 0.0, 1.0, xtol=1e-7))


def _two_sided(bound_N: Array, delta: float, sd: float) -> float:
    tails_N = special.ndtr((delta - bound_N) / sd) + special.ndtr((-delta - bound_N) / sd)
    return float(tails_N.mean())


def _bounds(model: ErrorModel, alpha: float) -> Array | None:
    """The smallest absolute estimate with p < alpha, in each of the model's studies.

    A test with few levels is used at its largest level below alpha.
    """
    if model.smallest_attainable_p is not None and model.smallest_attainable_p >= alpha:
        return None
    level = alpha
    if model.levels is not None:
        level = (ceil(alpha * model.levels - LEVEL_ROUNDING) - 1) / model.levels
    if level <= 0:
        return np.full_like(model.errors_N, np.inf)
    quantile_N = special.ndtri(level / 2) if model.df_N is None else special.stdtrit(model.df_N, level / 2)
    bound_N: Array = -quantile_N * model.errors_N
    return bound_N
