"""What `flatprobe plan` says about what a design can detect."""

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
class Geometry:
    """What is known of the geometric leg before its states exist."""

    measure: str
    smallest_attainable_p: float
    """Of the question bootstrap."""
    threshold: float
    standard_error: float | None
    """Of the deciding measure in an earlier run, for this design's number of questions."""
    mde: float | None
    """Smallest effect whose interval excludes 0 with the wished power, in the measure's units."""
    note: str
    """Where the standard error is from, or what is missing."""


@dataclass(frozen=True)
class Detectable:
    """Everything that is said, as differences of rates."""

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
    """The registered leg at several truths, or why it cannot pass."""
    needs: Sequence[Need]
    geometry: Geometry


def show(found: Detectable) -> None:
    """Print the design, where the components come from, and what follows."""
    design = found.design
    console.say()
    console.say("What this design can detect", style="bold")
    sizes = (
        (design.personas, "bystander"),
        (design.questions, "question"),
        (design.completions, "completion"),
    )
    counted = " × ".join(_count(number, noun) for number, noun in sizes)
    console.say(f"{counted}, {_count(design.seeds, 'seed')}.")
    console.say(components_line(found.sourced.components))
    console.say(f"Source: {found.sourced.source}.")
    for note in found.sourced.components.notes:
        console.say(f"note: {note}")
    console.say()
    _show_estimators(found)
    _show_leg(found)
    for line in need_lines(found):
        console.say(line)
    for line in ["", *geometry_lines(found)]:
        console.say(line)


def components_line(components: Components) -> str:
    """The components as standard deviations, which are in percentage points."""
    named = (
        ("personas", components.persona),
        ("questions", components.question),
        ("their interaction", components.interaction),
        ("one pair of completions", components.completion),
        ("training runs", components.seed),
    )
    shown = [f"{name} {'unknown' if value is None else plain_points(sqrt(value))}" for name, value in named]
    return f"Standard deviations of the difference: {', '.join(shown)}."


def _show_estimators(found: Detectable) -> None:
    mde, strict = f"MDE p < {found.alpha:g}", f"MDE p < {found.p_below:g}"
    power = f"power at {_points(found.margin)}"
    numbers = ("SE", "least p", mde, strict, power, "true size")
    rows = [
        (
            row.estimator, plain_points(row.standard_error), p_value(row.smallest_attainable_p),
            plain_points(row.mde), plain_points(row.mde_registered), _share(row.power_at_margin),
            _share(row.size_in_population), row.scope,
        )
        for row in found.forecasts
    ]  # fmt: skip
    console.table(("estimator", *numbers, "scope"), rows, right=numbers)
    known = found.sourced.components.seed is not None
    population = "personas, questions and training runs" if known else "personas and questions"
    console.say()
    console.say(
        f"MDE: smallest true difference that is found with {100 * found.power:g} % power, within the scope; power: of "
        f"p < {found.alpha:g}, within the scope."
    )
    console.say(
        f"True size: how often p < {found.alpha:g} comes out over new {population} when the average difference is 0; "
        f"above {100 * found.alpha:g} %, the p-value must not be read as one about them."
    )
    notes: dict[str, list[str]] = {}
    for row in found.forecasts:
        if row.note:
            notes.setdefault(row.note, []).append(row.estimator)
    for note, estimators in notes.items():
        console.say(f"note: {', '.join(estimators)}: {note}")


def _show_leg(found: Detectable) -> None:
    rule = f"estimate ≥ {_points(found.margin)} and {found.deciding} p < {found.p_below:g}"
    console.say()
    if isinstance(found.leg, str):
        console.say(f"The registered leg ({rule}) cannot pass: {found.leg}.")
    else:
        console.say(f"The registered leg ({rule}) passes:")
        columns = ("true difference", "within its scope", "over new personas and questions")
        rows = [(_points(row.truth), _share(row.in_scope), _share(row.in_population)) for row in found.leg]
        console.table(columns, rows, right=columns)
        console.say("At a true difference as large as the margin, half of all estimates fall short of it.")
    console.say()


def need_lines(found: Detectable) -> list[str]:
    """How many of each factor would give the wished power, or why no number does."""
    lines = []
    for estimator in dict.fromkeys(need.estimator for need in found.needs):
        lines.append(
            f"For {100 * found.power:g} % power of {estimator} at {_points(found.margin)} and p < {found.alpha:g}, "
            "with all else as it is:"
        )
        lines += [f"  {_need(need)}" for need in found.needs if need.estimator == estimator]
    return lines


def _need(need: Need) -> str:
    now = f"now {need.now:,}"
    if need.needed is not None:
        return f"{need.factor}: {need.needed:,} ({now})"
    if need.note is not None:
        return f"{need.factor}: {need.note} ({now})"
    left = f"{plain_points(need.standard_error_left)} on {decimal(need.df_left, 1)} degrees of freedom"
    return f"{need.factor}: unreachable ({now}); with endlessly many the SE is still {left}"


def geometry_lines(found: Detectable) -> list[str]:
    """The geometric leg's floor, and its smallest detectable effect where an earlier run tells its spread."""
    geometry = found.geometry
    floor = f"Geometry ({geometry.measure}): smallest attainable p of the question bootstrap"
    lines = [f"{floor} {p_value(geometry.smallest_attainable_p)}; scope: new questions, these personas."]
    if geometry.mde is None:
        return [*lines, f"Its smallest detectable effect needs states: {geometry.note}."]
    return [
        *lines,
        f"SE {geometry.standard_error:.2g} ({geometry.note}): MDE {geometry.mde:.2g} with {100 * found.power:g} % "
        f"power; the leg asks for {geometry.threshold:g}.",
    ]


def _share(value: float | None) -> str:
    """A small share is not 0."""
    return "< 0.1 %" if value is not None and 0 < value < 0.0005 else percent(value)


def _points(value: float) -> str:
    return f"{100 * value:g} pp"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
