"""Tables of the deciding contrast of states: both levels and their difference, by layer, position, measure, persona."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.select import DECIDING_GEOMETRIC_ESTIMATOR
from flatprobe.report.tables.table import Column, Row, Table, build, layer_name
from flatprobe.report.words import measure_title
from flatprobe.study.panel import PRIMARY_POOL

_four = partial(numbers.decimal, digits=4)


def by_layer(analysis: Analysis) -> Table:
    """The deciding measure in every layer and over layers."""
    measure = analysis.decision.geometry.measure
    rows = [row for row in _of_pool(analysis) if row["measure"] == measure and _at_deciding(analysis, row)]
    head = Column("layer", "layer", layer_name, "text")
    return _table(analysis, "change-by-layer", f"{measure_title(measure)} by layer{_where(analysis)}", head, rows)


def by_position(analysis: Analysis) -> Table:
    """The deciding measure over layers, at every position and kind of responses."""
    measure = analysis.decision.geometry.measure
    rows = [row for row in _of_pool(analysis) if row["measure"] == measure and row["layer"] is None]
    head = Column("position and responses", lambda row: f"{row['position']}, {row['responses']}")
    return _table(analysis, "change-by-position", f"{measure_title(measure)}, mean over layers", head, rows)


def by_measure(analysis: Analysis) -> Table:
    """Every measure and description over layers."""
    rows = [row for row in _of_pool(analysis) if row["layer"] is None and _at_deciding(analysis, row)]
    head = Column("measure", lambda row: measure_title(row["measure"]))
    return _table(analysis, "change-by-measure", f"Mean over layers{_where(analysis)}", head, rows)


def by_persona(analysis: Analysis) -> Table:
    """The source's cosine with every persona over layers, with a jackknife over questions."""
    roles = dict(analysis.tables["panel"].select("persona", "role").rows())
    rows = [
        row
        for row in analysis.comparison["rows"]
        if row["persona"] is not None
        and row["layer"] is None
        and row["measure"] == "cosine_difference"
        and _at_deciding(analysis, row)
    ]
    head = Column("persona", lambda row: f"{row['persona']}, {roles[row['persona']]}")
    caption = f"Cosine with {analysis.source}, mean over layers{_where(analysis)}; jackknife over questions"
    return _table(analysis, "change-by-persona", caption, head, rows)


def _of_pool(analysis: Analysis) -> list[Row]:
    """Rows over the bystanders by the deciding estimator, and descriptions, which have none."""
    return [
        row
        for row in analysis.comparison["rows"]
        if row["persona"] is None
        and row["pool"] == PRIMARY_POOL
        and row["estimator"] in (DECIDING_GEOMETRIC_ESTIMATOR, None)
    ]


def _at_deciding(analysis: Analysis, row: Row) -> bool:
    return (row["position"], row["responses"]) == (analysis.position, analysis.responses)


def _where(analysis: Analysis) -> str:
    return f" at {analysis.position}, {analysis.responses} responses"


def _table(analysis: Analysis, name: str, caption: str, head: Column, rows: Sequence[Row]) -> Table:
    columns = [
        head,
        Column(analysis.control, "base", _four),
        Column(analysis.treated, "treated", _four),
        Column("difference or ratio (×)", _change, str),
        Column(f"{analysis.geometric_level} interval", _interval, str),
        Column("p", "p_value", numbers.p_value),
        Column("adjusted p", "adjusted_p", numbers.p_value),
    ]
    return build(name, f"{caption[0].upper()}{caption[1:]}.", columns, rows)


def _change(row: Row) -> str:
    if row["difference"] is None or row["effect"] == "difference":
        return numbers.decimal(row["difference"], 4, signed=True)
    return f"×{numbers.decimal(row['difference'], 4)}"


def _interval(row: Row) -> str:
    write = partial(numbers.decimal, digits=4, signed=row["effect"] == "difference")
    return numbers.interval(row["ci_low"], row["ci_high"], write)
