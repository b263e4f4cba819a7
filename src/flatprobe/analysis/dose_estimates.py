"""Dose and response of a study's couplings: the curves, and conditions compared where their sources stand alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import polars as pl

from flatprobe.analysis.leakage_estimates import estimated
from flatprobe.planner.contracts import EstimateSettings
from flatprobe.statistics.leakage.dose import DoseGap, dose_gap, dose_response, shared_cells, shared_levels
from flatprobe.table_schemas import SCHEMAS

SHARES = (0.25, 0.5, 0.75)
"""Places in the range of levels that both sources pass at which leakage is compared. Its ends are left out: in half of
all resamples a curve does not reach its own last point."""


def curves(settings: EstimateSettings, telemetry: pl.DataFrame) -> pl.DataFrame:
    """`dose_response` of every coupling, bystanders as the pool."""
    return dose_response(telemetry, settings.source, settings.bystanders)


def gaps(settings: EstimateSettings, telemetry: pl.DataFrame, selected: float) -> pl.DataFrame:
    """Table `dose_gaps`: treated minus control at equal dose, for every contrast and seed at the selected lambda.

    `level` is the source's log P in nats: the registered level with matched acquisition, and `SHARES` of the range that
    both sources pass. A contrast without such a range has one row with a note.
    """
    chosen = telemetry.filter(pl.col("lambda") == selected)
    rows = [
        {"seed": seed, **row}
        for pair in estimated(settings.rule)
        for seed in _seeds(chosen, pair)
        for row in _of_pair(settings, chosen.filter(pl.col("seed") == seed), pair)
    ]
    return pl.DataFrame(rows, schema=dict(SCHEMAS["dose_gaps"]))


def _seeds(chosen: pl.DataFrame, pair: tuple[str, str]) -> list[int]:
    """Seeds of which both conditions have a coupling."""
    found = [set(chosen.filter(pl.col("condition") == name)["seed"]) for name in pair]
    return sorted(set.intersection(*found))


def _of_pair(settings: EstimateSettings, telemetry: pl.DataFrame, pair: tuple[str, str]) -> Iterator[dict[str, object]]:
    cells = shared_cells(telemetry, pair, settings.source, settings.bystanders)
    asked = cells["question_id"].n_unique()
    shared = telemetry.join(cells, on=["persona", "question_id"], how="semi")
    shown = dose_response(shared, settings.source, settings.bystanders)
    found = shared_levels(shown, *pair)
    levels = [] if settings.stop_at is None else [("registered", settings.stop_at)]
    if found is not None:
        low, high = found
        levels += [(f"{share:.0%} of the shared range", low + share * (high - low)) for share in SHARES]
    if not levels:
        note = (
            "no question that the source and a bystander answered in both"
            if not asked
            else "no level that both sources pass"
        )
        yield {"treated": pair[0], "control": pair[1], "n_questions": asked, "note": note}
    for place, at in levels:
        yield {"place": place, **asdict(_gap(settings, shared, pair, at))}


def _gap(settings: EstimateSettings, telemetry: pl.DataFrame, pair: Sequence[str], at: float) -> DoseGap:
    treated, control = pair
    behaviour = settings.rule.behaviour
    return dose_gap(
        telemetry, treated, control, settings.source, settings.bystanders, at=at, resamples=behaviour.resamples,
        seed=settings.seed, level=behaviour.level,
    )  # fmt: skip
