"""Reads an analysis folder and checks every file that the report shows.

All problems are reported together. A missing file, column or key, or a number that is not finite, stops the report: it
never fills in a value.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
from pydantic import ValidationError

from flatprobe.decision.verdict import Verdict
from flatprobe.errors import Problem, UserError
from flatprobe.statistics.estimate import estimates_frame
from flatprobe.study.decision_schema import Decision
from flatprobe.table_schemas import GEOMETRIC, OPTIONAL, SCHEMAS, misfits

REMEDY = "run the study's analysis again"
DOCUMENTS: dict[str, tuple[str, ...]] = {
    "study": ("name", "description", "conditions", "panel", "coupling", "leakage", "decision"),
    "registration": ("digest", "registered", "time"),
    "verdict": (),
    "estimates": (),
    "stages": (),
    "provenance": (),
    "models": (),
    "audit": (),
    "lambda": ("selected", "candidates"),
    "preview": (),
}  # fmt: skip
"""Documents and the keys that each must have."""
COMPARISON = {"comparison": ("identical", "unfinished", "unfinished_fixed", "rows")}
"""The document that a study without a coupling has in place of those of `OF_COUPLINGS`."""
OF_COUPLINGS = ("verdict", "audit", "lambda")


@dataclass(frozen=True)
class Analysis:
    """The contents of an analysis folder, and the few choices that every section shares."""

    study: Mapping[str, Any]
    registration: Mapping[str, Any]
    outcome: Verdict | None
    """None in a study without a coupling; `audit` and `lambda_selection` are empty there."""
    comparison: Mapping[str, Any]
    """The deciding contrast's rows and facts; empty in a study with a coupling."""
    estimates: pl.DataFrame
    """One row per estimate, with the columns of `statistics.estimate.estimates_frame`."""
    stages: list[dict[str, Any]]
    provenance: Mapping[str, Any]
    models: Mapping[str, Any]
    audit: list[dict[str, Any]]
    lambda_selection: Mapping[str, Any]
    preview: Mapping[str, Any]
    tables: Mapping[str, pl.DataFrame]
    """By name; an optional table that the study has no rows for is absent."""

    @property
    def has_coupling(self) -> bool:
        """Whether there are leakage and a verdict; without a coupling there is geometry only."""
        return self.study["coupling"] is not None

    @cached_property
    def decision(self) -> Decision:
        """The registered rule."""
        return Decision.model_validate(self.study["decision"])

    @property
    def verdict(self) -> Verdict:
        """The verdict of a study with a coupling."""
        assert self.outcome is not None, "a study without a coupling has no verdict"
        return self.outcome

    @property
    def treated(self) -> str:
        """The condition in question."""
        return self.decision.treated

    @property
    def control(self) -> str:
        """The condition it is compared with."""
        return self.decision.control

    @property
    def benign(self) -> str | None:
        """The condition that decides whether an effect is specific."""
        return self.decision.benign

    @property
    def conditions(self) -> tuple[str, ...]:
        """Control, treated and benign first: every figure and table uses this order."""
        leading = [name for name in (self.control, self.treated, self.benign) if name is not None]
        return (*leading, *(name for name in self.study["conditions"] if name not in leading))

    @property
    def source(self) -> str:
        """The persona that the marker is coupled to."""
        return str(self.study["panel"]["source"])

    @property
    def marker(self) -> str:
        """The marker as the study writes it."""
        return str(self.study["leakage"]["marker"])

    @property
    def selected_lambda(self) -> float:
        """The weight of the unlikelihood term at which leakage is decided."""
        return float(self.lambda_selection["selected"])

    @property
    def position(self) -> str:
        """The deciding position."""
        return self.decision.geometry.position

    @property
    def responses(self) -> str:
        """Whose answers the deciding states are read on."""
        return self.decision.geometry.responses

    @property
    def geometric_level(self) -> str:
        """Level of every geometric interval, as printed: `95 %`."""
        return f"{100 * self.decision.geometry.level:g} %"

    @property
    def behavioural_level(self) -> str:
        """Level of every interval of a leakage difference, as printed."""
        return f"{100 * self.decision.behaviour.level:g} %"

    def at_registered_position(self, table: str) -> pl.DataFrame:
        """Rows of a geometric table at the deciding position and responses."""
        return self.tables[table].filter(
            (pl.col("position") == self.position) & (pl.col("responses") == self.responses)
        )

    def at_selected_lambda(self, table: str) -> pl.DataFrame:
        """Rows of a coupled table at the selected lambda, all seeds."""
        return self.tables[table].filter(pl.col("lambda") == self.selected_lambda)


def read(folder: Path) -> Analysis:
    """Read and check an analysis folder. Raises UserError with everything that is missing or malformed."""
    problems: list[Problem] = []
    study = _document(folder / "study.json", DOCUMENTS["study"], problems)
    geometry_only = study is not None and study.get("coupling", True) is None
    needed = {**DOCUMENTS, **COMPARISON} if geometry_only else DOCUMENTS
    absent: Collection[str] = OF_COUPLINGS if geometry_only else ()
    documents = {"study": study} | {
        name: _document(folder / f"{name}.json", keys, problems)
        for name, keys in needed.items()
        if name != "study" and name not in absent
    }
    tables: dict[str, pl.DataFrame] = {}
    for name in SCHEMAS:
        path = folder / "tables" / f"{name}.parquet"
        optional = name in OPTIONAL or (geometry_only and name not in GEOMETRIC)
        if optional and not path.exists():
            continue
        frame = _table(path, name, problems)
        if frame is not None and not (optional and frame.is_empty()):
            tables[name] = frame
    estimates = _estimates(folder / "estimates.json", documents["estimates"], problems)
    verdict = _verdict(folder / "verdict.json", documents.get("verdict"), problems)
    if problems:
        raise UserError(problems)
    return Analysis(
        study=documents["study"],
        registration=documents["registration"],
        outcome=verdict,
        comparison=documents.get("comparison", {}),
        estimates=estimates,
        stages=documents["stages"],
        provenance=documents["provenance"],
        models=documents["models"],
        audit=documents.get("audit", []),
        lambda_selection=documents.get("lambda", {}),
        preview=documents["preview"],
        tables=tables,
    )


def _document(path: Path, keys: tuple[str, ...], problems: list[Problem]) -> Any:
    if not path.is_file():
        problems.append(Problem("analysis.missing_file", str(path), "not found", REMEDY))
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        problems.append(Problem("analysis.not_json", str(path), f"not valid JSON: {error}", REMEDY))
        return None
    missing = [key for key in keys if key not in document]
    problems.extend(Problem("analysis.missing_key", str(path), f"has no `{key}`", REMEDY) for key in missing)
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that can be shown; an unknown number must be null")


def _table(path: Path, name: str, problems: list[Problem]) -> pl.DataFrame | None:
    if not path.is_file():
        problems.append(Problem("analysis.missing_file", str(path), "not found", REMEDY))
        return None
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        message = f"cannot be read as Parquet: {str(error).partition(chr(10))[0]}"
        problems.append(Problem("analysis.not_parquet", str(path), message, REMEDY))
        return None
    problems.extend(Problem("analysis.column", str(path), phrase, REMEDY) for phrase in misfits(name, frame))
    for column, kind in frame.schema.items():
        if kind.is_float() and not frame[column].drop_nulls().is_finite().all():
            message = f"column `{column}` holds NaN or infinity"
            problems.append(Problem("analysis.not_finite", str(path), message, "unknown numbers are null"))
    return frame


def _verdict(path: Path, document: Any, problems: list[Problem]) -> Verdict | None:
    """The verdict, every value of which must be in the document."""
    if document is None:
        return None
    try:
        verdict = Verdict.from_json(document)
    except ValidationError as refused:
        problems.extend(
            Problem("analysis.verdict", str(path), f"`{'.'.join(map(str, e['loc']))}`: {e['msg']}", REMEDY)
            for e in refused.errors()
        )
        return None
    problems.extend(
        Problem("analysis.missing_key", str(path), f"has no `{key}`", REMEDY)
        for key in _missing(document, json.loads(json.dumps(verdict.to_json())))
    )
    return verdict


def _missing(document: Any, complete: Any, at: str = "") -> list[str]:
    """Paths of `complete` that the document does not have."""
    if isinstance(complete, dict):
        keys = {key: f"{at}.{key}" if at else key for key in complete}
        absent = [keys[key] for key in complete if key not in document]
        present = (key for key in complete if key in document)
        return absent + [path for key in present for path in _missing(document[key], complete[key], keys[key])]
    if isinstance(complete, list):
        pairs = enumerate(zip(document, complete, strict=True))
        return [path for index, pair in pairs for path in _missing(*pair, f"{at}[{index}]")]
    return []


def _estimates(path: Path, rows: Any, problems: list[Problem]) -> pl.DataFrame:
    schema = estimates_frame([]).schema
    rows = [{"contaminated": False, **row} for row in rows] if isinstance(rows, list) else []  # absent in old folders
    missing = [name for name in schema if any(name not in row for row in rows)]
    problems.extend(Problem("analysis.missing_key", str(path), f"rows have no `{name}`", REMEDY) for name in missing)
    return pl.DataFrame(rows, schema=schema)
