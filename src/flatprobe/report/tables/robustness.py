"""Tables that say how far a result hangs on one choice, one persona, one question or one seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Table, Write, build, scope, seed
from flatprobe.report.words import DETECTORS, MEASURES
from flatprobe.statistics.bootstrap import ROUNDING
from flatprobe.study.panel import PRIMARY_POOL


class Leg(NamedTuple):
    """How a probe's estimates are called and written, and what the rule asks of them."""

    name: str
    write: Write
    threshold: float


def specifications(analysis: Analysis) -> Table:
    """Every specification of every contrast; the deciding contrast first, the registered choice marked."""
    columns = [
        Column("contrast", "name"),
        Column("estimator", lambda row: row["estimator"] + (" (registered)" if row["registered"] else "")),
        Column("pool", select.pool_name),
        Column("λ", "lambda", numbers.plain),
        Column("detector", lambda row: DETECTORS[row["detector"]]),
        Column("difference", "estimate", numbers.points),
        Column("SE", "standard_error", numbers.plain_points),
        Column(f"{analysis.behavioural_level} interval", _points_interval, str),
        Column("p", "p_value", numbers.p_value),
        Column("personas × questions", _design, str),
        Column("interval and p speak for", scope, align="long"),
    ]
    rows = [
        {**row, "name": select.contrast_name(*pair)}
        for pair in select.contrasts(analysis)
        for row in select.specifications(analysis, *pair).to_dicts()
    ]
    caption = "Leakage difference by every estimator, pool, λ and detector; only the registered one decides."
    return build("specifications", caption, columns, rows)


def _points_interval(row: Mapping[str, Any]) -> str:
    return numbers.interval(row["ci_low"], row["ci_high"], numbers.points)


def _design(row: Mapping[str, Any]) -> str:
    return f"{numbers.plain(row['n_personas'])} × {numbers.plain(row['n_questions'])}"


def chosen_among_several(analysis: Analysis) -> Table:
    """The deciding contrast at every λ, and at every position and layer, with p adjusted for choosing one; no rows
    where there was nothing to choose from."""
    legs = _legs(analysis)
    found = analysis.tables["multiplicity"].to_dicts()
    families = {row["quantity"] for row in found if row["family"] is not None}
    rows = [
        {**row, "leg": legs["leakage" if row["quantity"] == "leakage_difference" else "geometry"]}
        for row in found
        if row["quantity"] in families
    ]
    columns = [
        Column("estimate of", lambda row: row["leg"].name),
        Column("at", _place),
        Column("estimator", "estimator"),
        Column("estimate", lambda row: row["leg"].write(row["estimate"]), str),
        Column("interval", _interval, str),
        Column("p", "p_value", numbers.p_value),
        Column("adjusted p", "adjusted_p", numbers.p_value),
        Column("adjusted by", "family"),
        Column("note", "note", align="long"),
    ]
    name = select.contrast_name(analysis.treated, analysis.control)
    return build("multiplicity", f"{name} wherever it was looked at.", columns, rows)


def _place(row: Mapping[str, Any]) -> str:
    if row["lambda"] is not None:
        return f"λ = {row['lambda']:g}"
    position = str(row["position"]).replace("_", " ")
    return f"{position}, {'mean over layers' if row['layer'] is None else 'layer ' + str(row['layer'])}"


def most_influential(analysis: Analysis) -> Table:
    """Per probe, the persona and the question without which the estimate moves most, and whether the effect
    that the rule asks for is still reached without any one of them."""
    columns = [
        Column("probe", lambda row: row["leg"].name),
        Column("moves it most", lambda row: f"{row['kind']} {row['left_out']}"),
        Column("full estimate", lambda row: row["leg"].write(row["estimate"] - row["difference"]), str),
        Column("without it", lambda row: row["leg"].write(row["estimate"]), str),
        Column("change", lambda row: row["leg"].write(row["difference"]), str),
        Column("interval without it", _interval, str),
        Column("p without it", "p_value", numbers.p_value),
        Column("asked for", lambda row: row["leg"].write(row["leg"].threshold), str),
        Column("short of it without one", lambda row: f"{row['short']} of {row['count']}", str),
    ]
    caption = (
        "The one persona and the one question without which the estimate moves most, and how many of them would, "
        "each left out alone, bring the effect below what the rule asks for."
    )
    return build("most-influential", caption, columns, _most(analysis))


def leans_on(analysis: Analysis) -> list[str]:
    """One sentence per probe and kind: what moves the estimate most."""
    return [
        f"{row['leg'].name}: without {row['kind']} {row['left_out']} {row['leg'].write(row['estimate'])} instead "
        f"of {row['leg'].write(row['estimate'] - row['difference'])}, the largest change by one {row['kind']}."
        for row in _most(analysis)
    ]


def _most(analysis: Analysis) -> list[dict[str, Any]]:
    """Of each probe and kind the row with the largest change, with the leg and the counts beside it."""
    found = []
    for probe, leg in _legs(analysis).items():
        for kind in ("persona", "question"):
            known = select.left_out(analysis, probe, kind).drop_nulls(["estimate", "difference"])
            if known.is_empty():
                continue
            most = known.row(int(known["difference"].abs().arg_max() or 0), named=True)
            short = known.filter(pl.col("estimate") < leg.threshold - ROUNDING).height
            found.append({**most, "leg": leg, "short": short, "count": known.height})
    return found


def _legs(analysis: Analysis) -> dict[str, Leg]:
    decision = analysis.study["decision"]
    measure = MEASURES[decision["geometry"]["measure"]]
    return {
        "leakage": Leg("leakage difference", numbers.points, float(decision["behaviour"]["margin"])),
        "geometry": Leg(measure, numbers.signed, float(decision["geometry"]["threshold"])),
    }


def _interval(row: Mapping[str, Any]) -> str:
    return numbers.interval(row["ci_low"], row["ci_high"], row["leg"].write)


def leave_one_out(analysis: Analysis) -> Table:
    """Every estimate with one left out: both leakage estimators, and the geometric measures over layers, the
    deciding one in each layer too."""
    legs = _legs(analysis)
    measure = analysis.study["decision"]["geometry"]["measure"]
    frame = analysis.tables["leave_one_out"].filter(
        (pl.col("probe") == "leakage") | pl.col("layer").is_null() | (pl.col("estimator") == measure)
    )
    keys = ["probe", "kind", "estimator", "layer", "estimate", "left_out"]
    ordered = frame.sort(keys, descending=[True, *[False] * 5])
    columns = [
        Column("left out", "left_out"),
        Column("kind", "kind"),
        Column("estimate of", lambda row: MEASURES.get(row["estimator"], row["estimator"].replace("_", " "))),
        Column("layer", lambda row: _layer(row), str),
        Column("without it", lambda row: row["leg"].write(row["estimate"]), str),
        Column("change", lambda row: row["leg"].write(row["difference"]), str),
        Column("interval", _interval, str),
        Column("p", "p_value", numbers.p_value),
        *([Column("note", "note", align="long")] if "note" in frame.columns else []),
    ]
    rows = [{**row, "leg": legs[row["probe"]]} for row in ordered.to_dicts()]
    caption = (
        "Deciding contrast with each persona and question left out in turn; leakage by two estimators, which share "
        "their estimate. The change is against the full estimate."
    )
    return build("leave-one-out", caption, columns, rows)


def _layer(row: Mapping[str, Any]) -> str:
    if row["probe"] == "leakage":
        return numbers.NONE
    return "mean" if row["layer"] is None else str(row["layer"])


def seeds(analysis: Analysis) -> Table | None:
    """The deciding estimates of each seed alone, of all together, and with seeds taken as random; None for a
    study of one seed."""
    rule = analysis.study["decision"]
    legs = _legs(analysis)
    deciding = {
        "leakage": (pl.col("quantity") == "leakage_difference")
        & (pl.col("lambda").is_null() | (pl.col("lambda") == analysis.selected_lambda))
        & pl.col("estimator").is_in([rule["behaviour"]["estimator"], *select.SEED_ESTIMATORS]),
        "geometry": (pl.col("quantity") == rule["geometry"]["measure"])
        & pl.col("layer").is_null()
        & (pl.col("position") == analysis.position)
        & (pl.col("responses") == analysis.responses)
        & pl.col("estimator").is_in([select.DECIDING_GEOMETRIC_ESTIMATOR, *select.SEED_ESTIMATORS]),
    }
    here = (
        (pl.col("treated") == analysis.treated)
        & (pl.col("control") == analysis.control)
        & (pl.col("pool") == PRIMARY_POOL)
        & pl.col("persona").is_null()
    )
    across = pl.col("estimator").is_in(list(select.SEED_ESTIMATORS))
    frames = {
        probe: analysis.estimates.filter(here & wanted).sort(
            across, "seed", nulls_last=True, maintain_order=True
        )
        for probe, wanted in deciding.items()
    }
    if all(frame["seed"].n_unique() < 3 for frame in frames.values()):  # one seed, or none, beside the pooled
        return None
    rows = [{**row, "leg": legs[probe]} for probe, frame in frames.items() for row in frame.to_dicts()]
    columns = [
        Column("estimate of", lambda row: row["leg"].name),
        Column("seed", seed),
        Column("estimator", "estimator"),
        Column("estimate", lambda row: row["leg"].write(row["estimate"]), str),
        Column("interval", _interval, str),
        Column("p", "p_value", numbers.p_value),
        Column("interval and p speak for", scope, align="long"),
    ]
    name = select.contrast_name(analysis.treated, analysis.control)
    return build("seeds", f"{name} by training seed: each alone, then all together.", columns, rows)
