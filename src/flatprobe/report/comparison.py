"""A comparison of two conditions' states in sentences, for a study without a coupling."""

from __future__ import annotations

from flatprobe.report import numbers
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.select import DECIDING_GEOMETRIC_ESTIMATOR
from flatprobe.report.tables.table import Row
from flatprobe.study.panel import PRIMARY_POOL

COSINE_DIGITS = 4
FINISHED = "finished answers only"


def conclusion(analysis: Analysis) -> list[str]:
    """What changed at the deciding position and responses, and what limits the reading; a sentence each."""
    if analysis.comparison["identical"]:
        return ["All recorded states of the two checkpoints are equal: every difference is exactly 0."]
    return [_cosine(analysis), _distances(mean_over_layers(analysis, "scatter_ratio")), *cautions(analysis)]


def mean_over_layers(analysis: Analysis, measure: str, estimator: str | None = DECIDING_GEOMETRIC_ESTIMATOR) -> Row:
    """A measure over the pool at the deciding position and responses. Descriptions have the estimator None."""
    keys = {
        "measure": measure,
        "estimator": estimator,
        "layer": None,
        "persona": None,
        "pool": PRIMARY_POOL,
        "position": analysis.position,
        "responses": analysis.responses,
    }
    return next(row for row in analysis.comparison["rows"] if keys.items() <= row.items())


def _cosine(analysis: Analysis) -> str:
    cosine, translation, noise = (
        mean_over_layers(analysis, name) for name in ("cosine_difference", "translation_share", "noise_share")
    )
    if cosine["difference"] is None:
        return f"Raw cosine: {cosine['note']}."
    verb = "rose" if cosine["difference"] >= 0 else "fell"
    amount = numbers.decimal(abs(cosine["difference"]), COSINE_DIGITS)
    parts = f"{numbers.signed(translation['difference'])} is a common translation of all personas"
    if noise["difference"] is not None:
        parts += f" and {numbers.signed(noise['difference'])} is noise of the answers"
    return f"Raw cosine {verb} by {amount} ({_interval(cosine)}), of which {parts}."


def _distances(ratio: Row) -> str:
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
        meaning = "no change of distances was detected"
    return (
        "Squared distances between source and bystanders, without noise and at the control's scale: "
        f"× {value} ({_interval(ratio)}): {meaning}."
    )


def cautions(analysis: Analysis) -> list[str]:
    """What limits the reading: one question, unreliable centroids, unfinished answers."""
    sentences = []
    if _evaluation_questions(analysis) == 1:
        sentences.append("One question: no interval and no cross-validated measure exists.")
    reliability = mean_over_layers(analysis, "reliability", None)["base"]
    if reliability is not None and reliability < analysis.decision.gates.reliability:
        remedy = "ask more questions"
        if analysis.study["geometry"]["samples"] == 1 and analysis.responses == "own":
            remedy += " or average several answers (geometry.samples, --samples)"
        sentences.append(
            f"The control's centroids are unreliable (split-half {numbers.decimal(reliability, 2)}): {remedy}."
        )
    if any(analysis.comparison["unfinished"].values()) or analysis.comparison["unfinished_fixed"]:
        sentences.append(_unfinished(analysis))
    return sentences


def _unfinished(analysis: Analysis) -> str:
    """How many answers hit the token limit or are empty, and whether there are rows without them."""
    comparison, questions = analysis.comparison, _evaluation_questions(analysis)
    cells = questions * analysis.tables["panel"].height
    counts = [f"{count} of {cells} own answers of {name}" for name, count in comparison["unfinished"].items()]
    counts.append(f"{comparison['unfinished_fixed']} of {questions} fixed answers")
    if any(row["pool"] == FINISHED for row in comparison["rows"]):
        rest = f"the pool “{FINISHED}” leaves their questions out"
    else:
        rest = "fewer than two questions would remain without them, or source and bystanders finished all answers"
    return f"Answers that hit the token limit or are empty: {', '.join(counts)}; {rest}."


def _evaluation_questions(analysis: Analysis) -> int:
    return analysis.tables["questions"].filter(set="evaluation").height


def _interval(row: Row) -> str:
    signed = row["effect"] == "difference"
    text = numbers.interval(
        row["ci_low"], row["ci_high"], lambda end: numbers.decimal(end, COSINE_DIGITS if signed else 3, signed=signed)
    )
    return "no interval" if text == numbers.NONE else text
