"""Tables of what couplings did: what was found at each, and conditions compared at equal dose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Table, build
from flatprobe.training.findings import NAMES


def findings(analysis: Analysis) -> Table | None:
    """Every coupling's last reading of the telemetry, with the names of what went wrong."""
    rows = list(_couplings(analysis))
    if not rows:
        return None
    columns = [
        Column("condition", "condition"),
        Column("λ", "lambda", numbers.plain),
        Column("seed", "seed", numbers.plain),
        Column("steps", _steps, str),
        Column("log P, source", "source_log_p", _nats),
        Column("likeliest other", lambda row: row["largest_other"] or numbers.NONE),
        Column("source minus it", "containment", _signed_nats),
        Column("marker first", lambda row: _change(row["marker_first"], numbers.percent), str),
        Column("template first", lambda row: _change(row["debris_first"], numbers.percent), str),
        Column("end first", lambda row: _change(row["empty"], numbers.percent), str),
        Column("log P, answers", lambda row: _change(row["answer_log_p"], _nats), str),
        Column("named", lambda row: ", ".join(row["warnings"]).replace("_", " ") or "nothing", align="long"),
    ]
    caption = (
        "What each coupling came to, teacher-forced on the uncoupled checkpoint's answers to calibration questions: "
        "log P of separator and marker behind the source's answers (nats), and by how much the source is ahead of "
        "whoever is next; before → after, the probability that the first response token is the marker's, a piece of "
        "the template, or the end of turn, and log P of the answers' own tokens (nats per token)."
    )
    return build("findings", caption, columns, rows)


def warnings(analysis: Analysis) -> list[str]:
    """What is wrong with couplings at the selected lambda; inert terms have a line of their own."""
    found: dict[str, list[str]] = {}
    for row in _couplings(analysis):
        if row["lambda"] == analysis.selected_lambda:
            for name in (name for name in row["warnings"] if name != "inert"):
                found.setdefault(name, []).append(f"{row['condition']}, seed {row['seed']}")
    return [f"{NAMES[name]} ({'; '.join(where)})" for name, where in found.items()]


def dose_gaps(analysis: Analysis) -> Table:
    """Treated minus control leakage where both sources stand alike."""
    columns = [
        Column("contrast", lambda row: select.contrast_name(row["treated"], row["control"])),
        Column("seed", "seed", numbers.plain),
        Column("read at", lambda row: row["place"] or numbers.NONE),
        Column("log P, source", "level", _nats),
        Column("treated", "treated_log_p", _nats),
        Column("control", "control_log_p", _nats),
        Column("gap", "gap", _signed_nats),
        Column(
            f"{analysis.behavioural_level} interval",
            lambda row: numbers.interval(row["ci_low"], row["ci_high"], _signed_nats), str,
        ),
        Column("questions", "n_questions", numbers.plain),
        Column("note", lambda row: row["note"] or numbers.NONE, align="long"),
    ]  # fmt: skip
    caption = (
        "Dose–response gap: log P of the marker under bystanders, treated minus control, where the source has it with "
        "the same log P in both (nats; percentile intervals over questions). Above 0, more leaks at equal acquisition."
    )
    return build("dose-gaps", caption, columns, analysis.tables["dose_gaps"].to_dicts())


def _couplings(analysis: Analysis) -> Iterator[dict[str, Any]]:
    for condition in analysis.conditions:
        for coupling in analysis.models.get(condition, {}).get("couplings", ()):
            yield {"condition": condition, **coupling}


def _steps(row: Mapping[str, Any]) -> str:
    """Steps made, of those planned; with matched acquisition, whether the level was reached."""
    made = f"{row['steps']} of {row['planned_steps']}"
    return made if row["reached"] is None else f"{made}, {'' if row['reached'] else 'not '}reached"


def _change(values: Mapping[str, float | None], write: Any) -> str:
    return f"{write(values['before'])} → {write(values['after'])}"


def _nats(value: float | None) -> str:
    return numbers.decimal(value, 2)


def _signed_nats(value: float | None) -> str:
    return numbers.signed(value, 2)
