"""Stage: every contrast of the study with its interval, and the tables that describe its geometry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from safetensors.numpy import load_file

from flatprobe.analysis.settings import Entry, EstimateSettings
from flatprobe.pipeline.progress import report_progress
from flatprobe.statistics.estimands import Estimate, write_json
from flatprobe.statistics.geometry import geometry_contrast
from flatprobe.statistics.geometry_tables import cosine_table, geometry_table
from flatprobe.statistics.leakage import leakage_contrast
from flatprobe.statistics.states import States
from flatprobe.study.schema import Decision

BYSTANDERS = "bystanders"


def contrasts(rule: Decision) -> list[tuple[str, str]]:
    """(treated, control) pairs that are estimated: the deciding one first."""
    pairs = [(rule.treated, rule.control)]
    if rule.benign is not None:
        pairs += [(rule.treated, rule.benign), (rule.benign, rule.control)]
    return pairs


def estimate(settings: EstimateSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Inputs: `tables`, and every condition's states under the entries' roles.

    Output: estimates.json, cosines.parquet, geometry.parquet.
    """
    cells = pl.read_parquet(inputs["tables"] / "tables" / "cells.parquet")
    selection = json.loads((inputs["tables"] / "selection.json").read_text())
    estimates = list(_leakage(settings, cells, float(selection["selected"])))
    cosines, geometry = [], []
    kinds = sorted(_keys(inputs, settings.entries))
    for number, kind in enumerate(kinds):
        responses, _, position = kind.partition(".")
        states = _states(inputs, settings.entries, kind)
        for condition in states.values():
            cosines.append(cosine_table(condition, settings.source, position=position, responses=responses))
            geometry.append(
                geometry_table(
                    condition, settings.source, settings.bystanders, position=position, responses=responses,
                    seed=settings.seed,
                )
            )  # fmt: skip
        for treated, control in contrasts(settings.rule):
            estimates += geometry_contrast(
                states[treated], states[control], settings.source, settings.bystanders, position=position,
                responses=responses, resamples=settings.geometry_resamples, seed=settings.seed,
                level=settings.rule.geometry.level,
            )  # fmt: skip
        report_progress(number + 1, len(kinds), kind)
    estimates += _finished_only(settings, inputs)
    estimates += _by_seed(settings, inputs, cells, float(selection["selected"]))
    write_json(estimates, output / "estimates.json")
    pl.concat(cosines).write_parquet(output / "cosines.parquet")
    pl.concat(geometry).write_parquet(output / "geometry.parquet")


def _leakage(settings: EstimateSettings, cells: pl.DataFrame, selected: float) -> Iterator[Estimate]:
    """Contrasts at the selected lambda, pooled over seeds (hits and totals of a cell summed), for every pool."""
    chosen = cells.filter(pl.col("coupled") & (pl.col("lambda") == selected))
    pooled = chosen.group_by(["condition", "persona", "question_id"], maintain_order=True).agg(
        pl.col("hits").sum(), pl.col("total").sum()
    )
    pools = {BYSTANDERS: settings.bystanders, **settings.pools}
    evaluated = set(pooled["persona"])
    for name, personas in pools.items():
        if not set(personas) <= evaluated:
            continue  # a named pool with a persona that this study does not evaluate
        for treated, control in contrasts(settings.rule):
            yield from leakage_contrast(
                pooled, treated, control, personas, pool=name, resamples=settings.rule.behaviour.resamples,
                seed=settings.seed, contaminated=bool(set(personas) & set(settings.trained)),
            )  # fmt: skip


def _keys(inputs: Mapping[str, Path], entries: Sequence[Entry]) -> list[str]:
    return list(load_file(inputs[entries[0].role] / "states.safetensors"))


def _states(
    inputs: Mapping[str, Path], entries: Sequence[Entry], kind: str, seed: int | None = None
) -> dict[str, States]:
    """States per condition, of one seed or of all; several seeds are laid side by side along the hidden axis.

    So inner products are sums over seeds, and every measure is of the seeds together; a condition whose checkpoint
    depends on no seed is the same in each.
    """
    named = sorted(entries, key=lambda entry: str(entry.condition))
    found: dict[str, list[np.ndarray[Any, np.dtype[np.float32]]]] = {}
    for condition, group in groupby(named, key=lambda entry: str(entry.condition)):
        own = list(group)
        wanted = own if seed is None or len(own) == 1 else [entry for entry in own if entry.seed == seed]
        found[condition] = [_load(inputs[entry.role], kind) for entry in wanted]
    most = max(len(arrays) for arrays in found.values())
    index = _index(inputs[entries[0].role])
    return {
        condition: States(
            condition, tuple(index["personas"]), tuple(index["questions"]), tuple(index["layers"]),
            np.concatenate(arrays * (most // len(arrays)), axis=-1),
        )
        for condition, arrays in found.items()
    }  # fmt: skip


def _by_seed(
    settings: EstimateSettings, inputs: Mapping[str, Path], cells: pl.DataFrame, selected: float
) -> list[Estimate]:
    """The deciding contrast's deciding estimates of each seed alone, where there are several."""
    chosen = cells.filter(pl.col("coupled") & (pl.col("lambda") == selected))
    seeds = chosen["seed"].unique().sort().to_list()
    if len(seeds) < 2:
        return []
    rule, leg = settings.rule, settings.rule.geometry
    found: list[Estimate] = []
    for seed in seeds:
        states = _states(inputs, settings.entries, f"{leg.responses}.{leg.position}", seed)
        found += geometry_contrast(
            states[rule.treated], states[rule.control], settings.source, settings.bystanders,
            position=leg.position, responses=leg.responses, resamples=settings.geometry_resamples,
            seed=settings.seed, level=leg.level,
        )  # fmt: skip
        found += leakage_contrast(
            chosen.filter(pl.col("seed") == seed), rule.treated, rule.control, settings.bystanders,
            pool=BYSTANDERS, resamples=rule.behaviour.resamples, seed=settings.seed,
        )  # fmt: skip
        found = [e if e.seed is not None else replace(e, seed=seed) for e in found]
    return found


def _load(folder: Path, kind: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    array: np.ndarray[Any, np.dtype[np.float32]] = load_file(folder / "states.safetensors")[kind]
    return array


def _index(folder: Path) -> dict[str, Any]:
    index = json.loads((folder / "index.json").read_text())
    assert isinstance(index, dict)
    return index


def unfinished_questions(
    index: Mapping[str, Any], responses: Literal["own", "fixed"], pool: Sequence[str]
) -> set[str]:
    """Questions that a condition's states are read on with an answer that is cut or empty, of these personas."""
    if responses == "fixed":
        return set(index["unfinished_fixed"])
    return {question for persona, question in index["unfinished"] if persona in pool}


def _finished_only(settings: EstimateSettings, inputs: Mapping[str, Path]) -> list[Estimate]:
    """The deciding contrast without questions that any source or bystander answer left unfinished."""
    leg, pool = settings.rule.geometry, (settings.source, *settings.bystanders)
    unfinished = {
        question
        for entry in settings.entries
        if entry.condition in (settings.rule.treated, settings.rule.control)
        for question in unfinished_questions(_index(inputs[entry.role]), leg.responses, pool)
    }
    states = _states(inputs, settings.entries, f"{leg.responses}.{leg.position}")
    treated, control = states[settings.rule.treated], states[settings.rule.control]
    if not unfinished or len(treated.questions) - len(unfinished) < 2:
        return []
    return geometry_contrast(
        treated.without(sorted(unfinished)), control.without(sorted(unfinished)), settings.source,
        settings.bystanders, position=leg.position, responses=leg.responses,
        resamples=settings.geometry_resamples, seed=settings.seed, level=leg.level, pool="finished answers only",
    )  # fmt: skip
