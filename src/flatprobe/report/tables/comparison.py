"""Tables of a comparison of two checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import polars as pl

from flatprobe.report import numbers
from flatprobe.report.comparison import REGISTERED, Compared
from flatprobe.report.tables.table import Column, Table, build
from flatprobe.report.words import MEASURES
from flatprobe.statistics.geometry.measures import MEASURES as KNOWN
from flatprobe.study.panel import PRIMARY_POOL

JACKKNIFE = "question_jackknife_t"
_four = partial(numbers.decimal, digits=4)
_signed = numbers.signed


def headroom(compared: Compared) -> Table:
    """1 - base cosine per layer and position: what any rise is bounded by."""
    found = {
        position: compared.by_layer("headroom", position, compared.responses, None)
        for position in compared.pair.positions
    }
    rows = [
        {"layer": layer, **{position: by_layer[layer]["base"] for position, by_layer in found.items()}}
        for layer in (*compared.pair.layers, None)
    ]
    columns = [Column("layer", _layer), *(Column(position, position, _four) for position in found)]
    caption = (
        f"Headroom of the base: 1 − mean cosine of source and bystanders, {compared.responses} responses."
    )
    return build("headroom", caption, columns, rows)


def layers(compared: Compared, position: str, responses: str) -> Table:
    """The cosine difference per layer, and what tells its causes apart."""
    found = _measures(compared, position, responses)
    rows = [
        {"layer": layer, **{name: by_layer[layer] for name, by_layer in found.items()}}
        for layer in (*compared.pair.layers, None)
    ]
    caption = f"{position}, {responses} responses: treated − base, {compared.level} intervals over questions."
    name = f"layers-{position}-{responses}".replace("_", "-")
    return build(name, caption, [Column("layer", _layer), *_columns(compared, adjusted=True)], rows)


def positions(compared: Compared) -> Table:
    """The mean over layers at every position and kind of responses."""
    rows = []
    for responses in compared.pair.responses:
        for position in compared.pair.positions:
            found = _measures(compared, position, responses)
            means = {name: by_layer[None] for name, by_layer in found.items()}
            rows.append({"position": position, "responses": responses, **means})
    columns = [
        Column("position", "position"),
        Column("responses", "responses"),
        *_columns(compared, adjusted=False),
    ]
    return build("positions", "Mean over layers at every position.", columns, rows)


def measures(compared: Compared, *, every_estimator: bool) -> Table:
    """Every measure's mean over layers at the position shown first."""
    rows = [
        row
        for row in compared.rows
        if row["layer"] is None and row["persona"] is None and row["position"] == compared.position
        and row["responses"] == compared.responses
        and (every_estimator or row["estimator"] in (REGISTERED, None))
        and (every_estimator or row["pool"] == PRIMARY_POOL)
    ]  # fmt: skip
    columns = [
        Column("measure", _measure),
        Column("base", "base", _four),
        Column("treated", "treated", _four),
        Column("difference or ratio", _change, str),
        Column(f"{compared.level} interval", _interval, str),
        Column("p", "p_value", numbers.p_value),
    ]
    if every_estimator:
        columns += [
            Column("estimator", "estimator"),
            Column("pool", "pool"),
            Column("interval and p speak for", _scope, align="long"),
        ]
    caption = f"Mean over layers at {compared.position}, {compared.responses} responses."
    return build("measures-all" if every_estimator else "measures", caption, columns, rows)


def personas(compared: Compared) -> Table:
    """The source's cosine with every persona, mean over layers at the position shown first."""
    roles = {persona.name: persona.role for persona in compared.pair.personas}
    rows = [
        {**row, "role": roles[row["persona"]]}
        for row in compared.rows
        if row["persona"] is not None and row["layer"] is None and row["measure"] == "cosine_difference"
        and (row["position"], row["responses"]) == (compared.position, compared.responses)
    ]  # fmt: skip
    columns = [
        Column("persona", "persona"),
        Column("role", "role"),
        Column("base cosine", "base", _four),
        Column("treated cosine", "treated", _four),
        Column("difference", "difference", _signed),
        Column(f"{compared.level} interval", _interval, str),
        Column("p", "p_value", numbers.p_value),
    ]
    caption = (
        f"Cosine with {compared.pair.source}, mean over layers at {compared.position}, "
        f"{compared.responses} responses; intervals by a jackknife over questions."
    )
    return build("personas", caption, columns, rows)


def massive(compared: Compared) -> Table:
    """The largest hidden dimensions per layer of both checkpoints, at the position shown first."""
    share = pl.col("share_of_squared_norm")
    rows = (
        compared.massive.filter(position=compared.position, responses=compared.responses)
        .group_by("layer", "condition")
        .agg(
            dimensions=pl.struct("dimension", "ratio_to_median").sort_by("rank"),
            share=pl.when(share.is_not_null().all()).then(share.sum()),
        )
        .sort("layer", "condition")
        .to_dicts()
    )
    columns = [
        Column("layer", "layer"),
        Column("checkpoint", "condition"),
        Column("largest dimensions (times the median)", _dimensions),
        Column("their share of the squared norm", "share", numbers.percent),
    ]
    return build("massive", "The largest hidden dimensions by mean size.", columns, rows)


_SHOWN = (
    "cosine_difference", "translation_share", "noise_share", "crossvalidated_cosine_difference", "contraction",
)  # fmt: skip


def _measures(
    compared: Compared, position: str, responses: str
) -> dict[str, dict[int | None, Mapping[str, Any]]]:
    """What the tables per layer and per position show, by name and layer."""
    found = {name: compared.by_layer(name, position, responses) for name in _SHOWN}
    for name in ("headroom", "separability", "reliability"):
        found[name] = compared.by_layer(name, position, responses, None)
    return found


def _columns(compared: Compared, *, adjusted: bool) -> list[Column]:
    """One measure's number each; an interval for the cosine difference and for the contraction."""

    def cosine(key: str) -> Callable[[Mapping[str, Any]], Any]:
        return lambda row: row["cosine_difference"][key]

    columns = [
        Column("base cosine", cosine("base"), _four),
        Column("difference", cosine("difference"), _signed),
        Column(f"{compared.level} interval", lambda row: _interval(row["cosine_difference"]), str),
        Column("p", cosine("p_value"), numbers.p_value),
    ]
    if adjusted:
        columns.append(Column("adjusted p", cosine("adjusted_p"), numbers.p_value))
    return [
        *columns,
        Column("headroom", lambda row: row["headroom"]["base"], _four),
        Column("translation share", lambda row: row["translation_share"]["difference"], _signed),
        Column("noise share", lambda row: row["noise_share"]["difference"], _signed),
        Column("contraction", lambda row: row["contraction"]["difference"], lambda x: numbers.signed(x, 3)),
        Column("its interval", lambda row: _interval(row["contraction"], 3), str),
        Column("separability", lambda row: _both(row["separability"]), str),
        Column("reliability", lambda row: _both(row["reliability"]), str),
    ]


def _layer(row: Mapping[str, Any]) -> str:
    return "mean" if row["layer"] is None else str(row["layer"])


def _measure(row: Mapping[str, Any]) -> str:
    name: str = row["measure"]
    return MEASURES.get(name, name.replace("_", " ")) if name in KNOWN else name.replace("_", " ")


def _both(row: Mapping[str, Any]) -> str:
    return f"{numbers.decimal(row['base'], 2)} → {numbers.decimal(row['treated'], 2)}"


def _change(row: Mapping[str, Any]) -> str:
    return numbers.decimal(row["difference"], 4, signed=row["effect"] == "difference")


def _interval(row: Mapping[str, Any], digits: int = 4) -> str:
    write = partial(numbers.decimal, digits=digits, signed=row["effect"] == "difference")
    return numbers.interval(row["ci_low"], row["ci_high"], write)


def _scope(row: Mapping[str, Any]) -> str:
    return "; ".join(part for part in (row["scope"], row["note"]) if part is not None)


def _dimensions(row: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{one['dimension']} ({numbers.decimal(one['ratio_to_median'], 1)})" for one in row["dimensions"]
    )
