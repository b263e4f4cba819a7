"""A comparison of two checkpoints in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flatprobe.report import numbers
from flatprobe.report.comparison import Compared
from flatprobe.study.decision_schema import Gates

COSINE_DIGITS = 4
FINISHED_ONLY = "finished answers only"
"""How the name of a pool ends whose rows leave unfinished answers out."""


def conclusion(compared: Compared) -> list[str]:
    """What moved at the position shown first, in sentences; and what keeps a reader from relying on it."""
    if compared.identical:
        return ["All recorded states of the two checkpoints are equal: every difference is exactly 0."]
    rows = {
        name: compared.by_layer(name, compared.position, compared.responses)[None]
        for name in ("cosine_difference", "translation_share", "noise_share", "scatter_ratio")
    }
    sentences = [_cosine(rows), _distances(rows["scatter_ratio"])]
    return [*sentences, *cautions(compared)]


def _cosine(rows: Mapping[str, Mapping[str, Any]]) -> str:
    cosine, shift, noise = (rows[name] for name in ("cosine_difference", "translation_share", "noise_share"))
    if cosine["difference"] is None:
        return f"Raw cosine: {cosine['note']}."
    verb = "rose" if cosine["difference"] >= 0 else "fell"
    amount = numbers.decimal(abs(cosine["difference"]), COSINE_DIGITS)
    parts = f"{numbers.signed(shift['difference'])} is a common shift of all personas"
    if noise["difference"] is not None:
        parts += f" and {numbers.signed(noise['difference'])} is noise of the answers"
    return f"Raw cosine {verb} by {amount} ({_interval(cosine)}), of which {parts}."


def _distances(ratio: Mapping[str, Any]) -> str:
    """Whether source and bystanders came closer, from the scatter ratio and its interval."""
    if ratio["difference"] is None:
        return f"Distances between source and bystanders: {ratio['note']}."
    value = numbers.decimal(ratio["difference"], 3)
    if ratio["ci_low"] is None or ratio["ci_high"] is None:
        meaning = f"without an interval this shows nothing; {(ratio['note'] or '').partition(';')[0]}"
    elif ratio["ci_high"] < 1:
        meaning = "the personas came closer together"
    elif ratio["ci_low"] > 1:
        meaning = "the personas moved apart"
    else:
        meaning = "no change of distances is shown"
    return (
        f"Squared distances between source and bystanders, noise removed and at the base's scale: × {value} "
        f"({_interval(ratio)}): {meaning}."
    )


def cautions(compared: Compared) -> list[str]:
    """What limits the reading: one question, unreliable centroids, unfinished answers."""
    found = []
    if len(compared.pair.questions) == 1:
        found.append("One question: no interval and no cross-validated measure exists.")
    reliability = compared.by_layer("reliability", compared.position, compared.responses, None)[None]["base"]
    if reliability is not None and reliability < Gates().reliability:
        remedy = "ask more questions" + (
            " or average several answers (--samples)"
            if compared.pair.samples == 1 and compared.responses == "own"
            else ""
        )
        found.append(
            f"The base's centroids are unreliable here (split-half {numbers.decimal(reliability, 2)}): {remedy}."
        )
    if any(compared.unfinished.values()) or compared.unfinished_fixed:
        found.append(_unfinished(compared))
    return found


def _unfinished(compared: Compared) -> str:
    """How many answers hit the token limit or are empty, and whether there are rows without them."""
    questions = len(compared.pair.questions)
    cells = questions * len(compared.pair.personas)
    counts = [f"{count} of {cells} own ones of {side}" for side, count in compared.unfinished.items()]
    counts.append(f"{compared.unfinished_fixed} of {questions} fixed ones")
    without = any(str(row["pool"]).endswith(FINISHED_ONLY) for row in compared.rows)
    rest = (
        f"rows named “{FINISHED_ONLY}” leave their questions out"
        if without
        else "without their questions, fewer than two would be left, or source and bystanders have none of them"
    )
    return f"Answers that hit the token limit or are empty: {', '.join(counts)}; {rest}."


def _interval(row: Mapping[str, Any]) -> str:
    signed = row["effect"] == "difference"
    shown = numbers.interval(
        row["ci_low"],
        row["ci_high"],
        lambda end: numbers.decimal(end, COSINE_DIGITS if signed else 3, signed=signed),
    )
    return "no interval" if shown == numbers.NONE else shown
