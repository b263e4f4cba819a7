"""One estimate: a number with its interval, its p-value and the scope of both."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import polars as pl

Value = str | float | int | bool | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A contrast of two conditions by one estimator. Unknown numbers are None, never NaN and never 0."""

    quantity: str
    """`leakage_difference` (a difference of rates) or a geometric measure's name."""
    contrast: str
    """`treated - control`, for instance `em_first - base_first`."""
    treated: str
    """Condition whose value enters with a plus sign (or as numerator)."""
    control: str
    """Condition whose value enters with a minus sign (or as denominator)."""
    pool: str
    """Name of the set of personas averaged over."""
    contaminated: bool = False
    """Whether a persona of the pool was trained on."""
    estimator: str
    """Method behind interval and p-value."""
    scope: str
    """What interval and p-value generalise to."""
    estimate: float | None = None
    """A difference of rates, cosine units, or as the measure defines."""
    standard_error: float | None = None
    """Standard error of `estimate`; on the log scale for ratios."""
    ci_low: float | None = None
    """Lower end of the two-sided interval."""
    ci_high: float | None = None
    """Upper end of the two-sided interval."""
    p_value: float | None = None
    """Two-sided p-value of no difference (of ratio 1 for ratios)."""
    smallest_attainable_p: float | None = None
    """Smallest p that this estimator can return on this design; None if there is no floor."""
    df: float | None = None
    """Degrees of freedom of the t distribution behind interval and p-value."""
    n_personas: int | None = None
    """Personas averaged over."""
    n_questions: int | None = None
    """Questions averaged over."""
    resamples: int | None = None
    """Bootstrap or permutation draws."""
    layer: int | None = None
    """0-based decoder block; None is the registered aggregate, the mean over layers."""
    position: str | None = None
    """Token position of the states."""
    responses: str | None = None
    """Answers that the states were read on: `own` or `fixed`."""
    persona: str | None = None
    """The persona, where the estimate is about one persona and not a pool."""
    lambda_: float | None = None
    """Weight of the unlikelihood term; `lambda` in tables."""
    seed: int | None = None
    """Study seed of the checkpoints."""
    bootstrap_bias: float | None = None
    """Mean of the resampled values minus the estimate."""
    outside_own_interval: bool | None = None
    """Whether the percentile interval excludes its own estimate: a sign of bias."""
    margin: float | None = None
    """Margin of `superiority_p`, in the units of `estimate`."""
    superiority_p: float | None = None
    """One-sided p of H0: difference <= margin."""
    equivalence_margin: float | None = None
    """Margin of `equivalence_p`, in the units of `estimate`."""
    equivalence_p: float | None = None
    """p of H0: |difference| >= equivalence_margin, the larger of two one-sided p-values."""
    adjusted_p: float | None = None
    """`p_value` adjusted for its `family`; two-sided."""
    family: str | None = None
    """Method and family of `adjusted_p`: `max-T over 6 layers`, `Holm over 3 lambdas`."""
    note: str | None = None
    """What a reader must know; where a number is None, the reason."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"Estimate.{field.name} = {value}: an unknown number is None")

    def __str__(self) -> str:
        """One line: estimator, value with interval (rates in pp), p, and scope; without numbers, the note."""
        is_rate = self.quantity == "leakage_difference"
        layer = "" if self.layer is None else f" layer {self.layer}"
        name = f"{self.estimator:22}" if is_rate else f"{self.quantity}{layer}, {self.estimator} "
        if self.estimate is None:
            return f"{name} not estimated: {self.note}"
        scale, unit, digits = (100.0, " pp", 1) if is_rate else (1.0, "", 3)
        interval, p_value = "no interval", "no p"
        if self.ci_low is not None and self.ci_high is not None:
            interval = f"[{scale * self.ci_low:+.{digits}f}, {scale * self.ci_high:+.{digits}f}]"
        if self.p_value is not None:
            p_value = f"p {self.p_value:.4f}" if self.p_value >= 1e-4 else "p < .0001"
        return f"{name} {scale * self.estimate:+.{digits}f}{unit} {interval:15} {p_value:9} {self.scope}"

    def to_json(self) -> dict[str, Value]:
        """The estimate as a JSON object, one key per field (`lambda_` becomes `lambda`)."""
        return {field.name.rstrip("_"): _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, row: Mapping[str, Value]) -> Self:
        """The estimate behind a JSON object of `to_json`."""
        return cls(**{f"{name}_" if name == "lambda" else name: value for name, value in row.items()})  # type: ignore[arg-type]


def finite(value: float) -> float | None:
    """The number as a Python float; None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def _plain(value: Value) -> Value:
    """Turn a numpy scalar, which json cannot write, into a Python one."""
    item = getattr(value, "item", None)
    return item() if callable(item) else value


_TYPES: dict[str, type[pl.DataType]] = {"str": pl.String, "int": pl.Int64, "float": pl.Float64, "bool": pl.Boolean}


def schema_of(rows: type[Any]) -> dict[str, type[pl.DataType]]:
    """The table of a dataclass whose fields are text, numbers or flags: column to type (`lambda_` becomes `lambda`)."""
    return {field.name.rstrip("_"): _TYPES[str(field.type).removesuffix(" | None")] for field in fields(rows)}


def estimates_frame(estimates: Sequence[Estimate]) -> pl.DataFrame:
    """One row per estimate. An empty list gives an empty frame with all columns."""
    return pl.DataFrame([estimate.to_json() for estimate in estimates], schema=schema_of(Estimate))


def write_json(estimates: Sequence[Estimate], path: Path) -> None:
    """Write the estimates as a JSON list."""
    rows = [estimate.to_json() for estimate in estimates]
    path.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n", encoding="utf-8")
