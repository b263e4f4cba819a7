"""Stage: two checkpoints' states against each other, every measure at every position, layer and kind of responses."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from flatprobe.analysis.comparison_rows import (
    FINISHED,
    Row,
    described_rows,
    persona_rows,
    pool_rows,
)
from flatprobe.analysis.read_states import index_of, kinds, states_of, unfinished_questions
from flatprobe.pipeline.progress import report_progress
from flatprobe.plan.contracts import Entry, PairSettings
from flatprobe.statistics.geometry.contrasts import GeometryOptions, gram_contrasts
from flatprobe.statistics.geometry.grams import PARTS, PairGrams, Part, pair_grams
from flatprobe.statistics.geometry.massive import massive_activation_table
from flatprobe.statistics.geometry.states import StateKind, States
from flatprobe.statistics.geometry.tables import cosine_table, geometry_table, persona_pair_table
from flatprobe.study.panel import PRIMARY_POOL

SIDES = ("base", "treated")
ENTRIES = tuple(Entry(role=side, kind="states", condition=side, seed=None) for side in SIDES)
WITHOUT_UNFINISHED = ("cosine_difference", "crossvalidated_cosine_difference", "contraction")


def compare(settings: PairSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Inputs: `base` and `treated`, both states of the same personas, questions, layers and positions.

    Output: rows.json (a list of `pair_rows.Row`); geometry, cosines, massive and persona_pairs as Parquet, as in a
    study; facts.json: whether all states of both are equal, how many answers of each are
    unfinished, and how many of the fixed ones.

    The states' own differences are those of the experiment: same Gram matrices, measures and resamples.
    """
    found = [kind for kind in kinds(inputs, ENTRIES) if kind.responses in settings.responses]
    rows: list[Row] = []
    tables: dict[str, list[pl.DataFrame]] = {
        "geometry": [], "cosines": [], "massive": [], "persona_pairs": [],
    }  # fmt: skip
    identical = True
    for number, kind in enumerate(found, start=1):
        states = states_of(inputs, ENTRIES, kind)
        base, treated = (states[side] for side in SIDES)
        identical = identical and bool(np.array_equal(base.h_PQLD, treated.h_PQLD))
        described = _describe(settings, states, kind, tables)
        rows += _rows(settings, states, kind)
        rows += described_rows(
            described["base"], described["treated"], personas=len(settings.bystanders),
            questions=len(base.questions),
        )  # fmt: skip
        rows += _finished_rows(settings, inputs, states, kind)
        report_progress(number, len(found), str(kind))
    (output / "rows.json").write_text(json.dumps([row.to_json() for row in rows], allow_nan=False))
    for name, parts in tables.items():
        pl.concat(parts).write_parquet(output / f"{name}.parquet")
    unfinished = {side: len(index_of(inputs[side])["unfinished"]) for side in SIDES}
    facts = {
        "identical": identical, "unfinished": unfinished,
        "unfinished_fixed": len(index_of(inputs["base"])["unfinished_fixed"]),
    }  # fmt: skip
    (output / "facts.json").write_text(json.dumps(facts))


def _describe(
    settings: PairSettings,
    states: Mapping[str, States],
    kind: StateKind,
    tables: dict[str, list[pl.DataFrame]],
) -> dict[str, pl.DataFrame]:
    """The tables that describe each checkpoint, appended to `tables`; returns the geometry table by side."""
    pool = (settings.source, *settings.bystanders)
    described = {}
    for side, own in states.items():
        described[side] = geometry_table(
            own,
            settings.source,
            settings.bystanders,
            kind,
            seed=settings.seed,
            splits=settings.reliability_splits,
        )
        tables["geometry"].append(described[side])
        tables["cosines"].append(cosine_table(own, settings.source, kind))
        for name, table in (("massive", massive_activation_table), ("persona_pairs", persona_pair_table)):
            tables[name].append(table(own, pool, kind))
    return described


def _rows(settings: PairSettings, states: Mapping[str, States], kind: StateKind) -> list[Row]:
    """Every measure over the pool, and the cosines of every persona, references too."""
    others = [name for name in states["base"].personas if name != settings.source]
    everyone = _grams(settings, states, others, parts=())  # the cosines read no part
    options = _options(settings, kind, PRIMARY_POOL)
    return [
        *_of_pool(settings, states, kind, PRIMARY_POOL),
        *persona_rows(everyone, options),
    ]


def _finished_rows(
    settings: PairSettings, inputs: Mapping[str, Path], states: Mapping[str, States], kind: StateKind
) -> list[Row]:
    """The main measures without the questions that any answer of source or bystanders left unfinished."""
    pool = (settings.source, *settings.bystanders)
    unfinished: set[str] = set()
    for side in SIDES:
        unfinished |= unfinished_questions(index_of(inputs[side]), kind.responses, pool)
    if not unfinished or len(states["base"].questions) - len(unfinished) < 2:
        return []
    kept = {side: own.without(sorted(unfinished)) for side, own in states.items()}
    return _of_pool(settings, kept, kind, FINISHED, WITHOUT_UNFINISHED)


def _of_pool(
    settings: PairSettings,
    states: Mapping[str, States],
    kind: StateKind,
    pool: str,
    measures: tuple[str, ...] | None = None,
) -> list[Row]:
    grams = _grams(settings, states, settings.bystanders)
    options = replace(_options(settings, kind, pool), measures=measures)
    return pool_rows(grams, gram_contrasts([grams], options))


def _options(settings: PairSettings, kind: StateKind, pool: str) -> GeometryOptions:
    return GeometryOptions(
        kind=kind, pool=pool, resamples=settings.resamples, seed=settings.seed, level=settings.level
    )


def _grams(
    settings: PairSettings,
    states: Mapping[str, States],
    others: Sequence[str],
    parts: Collection[Part] = PARTS,
) -> PairGrams:
    [grams] = pair_grams(states, [("treated", "base")], settings.source, others, parts)
    return grams
