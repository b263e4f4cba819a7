"""Stage: every contrast of the study with its interval, and the tables that describe its geometry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from flatprobe.analysis import dose_estimates as dose_rows
from flatprobe.analysis import geometry_estimates as geometry_rows
from flatprobe.analysis import leakage_estimates as leakage_rows
from flatprobe.analysis.comparison_rows import compare
from flatprobe.analysis.read_states import kinds, states_of
from flatprobe.pipeline.progress import report_progress
from flatprobe.planner.contracts import EstimateSettings
from flatprobe.statistics.estimate import Estimate, estimates_frame, write_json
from flatprobe.statistics.geometry.massive import massive_activation_table
from flatprobe.statistics.geometry.states import StateKind
from flatprobe.statistics.geometry.tables import cosine_table, geometry_table, persona_pair_table
from flatprobe.table_schemas import write_table


def estimate(settings: EstimateSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Inputs: `tables`, and every condition's states under the entries' roles.

    Output: estimates.json and, as Parquet, cosines, geometry, massive, persona_pairs, specifications, leave_one_out,
    multiplicity, relative_leakage, dose_response (a row per coupling and step) and dose_gaps (conditions at equal
    dose). A study without a coupling has no cells; its output is that of `_geometry_only`.
    """
    if not (inputs["tables"] / "tables" / "cells.parquet").is_file():
        _geometry_only(settings, inputs, output)
        return
    cells = pl.read_parquet(inputs["tables"] / "tables" / "cells.parquet")
    selected = float(json.loads((inputs["tables"] / "selection.json").read_text())["selected"])
    estimates = list(leakage_rows.leakage_rows(settings, cells, selected))
    estimates += _geometry(settings, inputs, output)
    leg = settings.rule.geometry
    estimates += geometry_rows.finished_only(settings, inputs, StateKind(leg.responses, leg.position))
    seeds = leakage_rows.coupled_at(cells, selected)["seed"].unique().sort().to_list()
    estimates += geometry_rows.of_each_seed(settings, inputs, seeds)
    write_json(estimates, output / "estimates.json")
    adjusted = leakage_rows.over_lambdas(settings, cells)
    adjusted += geometry_rows.over_positions(settings, inputs, kinds(inputs, settings.entries))
    write_table(estimates_frame(adjusted), "multiplicity", output)
    write_table(leakage_rows.specifications(settings, cells), "specifications", output)
    write_table(leakage_rows.relative(settings, cells, selected), "relative_leakage", output)
    write_table(_leave_one_out(settings, inputs, cells, selected), "leave_one_out", output)
    telemetry = _telemetry(inputs["tables"] / "tables" / "telemetry.parquet")
    write_table(dose_rows.curves(settings, telemetry), "dose_response", output)
    write_table(dose_rows.gaps(settings, telemetry, selected), "dose_gaps", output)


def _geometry_only(settings: EstimateSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Write estimates.json, cosines, geometry, massive, persona_pairs, and the deciding contrast as comparison.json."""
    estimates = _geometry(settings, inputs, output)
    for kind in kinds(inputs, settings.entries):
        estimates += geometry_rows.finished_only(settings, inputs, kind)
    seeds = sorted({entry.seed for entry in settings.entries if entry.seed is not None})
    estimates += geometry_rows.of_each_seed(settings, inputs, seeds)
    write_json(estimates, output / "estimates.json")
    comparison = compare(settings, inputs, estimates, pl.read_parquet(output / "geometry.parquet"))
    (output / "comparison.json").write_text(json.dumps(comparison, allow_nan=False))


def _telemetry(path: Path) -> pl.DataFrame:
    """The readings of all couplings; no rows where no answer that could be read is finished."""
    if path.is_file():
        return pl.read_parquet(path)
    names = {"condition": pl.String, "lambda": pl.Float64, "seed": pl.Int64, "step": pl.Int64}
    return pl.DataFrame(schema={**names, "persona": pl.String, "question_id": pl.String, "log_p": pl.Float64})


def _geometry(settings: EstimateSettings, inputs: Mapping[str, Path], output: Path) -> list[Estimate]:
    """Contrasts on every kind of states; writes the tables that describe each condition."""
    estimates: list[Estimate] = []
    tables: dict[str, list[pl.DataFrame]] = {
        "cosines": [], "geometry": [], "massive": [], "persona_pairs": [],
    }  # fmt: skip
    found = kinds(inputs, settings.entries)
    pool = (settings.source, *settings.bystanders)
    for number, kind in enumerate(found, start=1):
        states = states_of(inputs, settings.entries, kind)
        for condition in states.values():
            tables["cosines"].append(cosine_table(condition, settings.source, kind))
            tables["geometry"].append(
                geometry_table(
                    condition,
                    settings.source,
                    settings.bystanders,
                    kind,
                    seed=settings.seed,
                    splits=settings.reliability_splits,
                )
            )
            for name, table in (("massive", massive_activation_table), ("persona_pairs", persona_pair_table)):
                tables[name].append(table(condition, pool, kind))
        estimates += geometry_rows.geometry_rows(settings, states, kind)
        report_progress(number, len(found), str(kind))
    for name, parts in tables.items():
        write_table(pl.concat(parts), name, output)
    return estimates


def _leave_one_out(
    settings: EstimateSettings, inputs: Mapping[str, Path], cells: pl.DataFrame, selected: float
) -> pl.DataFrame:
    """Both probes' deciding contrast without each persona and each question, as one table."""
    leakage = leakage_rows.without_one(settings, cells, selected).with_columns(probe=pl.lit("leakage"))
    geometry = geometry_rows.without_one(settings, inputs).rename({"measure": "estimator"})
    return pl.concat([leakage, geometry.with_columns(probe=pl.lit("geometry"))], how="diagonal")
