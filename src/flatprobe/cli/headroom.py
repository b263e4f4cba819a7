"""Print the headroom of the control's cosines as soon as its states exist, in a study and in a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flatprobe.pipeline.artifact import Artifact
from flatprobe.pipeline.display import Display
from flatprobe.pipeline.stage import Stage
from flatprobe.report.headroom import headroom_words, study_headroom_words
from flatprobe.report.numbers import decimal
from flatprobe.study.pair import Pair, chosen_position
from flatprobe.study.schema import Study

Headroom = Mapping[int, float]
"""1 - cosine by layer."""
OnFinished = Callable[[Stage, Artifact], None]


def print_pair_headroom(pair: Pair, base_states: Stage, display: Display) -> OnFinished:
    """Print the base's headroom against the default threshold once `base_states` is finished or reused."""
    position, responses = chosen_position(pair.positions), pair.responses[0]

    def print_headroom(stage: Stage, artifact: Artifact) -> None:
        if stage.key == base_states.key and (headroom := _by_layer(artifact.facts, position, responses)):
            _print(display, headroom_words(headroom, position, responses), headroom)

    return print_headroom


def print_study_headroom(study: Study, control_states: Stage, display: Display) -> OnFinished:
    """Print the control's headroom against the study's threshold once `control_states` is finished or reused."""
    rule = study.decision.geometry

    def print_headroom(stage: Stage, artifact: Artifact) -> None:
        if stage.key == control_states.key and (
            headroom := _by_layer(artifact.facts, rule.position, rule.responses)
        ):
            _print(display, study_headroom_words(headroom, study.decision.control, rule), headroom)

    return print_headroom


def _print(display: Display, sentence: str, headroom: Headroom) -> None:
    display.note(sentence)
    display.note("  ".join(f"layer {layer}: {decimal(value, 4)}" for layer, value in headroom.items()))


def _by_layer(facts: Any, position: str, responses: str) -> Headroom | None:
    headroom = facts["headroom" if responses == "own" else "headroom_fixed"][position]
    return None if headroom is None else {int(layer): float(value) for layer, value in headroom.items()}
