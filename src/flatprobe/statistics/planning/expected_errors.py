"""The standard error that each leakage estimator will report, and how much the estimate really varies.

The model is a balanced table of normal effects. Each estimator's squared standard error is a linear combination of
mean squares, so its expectation is exact and it varies like independent chi-squares. Bootstraps are taken in the limit
of infinitely many resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np

from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.inference import ZERO
from flatprobe.statistics.leakage.estimators import SCOPES
from flatprobe.statistics.leakage.seeds import MINIMUM_SEEDS, SEED_SCOPES
from flatprobe.statistics.leakage.sign_flip import EXACT_PERSONAS
from flatprobe.statistics.planning.components import Components
from flatprobe.statistics.planning.mean_squares import Design, expected_mean_squares, scattered

MAIN = ("persona", "question", "run")
"""Mean squares of main effects."""


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """An estimator on a design, in units of a difference of rates (0.1 is 10 pp)."""

    estimator: str
    scope: str
    standard_error: float
    """Root mean square of the standard errors that it reports."""
    df: float | None
    """Degrees of freedom of its reference t distribution, at the expected mean squares; also used to approximate the
    studentised bootstrap and the sign flips. None is the normal, which approximates bootstrap percentiles."""
    errors_N: Array
    """Standard errors reported by N equally likely studies."""
    df_N: Array | None
    """Their degrees of freedom; None as in `df`."""
    sd_in_scope: float
    """Standard deviation of the estimate within the scope."""
    sd_in_population: float
    """Standard deviation of the estimate over new personas and questions (and training runs, where their
    variance is known)."""
    smallest_attainable_p: float | None
    """Smallest p that it can return; None if there is no floor."""
    levels: int | None = None
    """Where p takes only the values 1/levels, 2/levels, …: that number."""


def error_model(estimator: str, design: Design, components: Components) -> ErrorModel | str:
    """The model of an estimator of `SCOPES` or `SEED_SCOPES` on a design, or the reason why it has none.

    Training runs are pooled, as in the analysis: a cell then has K times seeds completions. The seed estimators assume
    that personas and questions respond alike in all runs.
    """
    reason = _unsupported(estimator, design, components)
    if reason is not None:
        return reason
    errors = _errors(estimator, design, components)
    if errors.standard_error <= ZERO:
        return "no variation: the standard error would be 0"
    levels = 2 ** (design.personas - 1) if _enumerated(estimator, design) else None
    return ErrorModel(
        estimator=estimator,
        scope={**SCOPES, **SEED_SCOPES}[estimator],
        standard_error=errors.standard_error,
        df=errors.df,
        errors_N=errors.errors_N,
        df_N=errors.df_N,
        sd_in_scope=sqrt(_variance(estimator, design, components)),
        sd_in_population=sqrt(_variance("crossed_anova_seed", design, components)),
        smallest_attainable_p=_floor(estimator, design, levels),
        levels=levels,
    )


@dataclass(frozen=True, eq=False)
class _Errors:
    """The fields of `ErrorModel` that follow from mean squares."""

    standard_error: float
    df: float | None
    errors_N: Array
    df_N: Array | None


def _errors(estimator: str, design: Design, components: Components) -> _Errors:
    if estimator == "completion_resampling":
        error = sqrt(_binomial(design, components))
        return _Errors(error, None, np.array([error]), None)  # a mean over all completions hardly varies
    weights, lines = _combination(estimator, design), expected_mean_squares(design, components)
    weight_L = np.array(list(weights.values()))
    used = [lines[name] for name in weights]
    expected_L, df_L = np.array([line.expected for line in used]), np.array([line.df for line in used])
    squares_NL = scattered(used)
    variance_N = squares_NL @ weight_L
    if estimator == "cell_bootstrap":
        df, df_N = None, None
    elif estimator in ("two_way_cluster_t", "pigeonhole_t"):
        df = float(min(design.personas, design.questions) - 1)
        df_N = np.full(len(variance_N), df)
    else:
        df = float(_satterthwaite(expected_L, weight_L, df_L))
        df_N = _satterthwaite(squares_NL, weight_L, df_L)
    # Where the variance is not positive, the estimators use the largest one-way variance and its df.
    mains = [place for place, name in enumerate(weights) if name in MAIN]
    largest_N = np.array(mains)[np.argmax(squares_NL[:, mains], axis=1)]
    one_way_N = np.take_along_axis(squares_NL, largest_N[:, None], axis=1)[:, 0] / design.cells
    fallen_N = variance_N <= 0
    variance_N = np.where(fallen_N, one_way_N, variance_N)
    df_N = None if df_N is None else np.where(fallen_N, df_L[largest_N], df_N)
    return _Errors(sqrt(max(0.0, float(expected_L @ weight_L))), df, np.sqrt(variance_N), df_N)


def _satterthwaite(squares_L: Array, weight_L: Array, df_L: Array) -> Array:
    """Degrees of freedom of weighted mean squares, along the last axis (Satterthwaite 1946)."""
    parts_L = squares_L * weight_L
    scatter = (parts_L**2 / df_L).sum(axis=-1)
    df: Array = np.divide(parts_L.sum(axis=-1) ** 2, scatter, out=np.ones_like(scatter), where=scatter > 0)
    return df


def _unsupported(estimator: str, design: Design, components: Components) -> str | None:
    by_questions = estimator in ("question_t", "question_bootstrap_t")
    by_personas = estimator in ("persona_t", "persona_sign_flip")
    by_either = estimator in ("completion_resampling", "cell_bootstrap", "seed_t")
    if estimator in SEED_SCOPES and design.seeds < MINIMUM_SEEDS:
        return f"needs at least {MINIMUM_SEEDS} seeds"
    if estimator in SEED_SCOPES and components.seed is None:
        return "the variance between training runs is unknown"
    if estimator == "completion_resampling" and components.completion is None:
        return "the completion noise is unknown"
    if estimator == "cell_bootstrap" and design.cells < 2:
        return "one cell has no variation between cells"
    if not (by_questions or by_either) and design.personas < 2:
        return "one persona has no variation between personas"
    if not (by_personas or by_either) and design.questions < 2:
        return "one question has no variation between questions"
    return None


def _combination(estimator: str, design: Design) -> Mapping[str, float]:
    """Weights of the mean squares in the squared standard error, as `leakage` and `crossed` compute it.

    Mean squares between and within runs are those of the pooled table: a mean square of the table of single
    runs, divided by the number of runs.
    """
    personas, questions, cells = design.personas, design.questions, design.cells
    df = {"persona": personas - 1, "question": questions - 1, "cell": (personas - 1) * (questions - 1)}
    lines = [name for name in df if df[name] > 0]
    match estimator:
        case "question_t" | "question_bootstrap_t":
            return {"question": 1 / cells}
        case "persona_t" | "persona_sign_flip":
            return {"persona": 1 / cells}
        case "crossed_anova":
            return {"persona": 1 / cells, "question": 1 / cells, "cell": -1 / cells}
        case "two_way_cluster_t":
            whole = {name: df[name] / (cells - 1) for name in df}
            once = {"persona": 1.0, "question": 1.0, "cell": 0.0}
            return {name: (once[name] - whole[name]) / cells for name in df}
        case "pigeonhole_t":
            kept = {"persona": df["persona"] / personas, "question": df["question"] / questions}
            return {name: share / cells for name, share in kept.items()} | {"cell": df["cell"] / cells**2}
        case "cell_bootstrap":
            return {name: df[name] / cells**2 for name in lines}
        case "seed_t":
            return {"run": 1 / cells}
        case "crossed_anova_seed":
            plus = {name: 1 / cells for name in ("persona", "question", "run", "cell within run")}
            return plus | {name: -1 / cells for name in ("cell", "persona within run", "question within run")}
    return {}


def _variance(estimator: str, design: Design, components: Components) -> float:
    """Variance of the estimate over draws of what the estimator's scope names."""
    completion = components.noise / (design.completions * design.seeds * design.cells)
    cell = components.interaction / design.cells + completion
    persona, question = components.persona / design.personas, components.question / design.questions
    seed = (components.seed or 0.0) / design.seeds
    match estimator:
        case "completion_resampling":
            return completion
        case "cell_bootstrap":
            return (components.persona + components.question) / design.cells + cell
        case "question_t" | "question_bootstrap_t":
            return question + cell
        case "persona_t" | "persona_sign_flip":
            return persona + cell
        case "seed_t":
            return seed + completion
        case "crossed_anova_seed":
            return persona + question + cell + seed
    return persona + question + cell


def _binomial(design: Design, components: Components) -> float:
    """The plug-in variance h (K - h) / K^2 falls short of the true one by the factor (K - 1) / K."""
    completions = design.completions * design.seeds
    return components.noise * (completions - 1) / completions**2 / design.cells


def _enumerated(estimator: str, design: Design) -> bool:
    return estimator == "persona_sign_flip" and design.personas <= EXACT_PERSONAS


def _floor(estimator: str, design: Design, levels: int | None) -> float | None:
    if levels is not None:
        return 1 / levels
    match estimator:
        case "persona_sign_flip":
            return 1 / (design.resamples + 1)
        case "completion_resampling" | "cell_bootstrap" | "question_bootstrap_t":
            return min(1.0, 2 / (design.resamples + 1))
    return None
