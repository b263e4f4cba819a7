"""Tables of the binding test: does the marker follow the system prompt or the answer's text?"""

from __future__ import annotations

import polars as pl

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.tables.run import ordered
from flatprobe.report.tables.table import Column, Table, build
from flatprobe.statistics.binding.effects import POOLED, SIDES

MEANINGS = {
    "prompt": "source’s system prompt − bystander’s",
    "text": "source’s answer − bystander’s",
    "interaction": "effect of both together beyond their sum",
}


def cells(analysis: Analysis) -> Table | None:
    """Mean log P per condition for each pair of system prompt and answer text."""
    if "binding" not in analysis.tables:
        return None
    both = [(prompt, text) for prompt in SIDES for text in SIDES]
    frame = (
        analysis.at_selected_lambda("binding")
        .group_by("condition", maintain_order=True)
        .agg(
            *(
                pl.col("log_p")
                .filter((pl.col("prompt") == prompt) & (pl.col("text") == text))
                .mean()
                .alias(f"{prompt}/{text}")
                for prompt, text in both
            ),
            pairs=pl.struct("persona", "question_id").n_unique(),
        )
    )
    columns = [
        Column("condition", "condition"),
        *(Column(f"{prompt}’s prompt, {text}’s answer", f"{prompt}/{text}", numbers.nats) for prompt, text in both),
        Column("pairs", "pairs", numbers.plain),
    ]
    caption = (
        "Log P of separator and marker (nats) after greedy answers from before the coupling. Each answer is read under "
        f"its persona’s system prompt and under the other’s. λ = {analysis.selected_lambda:g}; means over pairs and "
        "seeds."
    )
    return build("binding", caption, columns, ordered(analysis, frame).to_dicts())


def effects(analysis: Analysis, *, pooled: bool) -> Table | None:
    """The three effects with their intervals: over all bystanders, or of each alone."""
    if "binding_effects" not in analysis.tables:
        return None
    frame = analysis.at_selected_lambda("binding_effects")
    frame = frame.filter((pl.col("persona") == POOLED) == pooled)
    columns = [
        Column("condition", "condition"),
        *([] if pooled else [Column("bystander", "persona")]),
        Column("seed", "seed", numbers.plain),
        Column("effect", lambda row: f"{row['effect']}: {MEANINGS[row['effect']]}" if pooled else row["effect"]),
        Column("estimate", "estimate", numbers.signed_nats),
        Column(
            f"{analysis.behavioural_level} interval",
            lambda row: numbers.interval(row["ci_low"], row["ci_high"], numbers.signed_nats),
            str,
        ),
        Column("p", "p_value", numbers.p_value),
        Column("questions", "n_questions", numbers.plain),
    ]
    which = "over all bystanders" if pooled else "of each bystander"
    caption = f"Effects {which} on log P of the marker (nats), with t intervals over questions."
    name = "binding-effects" if pooled else "binding-by-bystander"
    return build(name, caption, columns, ordered(analysis, frame).to_dicts())
