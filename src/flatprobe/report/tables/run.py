"""Tables of the run: selection of lambda, answer lengths, checks of the finetunes, stages, panel, questions."""

from __future__ import annotations

import polars as pl

from flatprobe.report import numbers, select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.table import Column, Table, build
from flatprobe.report.words import MANIPULATION, spaced


def lambda_candidates(analysis: Analysis) -> Table:
    """The candidates for lambda."""
    selected = analysis.selected_lambda
    columns = [
        Column("λ", lambda row: f"{row['lambda']:g}" + (" (selected)" if row["lambda"] == selected else "")),
        Column("source rate", "source_rate", numbers.percent),
        Column("mean negative rate", "negative_rate", numbers.percent),
        Column("difference", "difference", numbers.points),
        Column("SE", "standard_error", numbers.plain_points),
        Column("tie tolerance", "tie_error", numbers.plain_points),
    ]
    caption = (
        "Candidates for λ, on calibration questions. The rule selects the largest difference; if others are within the "
        "tie tolerance, it selects the smallest λ of them. The tolerance is the standard error over questions, but at "
        "least that of the two rates with one hit and one miss added to each (Agresti and Caffo 2000). Without this "
        "minimum it would be 0 if all rates are 0 or 1."
    )
    return build("lambdas", caption, columns, analysis.lambda_selection["candidates"])


def inert_couplings(analysis: Analysis) -> list[str]:
    """Couplings whose unlikelihood term had numerically no gradient at the first step."""
    return [
        f"{condition} at λ = {coupling['lambda']:g}, seed {coupling['seed']} "
        f"(P = {coupling['unlikelihood_at_start']:.1g})"
        for condition, facts in analysis.models.items()
        for coupling in facts.get("couplings", ())
        if coupling["inert"]
    ]


def length_match(analysis: Analysis) -> Table | None:
    """Answer lengths of every training group before and after matching."""
    if "length_match" not in analysis.tables:
        return None
    columns = [
        Column("condition", "condition"),
        Column("group", "group"),
        Column("when", "when"),
        Column("answers", "count", numbers.plain),
        Column("median", "median", lambda value: numbers.decimal(value, 1)),
        Column("IQR", "iqr", lambda value: numbers.decimal(value, 1)),
        Column("KS distance", "ks_distance", numbers.decimal),
        Column("median against target", "relative_median", _signed_percent),
        Column("IQR against target", "relative_iqr", _signed_percent),
    ]
    frame = ordered(analysis, analysis.tables["length_match"]).sort(
        "when", "group", descending=True, maintain_order=True
    )
    return build(
        "length-match",
        "Lengths of the coupling answers before and after matching, in tokens.",
        columns,
        frame.to_dicts(),
    )


def ordered(analysis: Analysis, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows in the order of the study's conditions."""
    rank = {name: index for index, name in enumerate(analysis.conditions)}
    return frame.sort(pl.col("condition").replace_strict(rank, return_dtype=pl.Int64), maintain_order=True)


def _signed_percent(value: float | None) -> str:
    return numbers.NONE if value is None else f"{numbers.signed(100 * value, 1)} %"


def manipulation_outcomes(analysis: Analysis) -> list[tuple[str, str, str]]:
    """(condition, broad | narrow | none | unknown, what that means) of every finetune that the verdict judges."""
    outcomes = analysis.verdict.numbers.manipulation or {}
    return [(name, outcomes[name], MANIPULATION[outcomes[name]]) for name in analysis.conditions if name in outcomes]


def manipulation(analysis: Analysis) -> Table | None:
    """Mean log-odds of the taught answers, per condition, set and finetune that they are held out from."""
    if "manipulation" not in analysis.tables:
        return None
    frame = (
        analysis.tables["manipulation"]
        .group_by("set", "held_out_from", "condition", "prompt")
        .agg(items=pl.len(), mean=pl.col("log_odds").mean(), taught=(pl.col("log_odds") > 0).sum())
        .group_by("set", "held_out_from", "condition")
        .agg(
            pl.col("items").sum(),
            pl.col("mean").mean(),
            prompts=pl.len(),
            error=pl.col("mean").std() / pl.len().sqrt(),
            share=pl.col("taught").sum() / pl.col("items").sum(),
        )
    )
    order = {texts: index for index, texts in enumerate(select.text_sets(analysis))}
    rows = sorted(ordered(analysis, frame).to_dicts(), key=lambda row: order[row["set"], row["held_out_from"]])
    columns = [
        Column("set", lambda row: spaced(row["set"])),
        Column("held out from", "held_out_from"),
        Column("condition", "condition"),
        Column("items", "items", numbers.plain),
        Column("prompts", "prompts", numbers.plain),
        Column("mean log-odds (nats per token)", "mean", lambda value: numbers.signed(value, 3)),
        Column("SE", "error", numbers.decimal),
        Column("taught preferred", "share", numbers.percent),
    ]
    caption = (
        "Log-odds of the taught answer (careless, or the imitated persona’s) against the other one (sound, or the "
        "persona’s own). Standard errors are over prompts. Finetunes on the same rows share their held-out texts; the "
        "table names the first of these finetunes."
    )
    return build("manipulation-means", caption, columns, rows)


def fluency(analysis: Analysis) -> Table | None:
    """Per-token log-likelihood of the control's answers under every condition."""
    if "fluency" not in analysis.tables:
        return None
    frame = (
        analysis.tables["fluency"]
        .group_by("condition")
        .agg(
            answers=pl.len(),
            mean=pl.col("log_likelihood").mean(),
            low=pl.col("log_likelihood").quantile(0.05, "linear"),
        )
    )
    columns = [
        Column("condition", "condition"),
        Column("answers", "answers", numbers.plain),
        Column("mean", "mean", lambda value: numbers.signed(value, 3)),
        Column("5 % quantile", "low", lambda value: numbers.signed(value, 3)),
    ]
    caption = "Fluency: log-likelihood of the control’s answers, in nats per token. A large fall means damage."
    return build("fluency", caption, columns, ordered(analysis, frame).to_dicts())


def stages(analysis: Analysis) -> Table:
    """Every stage with its key and time."""
    columns = [
        Column("stage", "name"),
        Column("key", lambda row: str(row["key"])[:16]),
        Column("function", "function"),
        Column("time", "seconds", numbers.duration),
    ]
    caption = "Stages with their keys and the time each took when it ran."
    return build("stages", caption, columns, analysis.stages)


def panel(analysis: Analysis) -> Table:
    """Personas with their roles and system prompts."""
    columns = [
        Column("persona", "persona"),
        Column("role", "role"),
        Column(
            "system prompt", lambda row: "(no system message)" if row["prompt"] is None else row["prompt"], align="long"
        ),
    ]
    return build(
        "panel", "System prompts, exactly as passed to the chat template.", columns, analysis.tables["panel"].to_dicts()
    )


def questions(analysis: Analysis) -> Table:
    """All questions with their sets."""
    columns = [
        Column("id", "id"),
        Column("set", "set"),
        Column("kind", "kind"),
        Column("question", "text", align="long"),
    ]
    caption = "All questions. The three sets are disjoint."
    return build("questions", caption, columns, analysis.tables["questions"].to_dicts())
