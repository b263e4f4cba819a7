"""What room the control's cosines leave, in a sentence: known as soon as its states are, before anything dear."""

from __future__ import annotations

from collections.abc import Mapping

from flatprobe.report import numbers
from flatprobe.study.decision_schema import GeometricLeg

DIGITS = 4


def headroom_words(headroom: Mapping[int, float], position: str, responses: str) -> str:
    """Whether the registered study's rise can be reached in a checkpoint's states, from 1 - cosine per layer."""
    reached = _reached(headroom, GeometricLeg().threshold)
    return f"{_level(headroom, 'the base', position, responses)} {reached}; contraction is not bounded by it."


def study_headroom_words(headroom: Mapping[int, float], control: str, rule: GeometricLeg) -> str:
    """Whether a study's geometric leg can pass at all, from 1 - cosine of its control per layer."""
    level = _level(headroom, control, rule.position, rule.responses)
    if rule.measure == "contraction":
        return f"{level} The study decides by contraction, which is not bounded by it."
    so = "" if _mean(headroom) >= rule.threshold else ": the geometric leg cannot pass"
    return f"{level} {_reached(headroom, rule.threshold)}{so}."


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
