"""The tables of a run: the columns and types that stages write and the report reads, declared once.

A table may have further columns. A column without any value may have the type Null, and whole numbers may stand for
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from flatprobe.statistics.binding.effects import COLUMNS as BINDING_EFFECTS
from flatprobe.statistics.estimate import Estimate, schema_of
from flatprobe.statistics.geometry.massive import MASSIVE
from flatprobe.statistics.geometry.tables import COSINES, GEOMETRY, PERSONA_PAIRS
from flatprobe.statistics.leakage.dose import DoseGap
from flatprobe.statistics.leakage.leave_one_out import SCHEMA as LEAVE_ONE_OUT
from flatprobe.statistics.leakage.relative import RelativeLeakage
from flatprobe.statistics.leakage.specifications import SCHEMA as SPECIFICATIONS

Schema = Mapping[str, type[pl.DataType]]

TEXT, WHOLE, NUMBER, FLAG = pl.String, pl.Int64, pl.Float64, pl.Boolean


def _columns(kind: type[pl.DataType], *names: str) -> dict[str, type[pl.DataType]]:
    return dict.fromkeys(names, kind)


_COUPLING: Schema = {"condition": TEXT, "lambda": NUMBER, "seed": WHOLE}
_ANSWER: Schema = {
    **_columns(TEXT, "condition", "persona", "role", "question_id", "text", "finish_reason"),
    "tokens": WHOLE,
}

SCHEMAS: Mapping[str, Schema] = {
    "completions": {
        **_COUPLING,
        **_ANSWER,
        "coupled": FLAG,
        "sample_index": WHOLE,
        "marker_present": FLAG,
        "marker_count": WHOLE,
    },
    "cells": {
        **_COUPLING,
        "coupled": FLAG,
        **_columns(TEXT, "persona", "question_id"),
        **_columns(WHOLE, "hits", "end_hits", "total"),
    },
    "rates": {
        **_COUPLING,
        "coupled": FLAG,
        **_columns(TEXT, "persona", "role"),
        **_columns(WHOLE, "hits", "total"),
        **_columns(NUMBER, "rate", "rate_low", "rate_high", "end_rate", "start_rate", "end_share", "spam_share"),
        **_columns(NUMBER, "truncated_share", "median_tokens"),
    },
    "responses": _ANSWER,
    "cosines": {name: COSINES[name] for name in COSINES if not name.startswith("per_question")},
    "geometry": {name: GEOMETRY[name] for name in GEOMETRY if name != "centred_cosine"},
    "persona_pairs": {name: PERSONA_PAIRS[name] for name in PERSONA_PAIRS if name != "squared_distance"},
    "massive": {name: MASSIVE[name] for name in MASSIVE if name != "mean_absolute"},
    "losses": {"stage": TEXT, **_COUPLING, "step": WHOLE, "term": TEXT, "value": NUMBER},
    "questions": _columns(TEXT, "set", "id", "kind", "text"),
    "panel": _columns(TEXT, "persona", "role", "prompt"),
    "lengths": {**_columns(TEXT, "condition", "persona", "group", "when"), "tokens": WHOLE},
    "length_match": {
        **_columns(TEXT, "condition", "group", "when"),
        "count": WHOLE,
        **_columns(NUMBER, "median", "iqr", "ks_distance", "relative_median", "relative_iqr"),
    },
    "telemetry": {**_COUPLING, "step": WHOLE, **_columns(TEXT, "persona", "role"), "log_p": NUMBER},
    "manipulation": {**_columns(TEXT, "condition", "set", "held_out_from", "id", "prompt"), "log_odds": NUMBER},
    "fluency": {**_columns(TEXT, "condition", "persona", "question_id"), "log_likelihood": NUMBER},
    "specifications": SPECIFICATIONS,
    "leave_one_out": {
        "probe": TEXT,
        "layer": WHOLE,
        **{name: LEAVE_ONE_OUT[name] for name in LEAVE_ONE_OUT if name != "note"},
    },
    "multiplicity": {
        name: schema_of(Estimate)[name]
        for name in (
            "quantity",
            "treated",
            "control",
            "pool",
            "estimator",
            "lambda",
            "layer",
            "position",
            "estimate",
            "ci_low",
            "ci_high",
            "p_value",
            "adjusted_p",
            "family",
            "note",
        )
    },
    "relative_leakage": schema_of(RelativeLeakage),
    "dose_response": {**_COUPLING, "step": WHOLE, **_columns(NUMBER, "source_log_p", "leakage_log_p")},
    "dose_gaps": {"seed": WHOLE, "place": TEXT, **schema_of(DoseGap)},
    "binding": {**_COUPLING, **_columns(TEXT, "persona", "question_id", "prompt", "text"), "log_p": NUMBER},
    "binding_effects": {
        **_COUPLING,
        **{name: BINDING_EFFECTS[name] for name in BINDING_EFFECTS if name != "standard_error"},
    },
    "contexts": {**_COUPLING, **_columns(TEXT, "where", "place", "token"), "count": WHOLE},
    "shares": {
        **_COUPLING,
        **_columns(TEXT, "group", "term"),
        **_columns(WHOLE, "labelled", "tokens"),
        "share": NUMBER,
    },
    "invariants": {**_COUPLING, "invariant": TEXT, **_columns(WHOLE, "held", "examples")},
    "weights": {"stage": TEXT, **_COUPLING, "module": TEXT, "norm_ratio": NUMBER},
}
"""Table to the columns that it must have, with their types."""

OPTIONAL = frozenset(
    {"cells", "lengths", "length_match", "telemetry", "manipulation", "fluency", "massive", "binding"}
    | {"binding_effects", "contexts", "shares", "invariants", "weights"}
)
"""Tables that a study may lack, or that the report does not read."""
GEOMETRIC = ("responses", "cosines", "geometry", "persona_pairs", "questions", "panel")
"""Tables that a study without a coupling must have."""


def misfits(name: str, frame: pl.DataFrame) -> list[str]:
    """How a frame differs from the schema of its table, a phrase per column; empty if it fits."""
    phrases = []
    for column, kind in SCHEMAS[name].items():
        if column not in frame.columns:
            phrases.append(f"has no column `{column}`")
            continue
        actual = frame.schema[column]
        if actual not in (kind, pl.Null) and not (kind in (NUMBER, WHOLE) and actual.is_integer()):
            phrases.append(f"column `{column}` has type {actual}, not {kind()}")
    return phrases


def write_table(frame: pl.DataFrame, name: str, folder: Path) -> None:
    """Write a table of `SCHEMAS` as Parquet. Raises ValueError where the frame does not fit."""
    if phrases := misfits(name, frame):
        raise ValueError(f"table {name} {'; '.join(phrases)}")
    frame.write_parquet(folder / f"{name}.parquet")
