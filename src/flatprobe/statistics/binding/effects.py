"""Does the marker follow the system prompt or the answer's text? Effects of the 2 x 2 of both.

Per question and bystander, L(prompt, text) is log P(separator, marker) in nats with the source's or the bystander's
system prompt before the source's or the bystander's answer:

- prompt effect: mean over both texts of L(source, text) - L(bystander, text); above 0 if the prompt binds;
- text effect: mean over both prompts of L(prompt, source) - L(prompt, bystander); above 0 if the text binds;
- interaction: L(source, source) - L(source, bystander) - L(bystander, source) + L(bystander, bystander).
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from flatprobe.errors import UserError

SIDES = ("source", "bystander")
EFFECTS = ("prompt", "text", "interaction")
POOLED = "all bystanders"
COLUMNS = {
    "persona": pl.String, "effect": pl.String, "estimate": pl.Float64, "standard_error": pl.Float64,
    "ci_low": pl.Float64, "ci_high": pl.Float64, "p_value": pl.Float64, "n_questions": pl.Int64,
}  # fmt: skip


def effects(cells: pl.DataFrame, level: float) -> pl.DataFrame:
    """The three effects per bystander, and pooled over them, with t intervals over questions.

    Args:
        cells: one row (persona, question_id, prompt, text, log_p) per reading; `persona` is the bystander, `prompt` and
            `text` are `source` or `bystander`.

    Returns:
        `COLUMNS`; pooled rows have the persona `POOLED`. A question needs all four readings; in pooled rows it needs
        those of every bystander. With fewer than two questions, or without spread, interval and p are null.

    Raises:
        UserError: a reading given twice, or no question with all four.
    """
    keys = ["persona", "question_id"]
    named = cells.with_columns(cell=pl.col("prompt") + "/" + pl.col("text"))
    if named.select(*keys, "cell").is_duplicated().any():
        raise UserError.one("binding.duplicate_reading", "binding", "a reading is given twice")
    names = [f"{prompt}/{text}" for prompt in SIDES for text in SIDES]
    wide = named.pivot("cell", index=keys, values="log_p", maintain_order=True)
    if missing := [name for name in names if name not in wide.columns]:
        raise UserError.one(
            "binding.missing_reading", "binding", f"no reading of {', '.join(missing)} (system prompt/answer)"
        )
    wide = wide.drop_nulls(names)
    if wide.is_empty():
        raise UserError.one("binding.no_complete_question", "binding", "no question has all four readings")
    ss, sb, bs, bb = (pl.col(name) for name in names)
    wide = wide.with_columns(
        prompt=(ss - bs + sb - bb) / 2, text=(ss - sb + bs - bb) / 2, interaction=ss - sb - bs + bb
    )
    rows = [
        _row(str(persona), effect, part[effect].to_numpy(), level)
        for (persona,), part in wide.group_by(["persona"], maintain_order=True)
        for effect in EFFECTS
    ]
    bystanders = wide["persona"].n_unique()
    whole = wide.filter(pl.len().over("question_id") == bystanders)
    by_question = whole.group_by("question_id", maintain_order=True).agg(pl.col(EFFECTS).mean())
    rows += [_row(POOLED, effect, by_question[effect].to_numpy(), level) for effect in EFFECTS]
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


def _row(persona: str, effect: str, values: NDArray[np.float64], level: float) -> tuple[str | float | None, ...]:
    count = len(values)
    mean = float(values.mean()) if count else None
    error = float(values.std(ddof=1)) / count**0.5 if count > 1 else 0.0
    if mean is None or error == 0.0:
        return persona, effect, mean, None, None, None, None, count
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    p_value = 2 * float(stats.t.sf(abs(mean) / error, count - 1))
    return persona, effect, mean, error, mean - half, mean + half, p_value, count
