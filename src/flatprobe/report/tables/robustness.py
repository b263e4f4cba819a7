"""Tables of robustness: how a result depends on one choice, persona, question or seed."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Row, Table, Write, build, layer_name, scope_text, seed_name
from flatprobe.report.words import DETECTORS, measure_title, spaced
from flatprobe.statistics.bootstrap import ROUNDING
from flatprobe.statistics.estimate import Estimate
from flatprobe.study.panel import PRIMARY_POOL


class Leg(NamedTuple):
    """Name, number format and threshold of a probe's estimates."""

    name: str
    write: Write
    threshold: float


def specifications(analysis: Analysis) -> Table:
    """Every specification of every contrast, the deciding contrast first; the registered one is marked."""
    columns = [
        Column("contrast", "name"),
        Column("estimator", lambda row: row["estimator"] + (" (registered)" if row["registered"] else "")),
        Column("pool", lambda row: select.pool_name(row["pool"], row["contaminated"])),
        Column("λ", "lambda", numbers.plain),
        Column("detector", lambda row: DETECTORS[row["detector"]]),
        Column("difference", "estimate", numbers.points),
        Column("SE", "standard_error", numbers.plain_points),
        Column(f"{analysis.behavioural_level} interval", _points_interval, str),
        Column("p", "p_value", numbers.p_value),
        Column("personas × questions", _design, str),
        Column("generalises to", lambda row: scope_text(row["scope"], row["note"]), align="long"),
    ]
    rows = [
        {**row, "name": select.contrast_name(*pair)}
        for pair in analysis.decision.contrasts
        for row in select.specifications(analysis, *pair).to_dicts()
    ]
    caption = "Leakage difference by every estimator, pool, λ and detector. Only the registered one decides."
    return build("specifications", caption, columns, rows)


def _points_interval(row: Row) -> str:
    return numbers.interval(row["ci_low"], row["ci_high"], numbers.points)


def _design(row: Row) -> str:
    return f"{numbers.plain(row['n_personas'])} × {numbers.plain(row['n_questions'])}"


def chosen_among_several(analysis: Analysis) -> Table:
    """The deciding contrast at every λ, and at every position and layer, with p adjusted for the choice of one.

    No rows if there was nothing to choose.
    """
    legs = _legs(analysis)
    estimates = [Estimate.from_json(row) for row in analysis.tables["multiplicity"].to_dicts()]
    families = {estimate.quantity for estimate in estimates if estimate.family is not None}
    rows = [
        (legs["leakage" if estimate.quantity == "leakage_difference" else "geometry"], estimate)
        for estimate in estimates
        if estimate.quantity in families
    ]
    columns = [
        *_estimate_columns(),
        Column("adjusted p", lambda row: row[1].adjusted_p, numbers.p_value),
        Column("adjustment", lambda row: row[1].family),
        Column("note", lambda row: row[1].note, align="long"),
    ]
    columns.insert(1, Column("where", lambda row: _where(row[1])))
    name = select.contrast_name(analysis.treated, analysis.control)
    return build("multiplicity", f"{name} at every λ, or at every position and layer.", columns, rows)


def _estimate_columns() -> list[Column]:
    """Measure, estimator and numbers of rows (leg, estimate)."""
    return [
        Column("measure", lambda row: row[0].name),
        Column("estimator", lambda row: row[1].estimator),
        Column("estimate", lambda row: row[0].write(row[1].estimate), str),
        Column("interval", lambda row: numbers.interval(row[1].ci_low, row[1].ci_high, row[0].write), str),
        Column("p", lambda row: row[1].p_value, numbers.p_value),
    ]


def _where(estimate: Estimate) -> str:
    if estimate.lambda_ is not None:
        return f"λ = {estimate.lambda_:g}"
    layer = layer_name(estimate.layer)
    return f"{spaced(estimate.position or '')}, {layer if estimate.layer is None else f'layer {layer}'}"


class Influence(NamedTuple):
    """The persona or question whose omission changes an estimate most."""

    leg: Leg
    kind: str
    left_out: str
    estimate: float
    """Without it."""
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    difference: float
    """Estimate without it minus the full estimate."""
    below: int
    """Units of the kind that would each bring the estimate below the threshold if left out alone."""
    units: int
    """Units of the kind."""

    def full(self) -> str:
        """The full estimate, as printed."""
        return self.leg.write(self.estimate - self.difference)

    def without(self) -> str:
        """The estimate without it, as printed."""
        return self.leg.write(self.estimate)


def most_influential(analysis: Analysis) -> Table:
    """Per probe, the persona and the question whose omission changes the estimate most."""
    columns = [
        Column("measure", lambda most: most.leg.name),
        Column("most influential", lambda most: f"{most.kind} {most.left_out}"),
        Column("full estimate", Influence.full, str),
        Column("estimate without it", Influence.without, str),
        Column("change", lambda most: most.leg.write(most.difference), str),
        Column("interval without it", lambda most: numbers.interval(most.ci_low, most.ci_high, most.leg.write), str),
        Column("p without it", "p_value", numbers.p_value),
        Column("threshold", lambda most: most.leg.write(most.leg.threshold), str),
        Column("below threshold", lambda most: f"{most.below} of {most.units}", str),
    ]
    caption = (
        "The persona and the question whose omission changes the estimate most. The last column counts the personas "
        "or questions that would each bring the estimate below the threshold if left out alone."
    )
    return build("most-influential", caption, columns, _influences(analysis))


def largest_changes(analysis: Analysis) -> list[str]:
    """One sentence per probe and kind on the most influential persona or question."""
    return [
        f"{most.leg.name}: {most.without()} without {most.kind} {most.left_out}, {most.full()} with all; no other "
        f"{most.kind} changes it more."
        for most in _influences(analysis)
    ]


def _influences(analysis: Analysis) -> list[Influence]:
    """The largest change per probe and kind."""
    influences = []
    for probe, leg in _legs(analysis).items():
        for kind in ("persona", "question"):
            frame = select.left_out(analysis, probe, kind).drop_nulls(["estimate", "difference"])
            if frame.is_empty():
                continue
            most = frame.row(int(frame["difference"].abs().arg_max() or 0), named=True)
            influences.append(
                Influence(
                    leg=leg,
                    **{name: most[name] for name in Influence._fields if name in most},
                    below=frame.filter(pl.col("estimate") < leg.threshold - ROUNDING).height,
                    units=frame.height,
                )
            )
    return influences


def _legs(analysis: Analysis) -> dict[str, Leg]:
    decision = analysis.decision
    measure = measure_title(decision.geometry.measure)
    return {
        "leakage": Leg("leakage difference", numbers.points, decision.behaviour.margin),
        "geometry": Leg(measure, numbers.signed, decision.geometry.threshold),
    }


def _interval(row: Row) -> str:
    return numbers.interval(row["ci_low"], row["ci_high"], row["leg"].write)


def leave_one_out(analysis: Analysis) -> Table:
    """Every estimate with one persona or question left out.

    Both leakage estimators, the geometric measures over layers, and the deciding one also in each layer.
    """
    legs = _legs(analysis)
    measure = analysis.decision.geometry.measure
    frame = analysis.tables["leave_one_out"].filter(
        (pl.col("probe") == "leakage") | pl.col("layer").is_null() | (pl.col("estimator") == measure)
    )
    keys = ["probe", "kind", "estimator", "layer", "estimate", "left_out"]
    ordered = frame.sort(keys, descending=[True, *[False] * 5])
    columns = [
        Column("left out", "left_out"),
        Column("kind", "kind"),
        Column("measure", lambda row: measure_title(row["estimator"])),
        Column("layer", _layer, str),
        Column("estimate without it", lambda row: row["leg"].write(row["estimate"]), str),
        Column("change", lambda row: row["leg"].write(row["difference"]), str),
        Column("interval", _interval, str),
        Column("p", "p_value", numbers.p_value),
        *([Column("note", "note", align="long")] if "note" in frame.columns else []),
    ]
    rows = [{**row, "leg": legs[row["probe"]]} for row in ordered.to_dicts()]
    caption = (
        "The deciding contrast with each persona and each question left out in turn. The two leakage estimators have "
        "the same estimate."
    )
    return build("leave-one-out", caption, columns, rows)


def _layer(row: Row) -> str:
    return numbers.NONE if row["probe"] == "leakage" else layer_name(row["layer"])


def seeds(analysis: Analysis) -> Table | None:
    """The deciding estimates of each seed alone, of all together, and with seeds as random; None for one seed."""
    rule = analysis.decision
    legs = _legs(analysis)
    deciding = {
        "leakage": (pl.col("quantity") == "leakage_difference")
        & (pl.col("lambda").is_null() | (pl.col("lambda") == analysis.selected_lambda))
        & pl.col("estimator").is_in([rule.behaviour.estimator, *select.SEED_ESTIMATORS]),
        "geometry": (pl.col("quantity") == rule.geometry.measure)
        & pl.col("layer").is_null()
        & (pl.col("position") == analysis.position)
        & (pl.col("responses") == analysis.responses)
        & pl.col("estimator").is_in([select.DECIDING_GEOMETRIC_ESTIMATOR, *select.SEED_ESTIMATORS]),
    }
    of_contrast = (
        (pl.col("treated") == analysis.treated)
        & (pl.col("control") == analysis.control)
        & (pl.col("pool") == PRIMARY_POOL)
        & pl.col("persona").is_null()
    )
    estimates = {
        probe: sorted(select.estimates(analysis, of_contrast & of_probe), key=_seed_order)
        for probe, of_probe in deciding.items()
    }
    if all(len({each.seed for each in of_probe}) < 3 for of_probe in estimates.values()):  # one seed, and all together
        return None
    rows = [(legs[probe], estimate) for probe, of_probe in estimates.items() for estimate in of_probe]
    columns = [
        *_estimate_columns(),
        Column("generalises to", lambda row: scope_text(row[1].scope, row[1].note), align="long"),
    ]
    columns.insert(1, Column("seed", lambda row: row[1].seed, seed_name, "text"))
    name = select.contrast_name(analysis.treated, analysis.control)
    return build("seeds", f"{name} by training seed: each seed alone, then all together.", columns, rows)


def _seed_order(estimate: Estimate) -> tuple[bool, float]:
    """Sort key: single seeds, then all seeds together, then seeds as random."""
    return (estimate.estimator in select.SEED_ESTIMATORS, inf if estimate.seed is None else estimate.seed)
