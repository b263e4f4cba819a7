"""Tables of the couplings: their last readings, and conditions compared at equal dose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Row, Table, Write, build
from flatprobe.report.words import spaced
from flatprobe.training.findings import WARNINGS


def findings(analysis: Analysis) -> Table | None:
    """Every coupling's last reading of the telemetry, with its warnings."""
    rows = list(_couplings(analysis))
    if not rows:
        return None
    columns = [
        Column("condition", "condition"),
        Column("λ", "lambda", numbers.plain),
        Column("seed", "seed", numbers.plain),
        Column("steps", _steps, str),
        Column("log P, source", "source_log_p", numbers.nats),
        Column("next persona", lambda row: row["largest_other"] or numbers.NONE),
        Column("containment (source − next)", "containment", numbers.signed_nats),
        Column("marker first", lambda row: _change(row["marker_first"], numbers.percent), str),
        Column("template first", lambda row: _change(row["debris_first"], numbers.percent), str),
        Column("end first", lambda row: _change(row["empty"], numbers.percent), str),
        Column("log P, answers", lambda row: _change(row["answer_log_p"], numbers.nats), str),
        Column("warnings", lambda row: spaced(", ".join(row["warnings"])) or "none", align="long"),
    ]
    caption = (
        "The state of each coupling at its end, teacher-forced on the uncoupled checkpoint’s answers to calibration "
        "questions. Log P of separator and marker after the source’s answers, and its lead over the next persona "
        "(nats). Before → after: the probability that the first response token belongs to the marker, to the template "
        "or to the end of turn, and log P of the answers’ own tokens (nats per token)."
    )
    return build("findings", caption, columns, rows)


def warnings(analysis: Analysis) -> list[str]:
    """Warnings of the couplings at the selected lambda, except inert terms, which the page lists separately."""
    arms: dict[str, list[str]] = {}
    for row in _couplings(analysis):
        if row["lambda"] == analysis.selected_lambda:
            for name in (name for name in row["warnings"] if name != "inert"):
                arms.setdefault(name, []).append(f"{row['condition']}, seed {row['seed']}")
    return [f"{WARNINGS[name]} ({'; '.join(names)})" for name, names in arms.items()]


def dose_gaps(analysis: Analysis) -> Table:
    """Treated minus control leakage at equal log P of the source."""
    columns = [
        Column("contrast", lambda row: select.contrast_name(row["treated"], row["control"])),
        Column("seed", "seed", numbers.plain),
        Column("read at", lambda row: row["place"] or numbers.NONE),
        Column("log P, source", "level", numbers.nats),
        Column("treated", "treated_log_p", numbers.nats),
        Column("control", "control_log_p", numbers.nats),
        Column("gap", "gap", numbers.signed_nats),
        Column(
            f"{analysis.behavioural_level} interval",
            lambda row: numbers.interval(row["ci_low"], row["ci_high"], numbers.signed_nats),
            str,
        ),
        Column("questions", "n_questions", numbers.plain),
        Column("note", lambda row: row["note"] or numbers.NONE, align="long"),
    ]
    caption = (
        "Dose–response gap: log P of the marker under bystanders, treated − control, at equal log P under the source "
        "(nats; percentile intervals over questions). Above 0, the treated condition leaks more at equal dose."
    )
    return build("dose-gaps", caption, columns, analysis.tables["dose_gaps"].to_dicts())


def _couplings(analysis: Analysis) -> Iterator[dict[str, Any]]:
    for condition in analysis.conditions:
        for coupling in analysis.models.get(condition, {}).get("couplings", ()):
            yield {"condition": condition, **coupling}


def _steps(row: Row) -> str:
    """Steps made, of those planned; with matched acquisition, whether the registered log P was reached."""
    made = f"{row['steps']} of {row['planned_steps']}"
    return made if row["reached"] is None else f"{made}, {'' if row['reached'] else 'not '}reached"


def _change(values: Mapping[str, float | None], write: Write) -> str:
    return f"{write(values['before'])} → {write(values['after'])}"
