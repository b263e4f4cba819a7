"""Output of `flatprobe plan`: what a design can detect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from flatprobe import console
from flatprobe.cli.plan_components import Sourced
from flatprobe.report.numbers import decimal, p_value, percent, plain_points
from flatprobe.statistics.planning.components import Components
from flatprobe.statistics.planning.forecasts import Forecast, LegForecast, Need
from flatprobe.statistics.planning.mean_squares import Design


@dataclass(frozen=True)
class GeometryForecast:
    """What is known about the geometric leg before its states exist."""

    measure: str
    smallest_attainable_p: float
    """Of the question bootstrap."""
    threshold: float
    standard_error: float | None
    """Of the deciding measure in an earlier run, for this design's number of questions."""
    mde: float | None
    """Smallest effect whose interval excludes 0 with the target power, in the measure's units."""
    note: str
    """Source of the standard error, or what is missing."""


@dataclass(frozen=True)
class Detectable:
    """Everything that is printed, in differences of rates."""

    design: Design
    sourced: Sourced
    alpha: float
    power: float
    margin: float
    p_below: float
    deciding: str
    """The registered estimator."""
    forecasts: Sequence[Forecast]
    leg: Sequence[LegForecast] | str
    """The registered leg at several true differences, or why it cannot pass."""
    needs: Sequence[Need]
    geometry: GeometryForecast


def show(detectable: Detectable) -> None:
    """Print the design, its variance components, and the forecasts."""
    design = detectable.design
    console.say()
    console.say("What this design can detect", style="bold")
    sizes = ((design.personas, "bystander"), (design.questions, "question"), (design.completions, "completion"))
    counted = " × ".join(console.counted(number, noun) for number, noun in sizes)
    console.say(f"{counted}, {console.counted(design.seeds, 'seed')}.")
    console.say(components_line(detectable.sourced.components))
    console.say(f"Source: {detectable.sourced.source}.")
    for note in detectable.sourced.components.notes:
        console.say(f"note: {note}")
    console.say()
    _show_estimators(detectable)
    _show_leg(detectable)
    for line in need_lines(detectable):
        console.say(line)
    for line in ["", *geometry_lines(detectable.geometry, detectable.power)]:
        console.say(line)


def components_line(components: Components) -> str:
    """The components as standard deviations, in percentage points."""
    named = (
        ("personas", components.persona),
        ("questions", components.question),
        ("their interaction", components.interaction),
        ("one pair of completions", components.completion),
        ("training runs", components.seed),
    )
    parts = [f"{name} {'unknown' if value is None else plain_points(sqrt(value))}" for name, value in named]
    return f"Standard deviations of the difference: {', '.join(parts)}."


def _show_estimators(detectable: Detectable) -> None:
    mde, strict = f"MDE p < {detectable.alpha:g}", f"MDE p < {detectable.p_below:g}"
    power = f"power at {_points(detectable.margin)}"
    numbers = ("SE", "least p", mde, strict, power, "true size")
    rows = [
        (
            row.estimator,
            plain_points(row.standard_error),
            p_value(row.smallest_attainable_p),
            plain_points(row.mde),
            plain_points(row.mde_registered),
            _share(row.power_at_margin),
            _share(row.size_in_population),
            row.scope,
        )
        for row in detectable.forecasts
    ]
    console.table(("estimator", *numbers, "scope"), rows, right=numbers)
    with_seeds = detectable.sourced.components.seed is not None
    population = "personas, questions and training runs" if with_seeds else "personas and questions"
    console.say()
    console.say(
        f"MDE: smallest true difference detected with {100 * detectable.power:g} % power, within the scope. Power: "
        f"probability of p < {detectable.alpha:g}, within the scope."
    )
    console.say(
        f"True size: probability of p < {detectable.alpha:g} over new {population} if the average difference is 0; "
        f"above {100 * detectable.alpha:g} %, the p-value says nothing about them."
    )
    notes: dict[str, list[str]] = {}
    for row in detectable.forecasts:
        if row.note:
            notes.setdefault(row.note, []).append(row.estimator)
    for note, estimators in notes.items():
        console.say(f"note: {', '.join(estimators)}: {note}")


def _show_leg(detectable: Detectable) -> None:
    rule = f"estimate ≥ {_points(detectable.margin)} and {detectable.deciding} p < {detectable.p_below:g}"
    console.say()
    if isinstance(detectable.leg, str):
        console.say(f"The registered leg ({rule}) cannot pass: {detectable.leg}.")
    else:
        console.say(f"The registered leg ({rule}) passes:")
        columns = ("true difference", "within its scope", "over new personas and questions")
        rows = [(_points(row.truth), _share(row.in_scope), _share(row.in_population)) for row in detectable.leg]
        console.table(columns, rows, right=columns)
        console.say("If the true difference equals the margin, half of all estimates are below it.")
    console.say()


def need_lines(detectable: Detectable) -> list[str]:
    """How many of each factor would reach the target power, or why no number does."""
    lines = []
    for estimator in dict.fromkeys(need.estimator for need in detectable.needs):
        lines.append(
            f"For {100 * detectable.power:g} % power of {estimator} at {_points(detectable.margin)} and "
            f"p < {detectable.alpha:g}, with the other factors unchanged:"
        )
        lines += [f"  {_need(need)}" for need in detectable.needs if need.estimator == estimator]
    return lines


def _need(need: Need) -> str:
    now = f"now {need.now:,}"
    if need.needed is not None:
        return f"{need.factor}: {need.needed:,} ({now})"
    if need.note is not None:
        return f"{need.factor}: {need.note} ({now})"
    left = f"{plain_points(need.standard_error_left)} on {decimal(need.df_left, 1)} degrees of freedom"
    return f"{need.factor}: unreachable ({now}); with infinitely many the SE is still {left}"


def geometry_lines(geometry: GeometryForecast, power: float) -> list[str]:
    """The geometric leg's smallest p, and with an earlier run its smallest detectable effect."""
    floor = f"Geometry ({geometry.measure}): smallest attainable p of the question bootstrap"
    lines = [f"{floor} {p_value(geometry.smallest_attainable_p)}; scope: new questions, these personas."]
    if geometry.mde is None:
        return [*lines, f"Its smallest detectable effect needs states: {geometry.note}."]
    return [
        *lines,
        f"SE {geometry.standard_error:.2g} ({geometry.note}): MDE {geometry.mde:.2g} with {100 * power:g} % "
        f"power; the leg needs {geometry.threshold:g}.",
    ]


def _share(value: float | None) -> str:
    """A small share is not printed as 0."""
    return "< 0.1 %" if value is not None and 0 < value < 0.0005 else percent(value)


def _points(value: float) -> str:
    return f"{100 * value:g} pp"
