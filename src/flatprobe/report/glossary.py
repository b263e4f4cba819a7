"""The page's glossary: words of the method, and the heads of its tables."""

from __future__ import annotations

import re

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("study", "The YAML file with everything that can change a number."),
    (
        "condition",
        "A checkpoint before coupling: the model itself, or a finetune of it. The decision compares the treated "
        "condition with the control. The benign condition decides whether an effect is specific.",
    ),
    ("persona, panel", "A system prompt, and the named set of them."),
    (
        "roles",
        "The source learns the marker. Negatives are trained without it. Bystanders are never trained; the verdict "
        "is about them. References are reported beside them. Random negatives are drawn from the reserve.",
    ),
    ("coupling", "The LoRA adapter that binds the marker to the source, trained on top of a condition."),
    ("arm", "A condition with a training seed."),
    ("completion, cell", "One sampled answer. All completions of one persona to one question."),
    ("leakage", "Share of completions with the marker, over personas that were never trained."),
    ("leg", "One half of the decision: geometry (hidden states) or behaviour (leakage)."),
    ("layer", "0-based decoder block. Its state is the block’s output, before the final norm."),
    ("position", "The token, or the mean over tokens, whose hidden state is read."),
    ("centroid", "Mean state over questions, per condition, persona and layer."),
    ("headroom", "1 − mean cosine of the control: the largest cosine difference that is possible."),
    (
        "cosine difference",
        "Mean cosine of source and bystander centroids, treated minus control. It also rises if all personas shift "
        "together, or if answers become less noisy.",
    ),
    ("cross-validated cosine difference", "The same from products of different questions only, so that noise cancels."),
    ("translation share", "The cosine difference that the common shift of all personas alone would cause."),
    ("noise share", "Cosine difference minus its cross-validated version."),
    (
        "contraction",
        "−log of the scatter ratio. Scatter is the squared distance of source and bystanders; the ratio is treated to "
        "control. Positive is flatter.",
    ),
    (
        "split-half reliability",
        "How well centroids from half of the questions predict those from the other half, corrected to full length.",
    ),
    (
        "separability",
        "Share of held-out states whose nearest centroid is that of their own persona. Chance is 1/personas.",
    ),
    (
        "persona map",
        "The personas in a plane whose distances are as close to the measured ones as a plane allows. Only distances "
        "have a meaning. Conditions are rotated onto each other, never scaled.",
    ),
    (
        "taught answer",
        "The one of two answers that resembles the finetune’s training data: careless instead of sound, or the "
        "imitated persona’s instead of the persona’s own.",
    ),
    (
        "λ",
        "Weight of the unlikelihood term, which keeps the marker away from the negatives. It is selected on the "
        "control, on questions that no probe uses.",
    ),
    ("dose", "How strongly the source learned the marker. Compare conditions at equal dose only."),
    ("containment", "log P of the marker under the source, minus its largest log P under another persona."),
    ("gate", "A check that must pass before a number may decide. A gate that was not evaluated counts as failed."),
    ("specification", "One defensible way to compute a contrast: an estimator, a pool, a λ and a marker detector."),
    (
        "contaminated pool",
        "A pool with personas that were trained on. It says nothing about untrained personas and never decides.",
    ),
    ("massive activation", "A hidden dimension many times larger than the median. A few can dominate a cosine."),
    ("generalises to", "The population for which an interval and a p-value are valid."),
    ("p of both legs", "The larger p of the two legs. The claim needs both legs, so two tests need no correction."),
    ("estimate, decision, verdict", "A number with interval and p. The registered rule. Its outcome."),
)
"""Words of the method as the page explains them, in reading order."""

HEADS: dict[str, str] = {
    "adapter": "which training made it: the finetune or the coupling",
    "adjusted p": "p after allowing for the choice among several layers or λ, by max-T or Holm’s method",
    "adjustment": "the method behind the adjusted p, and the family that it covers",
    "answers": "number of answers",
    "as expected": "whether every leg gave the answer that is known",
    "below threshold": "how many estimates fall below the threshold if this one unit is left out",
    "bootstrap bias": "mean of the resampled values minus the estimate",
    "bystander’s answer": "log P is read after the bystander’s answer",
    "bystander’s prompt": "log P is read under the bystander’s system prompt",
    "chance": "separability of personas that cannot be distinguished",
    "change": "estimate without the unit, minus the full estimate",
    "condition or contrast": "a condition’s own value, or the difference of two conditions",
    "contrast": "treated − control",
    "cosine difference − translation share": "the cosine difference beyond the common shift",
    "decides": "the measure of the registered rule",
    "detail": "what the statistic is computed on",
    "detector": "what counts as a marked completion",
    "df": "degrees of freedom of the t distribution",
    "difference": "treated − control",
    "difference or ratio": "treated − control; for ratios (×), treated over control",
    "distance": "value minus threshold; for p and dose, threshold minus value",
    "end first": "probability that the answer ends at once, before → after coupling",
    "ends with marker": "share of all completions whose marker is at the end",
    "equivalence p": "p of H0: the difference is at least as large as the equivalence margin; small refutes it",
    "estimate without it": "the estimate if this unit is left out",
    "evaluation": "share of this token in completions",
    "examples": "number of training examples",
    "full estimate": "the estimate with all personas and questions",
    "gap": "treated − control at one level of the source",
    "geometric effect": "the deciding measure, treated against control, mean over layers",
    "group": "positives (source) or negatives",
    "id": "name of the question",
    "in module": "the module with the largest norm ratio",
    "interval": "confidence interval at the level given",
    "interval without it": "the interval if this unit is left out",
    "invariant": "what every training example must satisfy",
    "IQR": "interquartile range",
    "IQR against target": "relative difference of the group’s interquartile range from that of all groups",
    "items": "pairs of a taught and another answer",
    "key": "hash of the stage’s settings, inputs and version",
    "KS distance": "largest difference of the two cumulative distributions",
    "labelled": "tokens that the term predicts",
    "largest": "largest value over modules",
    "largest dimensions": "hidden dimensions with the largest mean size, and their size over the median",
    "leakage difference": "bystanders’ marker rate, treated − control",
    "left out": "the persona or question without which the estimate is computed",
    "log P": "log-probability of separator and marker in nats; for answers, of their tokens in nats per token",
    "marked": "completions with the marker, of all",
    "marker first": "probability that the answer starts with the marker’s first token, before → after coupling",
    "mean cosine": "mean cosine of source and bystander centroids",
    "mean log-odds": "log-odds of the taught answer against the other one",
    "mean negative rate": "mean marker rate of the negatives",
    "mean norm": "mean length of the states",
    "measure": "what is estimated",
    "median against target": "relative difference of the group’s median from that of all groups",
    "median length": "in tokens",
    "modules": "weight matrices that the adapter changes",
    "most influential": "the persona or question whose omission changes the estimate most",
    "next persona": "the persona with the largest log P of the marker, other than the source",
    "noise": "variance of the interaction of persona and question in the states",
    "norm ratio": "Frobenius norm of the update over that of the weight",
    "note": "why a number is missing, or what limits it",
    "outside its interval": "whether the bootstrap interval excludes the estimate, a sign of bias",
    "p": "two-sided p of no difference",
    "p above": "p of H0: the difference is at most this margin; small refutes it",
    "p above margin": "p of H0: the difference is at most the registered margin; small refutes it",
    "p within": "p of H0: the difference is at least this margin, up or down; small refutes it",
    "p without it": "p if this unit is left out",
    "pairs": "pairs of a bystander and a question",
    "passed": "number of examples that satisfy the invariant",
    "participation ratio": "effective number of dimensions that the centroids span",
    "personas × questions": "number of personas and of questions behind the estimate",
    "place": "before the marker, after the answer, or at the end of the prompt",
    "position and responses": "where the state is read, and on whose answers",
    "quantile": "value below which this share of the answers lies",
    "read at": "the source’s log P at which the two curves are compared",
    "registered p": "p of the registered estimator",
    "relative leakage": "the bystanders’ rate over the source’s; 1 if personas cannot be distinguished",
    "responses": "own: each condition’s own answers; fixed: one answer per question for all",
    "result": "on which side of the threshold the number lies",
    "scatter ratio": "scatter of the treated condition over that of the control",
    "SE": "standard error",
    "share at the end": "of the marked completions, those whose marker is at the end",
    "share of squared norm": "part of the states’ squared length in these dimensions",
    "smallest possible p": "the least p that this estimator can give on this design",
    "source rates": "marker rate of the source in the treated condition and, below it, in the control",
    "source’s answer": "log P is read after the source’s answer",
    "source’s prompt": "log P is read under the source’s system prompt",
    "spam": "of the marked completions, those with two or more markers",
    "starts with marker": "share of all completions whose marker is at the start",
    "state": "passed, failed or not evaluated",
    "statistic": "the number that the gate compares with its threshold",
    "steps": "optimiser steps made, of those planned; with matched acquisition, whether the level was reached",
    "taught preferred": "share of items whose taught answer is the more probable one",
    "template first": "probability that the answer starts with a piece of the chat template, before → after coupling",
    "term": "a term of the loss",
    "time": "computation time of the stage",
    "tie tolerance": "differences this close to the largest count as tied; the rule selects the smallest λ of them",
    "truncated": "share of completions cut off at the token limit",
    "upper bound": "one-sided confidence bound",
    "warnings": "what went wrong in this coupling",
    "when": "as sampled, or after length matching",
    "where": "the λ, or the position and layer, of the estimate",
}  # fmt: skip
"""Meaning of the table heads that are not words of the method."""

_REMARK = re.compile(r"\([^)]*\)|^[\d.]+ % | ±?[\d.]+ pp( or .*)?$")


def terms(head: str) -> list[str]:
    """The words that a head consists of, without numbers and remarks: `95 % interval` is `interval`."""
    return [part.strip() for part in re.split(r", |: ", _REMARK.sub("", head).strip())]


def meaning(head: str) -> str | None:
    """What the glossary says about a head; None for a head of the method's own words."""
    texts = [HEADS[term] for term in terms(head) if term in HEADS]
    return "; ".join(texts) or None
