"""What each estimator can show on a planned design, and which designs would show more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flatprobe.errors import Problem, UserError
from flatprobe.statistics.leakage.estimators import SCOPES
from flatprobe.statistics.leakage.seeds import SEED_SCOPES
from flatprobe.statistics.planning.components import Components
from flatprobe.statistics.planning.expected_errors import error_model
from flatprobe.statistics.planning.mean_squares import Design
from flatprobe.statistics.planning.power import passing, rejection, smallest_detectable

Factor = Literal["personas", "questions", "completions", "seeds"]
FACTORS: tuple[Factor, ...] = ("personas", "questions", "completions", "seeds")

ENDLESS = 1_000_000
"""Stands for an unlimited number."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What an estimator can detect on a design, as differences of rates (0.1 is 10 pp). Missing numbers have a note."""

    estimator: str
    scope: str
    standard_error: float | None = None
    """Root mean square of the standard errors that it reports."""
    df: float | None = None
    """Degrees of freedom of its reference t distribution; None if the reference is another distribution."""
    smallest_attainable_p: float | None = None
    """Smallest p that it can return; None if there is no floor."""
    sd_in_population: float | None = None
    """Standard deviation of the estimate over new personas and questions; above the standard error where the scope is
    narrower."""
    mde: float | None = None
    """Smallest true difference detected with the target power at `alpha`, within the scope."""
    mde_registered: float | None = None
    """The same at the registered p."""
    power_at_margin: float | None = None
    """Probability of p < alpha, within the scope, at a true difference equal to the margin."""
    size_in_population: float | None = None
    """Probability of p < alpha over new personas and questions without an average difference: the true size if p is
    read as a statement about them."""
    note: str | None = None
    """Why a number is None."""


@dataclass(frozen=True)
class LegForecast:
    """Probability that the registered leg passes (estimate >= margin and p < p_below) at a true difference."""

    truth: float
    in_scope: float
    """Truth is the mean within the deciding estimator's scope."""
    in_population: float
    """Truth is the mean over all personas and questions; at truth 0, this is the rule's true size."""


@dataclass(frozen=True)
class Need:
    """How many of one factor give the target power, with the other factors unchanged."""

    estimator: str
    factor: Factor
    now: int
    needed: int | None
    """None if no number is enough."""
    standard_error_left: float | None
    """Standard error with unlimited numbers of the factor."""
    df_left: float | None
    """Its degrees of freedom."""
    note: str | None = None
    """Why the estimator does not apply to such designs."""


def forecasts(
    design: Design, components: Components, *, margin: float, p_below: float, alpha: float, power: float
) -> list[Forecast]:
    """One row per leakage estimator; the seed estimators only if the variance between training runs is known."""
    _check(alpha=alpha, power=power)
    names = [*SCOPES, *(SEED_SCOPES if components.seed is not None else ())]
    return [_forecast(name, design, components, margin, p_below, alpha, power) for name in names]


def _forecast(
    name: str, design: Design, components: Components, margin: float, p_below: float, alpha: float, power: float
) -> Forecast:
    model = error_model(name, design, components)
    if isinstance(model, str):
        return Forecast(estimator=name, scope={**SCOPES, **SEED_SCOPES}[name], note=f"no forecast: {model}")
    floor = model.smallest_attainable_p
    mde, strict = (smallest_detectable(model, level, power) for level in (alpha, p_below))
    unknown = [level for level, found in ((alpha, mde), (p_below, strict)) if found is None]
    missed = [level for level in unknown if floor is not None and floor >= level]
    beyond = [level for level in unknown if level not in missed]
    notes = [
        f"its smallest attainable p is {floor:.2g}: {_levels(missed)} is impossible" if missed else "",
        f"even 100 pp is detected with less than the target power at {_levels(beyond)}" if beyond else "",
    ]
    return Forecast(
        estimator=name,
        scope=model.scope,
        standard_error=model.standard_error,
        df=model.df,
        smallest_attainable_p=floor,
        sd_in_population=model.sd_in_population,
        mde=mde,
        mde_registered=strict,
        power_at_margin=rejection(model, margin, alpha, sd=model.sd_in_scope),
        size_in_population=rejection(model, 0.0, alpha, sd=model.sd_in_population),
        note="; ".join(note for note in notes if note) or None,
    )


def _levels(levels: Sequence[float]) -> str:
    return " and ".join(f"p < {level:g}" for level in levels)


def leg_forecasts(
    design: Design, components: Components, *, estimator: str, margin: float, p_below: float, truths: Sequence[float]
) -> list[LegForecast] | str:
    """How often the registered behavioural leg passes at each truth, or the reason why it cannot."""
    model = error_model(estimator, design, components)
    if isinstance(model, str):
        return model
    rows = []
    for truth in truths:
        shares = [passing(model, truth, margin, p_below, sd=sd) for sd in (model.sd_in_scope, model.sd_in_population)]
        if shares[0] is None or shares[1] is None:
            return f"the smallest attainable p is {model.smallest_attainable_p:.2g}"
        rows.append(LegForecast(truth, shares[0], shares[1]))
    return rows


def designs_reaching(
    power: float,
    design: Design,
    components: Components,
    *,
    effect: float,
    alpha: float,
    estimator: str = "crossed_anova",
) -> list[Need]:
    """Smallest number of personas, questions, completions or seeds, each alone, that reaches the target power."""
    _check(alpha=alpha, power=power)

    def reached(factor: Factor, number: int) -> bool:
        model = error_model(estimator, replace(design, **{factor: number}), components)
        found = None if isinstance(model, str) else rejection(model, effect, alpha, sd=model.sd_in_scope)
        return found is not None and found >= power

    return [_need(estimator, factor, design, components, reached) for factor in FACTORS]


def _need(
    estimator: str, factor: Factor, design: Design, components: Components, reached: Callable[[Factor, int], bool]
) -> Need:
    endless = error_model(estimator, replace(design, **{factor: ENDLESS}), components)
    now = getattr(design, factor)
    if isinstance(endless, str):
        return Need(estimator, factor, now, None, None, None, endless)
    return Need(estimator, factor, now, _smallest(factor, reached), endless.standard_error, endless.df)


def _smallest(factor: Factor, reached: Callable[[Factor, int], bool]) -> int | None:
    """Bisection: power rises with every factor."""
    if not reached(factor, ENDLESS):
        return None
    low, high = 0, 1
    while high < ENDLESS and not reached(factor, high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(factor, middle) else (middle, high)
    return high


def _check(**shares: float) -> None:
    wrong = {name: value for name, value in shares.items() if not 0 < value < 1}
    if wrong:
        raise UserError(
            [Problem("design.probability", name, f"{value} is not between 0 and 1") for name, value in wrong.items()]
        )
