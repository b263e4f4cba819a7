"""A population of personas and questions with exactly known rates and variance components.

Condition c answers persona p on question q with the marker with probability
p_c[p, q] = Phi(b_c + u_c[p] + v_c[q] + w_c[p, q]), where all effects are normal and independent,
between the conditions too. All required moments have a closed form:

- E Phi(b + N(0, t^2)) = Phi(b / sqrt(1 + t^2)), so b_c is chosen to make the population's rate exactly r_c;
- two values of p_c that share effects of latent variance s^2 have E[p p'] = Phi2(h, h; s^2 / (1 + t^2)) with
  h = Phi^-1(r_c), so the variance of p_c between personas, between questions and in total is Phi2 - r_c^2.

With equal rates the two conditions are exchangeable, so the null of no difference holds exactly, not on average.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, owens_t

from flatprobe.errors import UserError
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.planning.components import PUBLISHED, Components

BASE_RATE = 0.4246
"""Mean of the two conditions' rates: the midpoint of the published ones (57.6 % and 27.4 %)."""
MILD = 0.1
"""Share of the published persona and question variance in the regime `mild`."""
_INSEPARABLE = 1e-9


@dataclass(frozen=True)
class Truth:
    """A population: rates of the two conditions, and the latent variances of both."""

    rates_C: tuple[float, float]
    """Population rates of the treated and the control condition, in (0, 1)."""
    persona: float
    """Latent variance between personas."""
    question: float
    """Latent variance between questions."""
    interaction: float
    """Latent variance of a persona on a question."""

    @property
    def difference(self) -> float:
        """Population difference of rates, treated minus control, free of rounding errors."""
        return round(self.rates_C[0] - self.rates_C[1], 12)

    @property
    def intercepts_C(self) -> Array:
        """b_c, shape (2,), for which the population's rate is exactly r_c."""
        total = self.persona + self.question + self.interaction
        intercepts: Array = ndtri(np.array(self.rates_C)) * (1 + total) ** 0.5
        return intercepts

    def expected_rate_C(self, effects: Array, variance: float) -> Array:
        """E[p_c] given latent effects of this variance, shape (2, ...), first axis the condition.

        The rest of the latent variance is integrated out in closed form.
        """
        rest = self.persona + self.question + self.interaction - variance
        shape = (2,) + (1,) * (effects.ndim - 1)
        rates: Array = ndtr((self.intercepts_C.reshape(shape) + effects) / (1 + rest) ** 0.5)
        return rates

    def components(self) -> Components:
        """The population's variance components of the difference of rates, in closed form."""
        unit = 1 + self.persona + self.question + self.interaction
        persona = shared_variance(self.persona / unit, self.rates_C)
        question = shared_variance(self.question / unit, self.rates_C)
        total = shared_variance(1 - 1 / unit, self.rates_C)
        return Components(
            persona=persona,
            question=question,
            interaction=max(total - persona - question, 0.0),
            completion=_binomial(self.rates_C) - total,
        )


def shared_variance(correlation: float, rates_C: tuple[float, float]) -> float:
    """Variance of the difference of rates due to effects of this latent correlation, summed over conditions.

    Phi2(h, h; rho) = Phi(h) - 2 T(h, sqrt((1 - rho) / (1 + rho))) with Owen's T (Owen 1956, AMS 27(4)).
    """
    if correlation <= 0:
        return 0.0
    rates = np.array(rates_C)
    joint = rates - 2 * owens_t(ndtri(rates), ((1 - correlation) / (1 + correlation)) ** 0.5)
    return float((joint - rates**2).sum())


def calibrate(components: Components, difference: float, base_rate: float = BASE_RATE) -> Truth:
    """The population with this difference of rates and these variance components.

    The rates are `base_rate` plus and minus half the difference. `components.completion` is not read, because the rates
    and the other components determine it. Raises UserError where no such population exists.
    """
    rates_C = (base_rate + difference / 2, base_rate - difference / 2)
    if not all(0 < rate < 1 for rate in rates_C):
        raise UserError.one(
            "simulation.truth",
            "truth",
            f"a difference of {difference} needs rates of {rates_C[0]:.3f} and {rates_C[1]:.3f}",
            "rates lie between 0 and 1",
        )
    variances = (components.persona, components.question, components.interaction)
    if min(variances) < 0 or sum(variances) >= _binomial(rates_C):
        raise UserError.one(
            "simulation.components",
            "variance",
            f"components {variances} do not fit rates of {rates_C[0]:.3f} and {rates_C[1]:.3f}",
            f"they must be 0 or more, and less than {_binomial(rates_C):.3f} together",
        )
    persona, question = (_correlation(value, rates_C) for value in variances[:2])
    total = _correlation(sum(variances), rates_C)
    interaction = total - persona - question
    if interaction < -_INSEPARABLE:
        raise UserError.one(
            "simulation.interaction",
            "variance",
            f"an interaction of {components.interaction:.4f} is too small: persona and question effects of this size "
            f"imply more at rates of {rates_C[0]:.3f} and {rates_C[1]:.3f}",
            "raise the interaction, or lower the others",
        )
    unit = 1 / (1 - total)
    return Truth(rates_C, persona * unit, question * unit, max(interaction, 0.0) * unit)


def regime(name: str) -> Components:
    """The variance components of a named regime: `none`, `mild` or `parent` (the published ones).

    In `none` cells are independent: there is no variance between personas or between questions. Raises UserError for
    another name.
    """
    shares = {"none": 0.0, "mild": MILD, "parent": 1.0}
    if name not in shares:
        raise UserError.one("simulation.regime", "variance", f"{name!r} is unknown", f"one of {', '.join(shares)}")
    return Components(
        persona=shares[name] * PUBLISHED.persona,
        question=shares[name] * PUBLISHED.question,
        interaction=PUBLISHED.interaction,
        completion=PUBLISHED.completion,
    )


def _binomial(rates_C: tuple[float, float]) -> float:
    return sum(rate * (1 - rate) for rate in rates_C)


def _correlation(variance: float, rates_C: tuple[float, float]) -> float:
    """The latent correlation that gives this variance of the difference of rates."""
    if variance == 0:
        return 0.0
    return float(brentq(lambda rho: shared_variance(rho, rates_C) - variance, 0.0, 1.0, xtol=1e-13))
