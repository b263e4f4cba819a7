"""The specification curve: the leakage difference by every defensible specification."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import polars as pl

from flatprobe.errors import Problem, UserError
from flatprobe.statistics.leakage.cells import COLUMNS
from flatprobe.statistics.leakage.estimators import leakage_contrast
from flatprobe.statistics.leakage.seeds import over_seeds

DETECTORS = {"strict": "hits", "end_anchored": "end_hits", "start_anchored": "start_hits"}
"""What counts as a marked completion, and the column that holds its count."""

SCHEMA = {
    "contrast": pl.String,
    "pool": pl.String,
    "contaminated": pl.Boolean,
    "lambda": pl.Float64,
    "detector": pl.String,
    "estimator": pl.String,
    "scope": pl.String,
    "estimate": pl.Float64,
    "standard_error": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "p_value": pl.Float64,
    "n_personas": pl.Int64,
    "n_questions": pl.Int64,
    "note": pl.String,
}


def specification_curve(
    cells: pl.DataFrame,
    treated: str,
    control: str,
    pools: Mapping[str, Sequence[str]],
    *,
    trained: Collection[str] = (),
    resamples: int,
    seed: int,
    level: float,
) -> pl.DataFrame:
    """Estimate `treated - control` for every pool, lambda and detector, by every estimator: one row each.

    `cells` has columns condition, persona, question_id, hits, total. Also used, where present: `lambda` (every value
    that both conditions have), `coupled` (only true rows), `seed` (counts are summed over seeds, which both conditions
    must share), and the other counts of `DETECTORS`. A pool with a persona in `trained` is labelled contaminated. Rows
    are sorted by pool, lambda, detector and estimator. A specification that cannot be estimated has null numbers and
    the reason in its note. Raises UserError without a pool or a common lambda, and for whatever `leakage_contrast`
    refuses.
    """
    problems = [] if pools else [Problem("specifications.no_pool", "pools", "there is no pool", "name at least one")]
    problems += [
        Problem("cells.missing_column", "leakage cells", f"column {name} is missing")
        for name in COLUMNS
        if name not in cells.columns
    ]
    if problems:
        raise UserError(problems)
    detectors = {name: column for name, column in DETECTORS.items() if column in cells.columns}
    slices = _slices(cells, treated, control)
    rows = []
    for pool, personas in pools.items():
        contaminated = bool(set(personas) & set(trained))
        for lambda_, counts in slices.items():
            for detector, column in detectors.items():
                detected = counts.with_columns(hits=pl.col(column))
                estimates = leakage_contrast(
                    over_seeds(detected, treated, control, personas), treated, control, personas,
                    pool=pool, resamples=resamples, seed=seed, level=level, contaminated=contaminated,
                )  # fmt: skip
                chosen = {"lambda": lambda_, "detector": detector}
                for estimate in estimates:
                    row = {**estimate.to_json(), **chosen}
                    rows.append({name: row[name] for name in SCHEMA})
    return pl.DataFrame(rows, schema=SCHEMA)


def _slices(cells: pl.DataFrame, treated: str, control: str) -> dict[float | None, pl.DataFrame]:
    """Rows by lambda, for every lambda that both conditions have; all rows under None without such a column."""
    used = cells.filter(pl.col("coupled")) if "coupled" in cells.columns else cells
    if "lambda" not in cells.columns:
        return {None: used}
    values = [
        set(used.filter(pl.col("condition") == condition)["lambda"].drop_nulls()) for condition in (treated, control)
    ]
    common = sorted(values[0] & values[1])
    if not common:
        raise UserError.one(
            "specifications.no_common_lambda",
            "lambda",
            f"{treated} and {control} have none in common",
            "couple both at one lambda",
        )
    return {float(value): used.filter(pl.col("lambda") == value) for value in common}
