"""Facts of one coupling from its losses and telemetry, and warnings about what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

INERT = 1e-6  # P(marker) at the unlikelihood term's slot; below it the term's gradient is numerically 0
OPENING = 0.05  # rise in P that the first response token is the marker's, a template token or the end of turn
FLUENCY = 0.5  # fall of the answers' log P, nats per token: a token is then 1.6 times less likely

WARNINGS = {
    "inert": "the unlikelihood term started without a gradient",
    "not_reached": "the log-probability to stop at was not reached",
    "not_contained": "the marker is at least as likely for another persona as for the source",
    "marker_first": "answers start with the marker",
    "template_debris": "answers start with pieces of the chat template",
    "empty_answers": "answers are empty",
    "fluency_loss": "the answers from before the coupling became much less likely",
}
"""The warnings of a coupling: name in its facts, and meaning."""


def unlikelihood_at_start(losses: Sequence[dict[str, Any]]) -> float | None:
    """Mean -log(1 - P(marker)) at the negatives' slots in the first step that has negatives, in nats.

    For small P it equals P. Below `INERT` its gradient is numerically 0: the term has no effect until the marker
    becomes more likely there.
    """
    return next((float(r["value"]) for r in losses if r["term"] == "negative/unlikelihood"), None)


def source_log_p(rows: Sequence[dict[str, Any]]) -> float:
    """Mean log P(separator, marker | own answer) over the source's answers, in nats; -inf without answers."""
    values = [float(row["log_p"]) for row in rows if row["role"] == "source"]
    return sum(values) / len(values) if values else float("-inf")


def findings(telemetry: pl.DataFrame, slot: float | None, stop_at: float | None) -> dict[str, Any]:
    """Facts of one coupling. Log-probabilities are in nats, means over a persona's answers.

    Args:
        telemetry: one row per (step, answer); see `Telemetry.read`.
        slot: the value of `unlikelihood_at_start`.
        stop_at: the log-probability at which training stops; None with a fixed number of epochs.
    """
    first, last = (telemetry.filter(pl.col("step") == step) for step in (pl.col("step").min(), pl.col("step").max()))
    log_p = {
        row["persona"]: (row["role"], row["log_p"])
        for row in last.group_by("persona", "role", maintain_order=True).agg(pl.col("log_p").mean()).to_dicts()
    }
    source = next((value for role, value in log_p.values() if role == "source"), None)
    others = {name: value for name, (role, value) in log_p.items() if role != "source"}
    largest = max(others, key=lambda name: others[name], default=None)
    containment = None if source is None or largest is None else source - others[largest]
    change = {
        name: {"before": first[name].mean(), "after": last[name].mean()}
        for name in ("answer_log_p", "marker_first", "debris_first", "empty")
    }
    facts: dict[str, Any] = {
        "source_log_p": source,
        "largest_other": largest,
        "containment": containment,
        **change,
        "reached": None if stop_at is None else source is not None and source >= stop_at,
    }
    return facts | {"warnings": _warnings(facts, slot)}


def _warnings(facts: dict[str, Any], slot: float | None) -> list[str]:
    """The keys of `WARNINGS` that apply."""
    risen = {"marker_first": "marker_first", "template_debris": "debris_first", "empty_answers": "empty"}
    applies = {
        "inert": slot is not None and slot < INERT,
        "not_reached": facts["reached"] is False,
        "not_contained": facts["containment"] is not None and facts["containment"] <= 0.0,
        "fluency_loss": _rise(facts["answer_log_p"]) < -FLUENCY,
        **{name: _rise(facts[column]) > OPENING for name, column in risen.items()},
    }
    return [name for name in WARNINGS if applies[name]]


def _rise(change: dict[str, float | None]) -> float:
    before, after = change["before"], change["after"]
    return after - before if before is not None and after is not None else 0.0
