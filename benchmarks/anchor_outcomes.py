"""The outcome of a coupling that `anchors.py` reports, and its table."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import polars as pl

from flatprobe.console import say, table
from flatprobe.pipeline.display import PlainDisplay
from flatprobe.pipeline.progress import Progress
from flatprobe.statistics.leakage.rates import score
from flatprobe.study.recipe_schema import Anchor
from flatprobe.training.telemetry import ROLE_HEADERS

ROLES = ("source", "negative", "bystander")
DEBRIS = re.compile(rf"\s*(?:{'|'.join(ROLE_HEADERS)})\b")
"""Start of a completion whose first token is a role header; texts contain no special tokens."""


class Speeds(PlainDisplay):
    """Shows the stages and records the time of each progress report."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: dict[str, list[tuple[float, int]]] = {}

    def progress(self, stage: str, progress: Progress) -> None:
        super().progress(stage, progress)
        self.reports.setdefault(stage, []).append((time.monotonic(), progress.done))

    def seconds_per_step(self, stage: str) -> float | None:
        """Median over intervals between two reports; a few include a telemetry reading. None for a reused stage."""
        intervals = [
            (then - before) / (done - done_before)
            for (before, done_before), (then, done) in pairwise(self.reports.get(stage, []))
            if done > done_before
        ]
        return float(np.median(intervals)) if intervals else None


@dataclass(frozen=True)
class Outcome:
    """One coupling: rates and shares of sampled completions in [0, 1], log-probabilities in nats."""

    anchor: str
    weight: float
    seed: int
    steps: int
    strict: dict[str, float]
    """Rate by role: the marker anywhere."""
    end_anchored: dict[str, float]
    """Rate by role: the marker at the end."""
    log_p: dict[str, tuple[float, float]]
    """By role, mean log P(separator, marker | own answer) before and after."""
    marker_first: float
    """Share of completions that begin with the marker."""
    marker_first_p: tuple[float, float]
    """P(the first response token is the marker's), before and after."""
    empty: float
    """Share of completions without text."""
    debris: float
    """Share of completions that begin with a role header."""
    debris_p: tuple[float, float]
    """P(the first response token is a special token or a role header), before and after."""
    truncated: float
    spam: float
    """Share of completions with the marker that repeat it; 0 if none has it."""
    answer_log_p: tuple[float, float]
    """Per token of the uncoupled checkpoint's answers, before and after."""
    seconds_per_step: float | None
    warnings: list[str]


def outcome(
    anchor: Anchor,
    seed: int,
    marker: str,
    *,
    facts: dict[str, Any],
    telemetry: pl.DataFrame,
    completions: pl.DataFrame,
    seconds_per_step: float | None,
) -> Outcome:
    """Read one coupling's facts, telemetry and completions."""
    scored = score(completions, marker)
    texts = scored["text"]
    marked = scored.filter("marker_present")

    def rate(column: str) -> dict[str, float]:
        return {role: _share(scored.filter(pl.col("role") == role)[column]) for role in ROLES}

    def change(column: str) -> tuple[float, float]:
        return facts[column]["before"], facts[column]["after"]

    return Outcome(
        anchor=anchor.kind,
        weight=anchor.weight,
        seed=seed,
        steps=facts["steps"],
        strict=rate("marker_present"),
        end_anchored=rate("ends_with_marker"),
        log_p=_log_p(telemetry),
        marker_first=_share(scored["starts_with_marker"]),
        marker_first_p=change("marker_first"),
        empty=_share(texts.str.strip_chars() == ""),
        debris=_share(pl.Series([DEBRIS.match(text) is not None for text in texts])),
        debris_p=change("debris_first"),
        truncated=_share(scored["finish_reason"] == "length"),
        spam=_share(marked["marker_count"] >= 2) if marked.height else 0.0,
        answer_log_p=change("answer_log_p"),
        seconds_per_step=seconds_per_step,
        warnings=facts["warnings"],
    )


def _share(values: pl.Series) -> float:
    return float(values.cast(pl.Float64).mean())  # type: ignore[arg-type]  # no role of a study is empty


def _log_p(telemetry: pl.DataFrame) -> dict[str, tuple[float, float]]:
    """Mean over a role's answers at the first and the last reading."""
    at = {row["step"]: row for row in telemetry.group_by("step").agg(*_by_role()).to_dicts()}
    first, last = at[min(at)], at[max(at)]
    return {role: (first[role], last[role]) for role in ROLES}


def _by_role() -> list[pl.Expr]:
    return [pl.col("log_p").filter(pl.col("role") == role).mean().alias(role) for role in ROLES]


def show(outcomes: Sequence[Outcome]) -> None:
    """A row per coupling, and one for each mean over seeds."""
    columns = (
        "anchor",
        "seed",
        *(f"{role} {how}" for role in ROLES for how in ("strict", "end")),
        *(f"log P {role}" for role in ROLES),
        "marker first",
        "P(marker first)",
        "empty",
        "debris",
        "P(debris first)",
        "truncated",
        "answer log P",
        "s/step",
        "warnings",
    )
    rows = []
    for (kind, weight), same in groupby(outcomes, key=lambda one: (one.anchor, one.weight)):
        group = list(same)
        name = kind if kind == "none" else f"{kind}:{weight:g}"
        rows += [(name, str(one.seed), *_cells([one])) for one in group]
        if len(group) > 1:
            rows.append((name, "mean", *_cells(group)))
    table(columns, rows, right=columns[2:-1])
    say("Rates and shares in %. Mean log P in nats, before → after; answer log P per token of the base's answers.")


def _cells(couplings: Sequence[Outcome]) -> list[str]:
    """The numbers of a row, each the mean over couplings."""

    def percent(values: Sequence[float]) -> str:
        return f"{100 * np.mean(values):.1f}"

    def arrow(changes: Sequence[tuple[float, float]], digits: int = 2) -> str:
        return " → ".join(f"{np.mean(values):.{digits}f}" for values in zip(*changes, strict=True))

    seconds = [one.seconds_per_step for one in couplings if one.seconds_per_step is not None]
    return [
        *(
            percent([rates[role] for rates in by_role])
            for role in ROLES
            for by_role in ([one.strict for one in couplings], [one.end_anchored for one in couplings])
        ),
        *(arrow([one.log_p[role] for one in couplings], 1) for role in ROLES),
        percent([one.marker_first for one in couplings]),
        arrow([one.marker_first_p for one in couplings]),
        percent([one.empty for one in couplings]),
        percent([one.debris for one in couplings]),
        arrow([one.debris_p for one in couplings]),
        percent([one.truncated for one in couplings]),
        arrow([one.answer_log_p for one in couplings]),
        f"{np.mean(seconds):.2f}" if seconds else "–",
        ", ".join(sorted({warning for one in couplings for warning in one.warnings})),
    ]
