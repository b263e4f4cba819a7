"""How far the control's cosines can still rise, in words; known once its states exist, before the expensive stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flatprobe.report import numbers
from flatprobe.study.schema import Study

DIGITS = 4


def headroom_lines(facts: Any, study: Study) -> list[str]:
    """From the facts of the control's states: whether the rise can be reached, and the headroom of every layer.

    No lines if a layer has no headroom.
    """
    rule = study.decision.geometry
    by_layer = facts["headroom" if rule.responses == "own" else "headroom_fixed"][rule.position]
    if by_layer is None:
        return []
    headroom = {int(layer): float(value) for layer, value in by_layer.items()}
    layers = "  ".join(f"layer {layer}: {numbers.decimal(value, DIGITS)}" for layer, value in headroom.items())
    return [headroom_words(headroom, study), layers]


def headroom_words(headroom: Mapping[int, float], study: Study) -> str:
    """Whether the study's geometric threshold can be reached, from 1 - cosine of its control per layer."""
    rule = study.decision.geometry
    level = _level(headroom, study.decision.control, rule.position, rule.responses)
    if rule.measure == "contraction":
        return f"{level} The study decides by contraction, which has no such bound."
    if study.coupling is None:
        end = "; contraction has no such bound"
    else:
        end = "" if _mean(headroom) >= rule.threshold else ": the geometric leg cannot pass"
    return f"{level} {_reached(headroom, rule.threshold)}{end}."


def _mean(headroom: Mapping[int, float]) -> float:
    return sum(headroom.values()) / len(headroom)


def _level(headroom: Mapping[int, float], whose: str, position: str, responses: str) -> str:
    mean = numbers.decimal(_mean(headroom), DIGITS)
    return f"Headroom of {whose} at {position}, {responses} responses: {mean} on average."


def _reached(headroom: Mapping[int, float], threshold: float) -> str:
    enough = [layer for layer, value in headroom.items() if value >= threshold]
    if len(enough) == len(headroom):
        where = "in every layer"
    elif enough:
        where = f"at layer{'s' if len(enough) > 1 else ''} {numbers.spans(enough)} only"
    else:
        where = "in no layer"
    on_average = "can" if _mean(headroom) >= threshold else "cannot"
    return f"A cosine rise of {threshold:g} could be reached {where}, and {on_average} be on average"
