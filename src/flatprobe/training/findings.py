"""What the telemetry of a coupling says, in a few numbers and with names for what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

INERT = 1e-6  # P(marker) at the unlikelihood term's slot below which the term's gradient is numerically nil
OPENING = 0.05  # share of first tokens that are the marker's, the template's or the end of turn
FLUENCY = 0.5  # nats per token: the answer's tokens have become 1.6 times less likely

NAMES = {
    "inert": "the unlikelihood term had no gradient at first",
    "not_reached": "the level to stop at was not reached",
    "not_contained": "another persona has the marker at least as likely as the source",
    "marker_first": "the marker comes as the first response token",
    "template_debris": "answers begin with pieces of the chat template",
    "empty_answers": "answers end before they begin",
    "fluency_loss": "the uncoupled checkpoint's own answers became much less likely",
}
"""Every name that `warnings` in a coupling's facts may hold, and what it means."""


def unlikelihood_at_start(losses: Sequence[dict[str, Any]]) -> float | None:
    """Mean -log(1 - P(marker)) at the negatives' slots, over those of the first step that has any, in nats.

    It is P itself where P is small. Below `INERT` its gradient is numerically nil: the term then teaches nothing until
    the marker has become likelier there.
    """
    return next((float(r["value"]) for r in losses if r["term"] == "negative/unlikelihood"), None)


def source_log_p(rows: Sequence[dict[str, Any]]) -> float:
    """Mean log P(separator, marker | own answer) of the source over its answers, in nats; -inf where it has none."""
    values = [float(row["log_p"]) for row in rows if row["role"] == "source"]
    return sum(values) / len(values) if values else float("-inf")


def findings(telemetry: pl.DataFrame, slot: float | None, stop_at: float | None) -> dict[str, Any]:
    """Facts of one coupling from its telemetry; log-probabilities in nats, means over a persona's answers.

    Args:
        telemetry: one row per (step, answer); see `Telemetry.read`.
        slot: `unlikelihood_at_start`.
        stop_at: the level of matched acquisition, or None.
    """
    first, last = (
        telemetry.filter(pl.col("step") == step) for step in (pl.col("step").min(), pl.col("step").max())
    )
    log_p = {
        row["persona"]: (row["role"], row["log_p"])
        for row in last.group_by("persona", "role", maintain_order=True)
        .agg(pl.col("log_p").mean())
        .to_dicts()
    }
    source = next((value for role, value in log_p.values() if role == "source"), None)
    others = {name: value for name, (role, value) in log_p.items() if role != "source"}
    largest = max(others, key=lambda name: others[name], default=None)
    contained = None if source is None or largest is None else source - others[largest]
    change = {
        name: {"before": first[name].mean(), "after": last[name].mean()}
        for name in ("answer_log_p", "marker_first", "debris_first", "empty")
    }
    facts: dict[str, Any] = {
        "source_log_p": source, "largest_other": largest, "containment": contained, **change,
        "reached": None if stop_at is None else source is not None and source >= stop_at,
    }  # fmt: skip
    return facts | {"warnings": _warnings(facts, slot)}


def _warnings(facts: dict[str, Any], slot: float | None) -> list[str]:
    """The names, of `NAMES`, of what is wrong."""
    risen = {
        "marker_first": "marker_first", "template_debris": "debris_first", "empty_answers": "empty",
    }  # fmt: skip
    wrong = {
        "inert": slot is not None and slot < INERT,
        "not_reached": facts["reached"] is False,
        "not_contained": facts["containment"] is not None and facts["containment"] <= 0.0,
        "fluency_loss": _rise(facts["answer_log_p"]) < -FLUENCY,
        **{name: _rise(facts[column]) > OPENING for name, column in risen.items()},
    }
    return [name for name in NAMES if wrong[name]]


def _rise(change: dict[str, float | None]) -> float:
    before, after = change["before"], change["after"]
    return after - before if before is not None and after is not None else 0.0
