"""Says what room the control's cosines leave as soon as its states are there, in a study and in a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flatprobe.pipeline.artifact import ArtifactStore
from flatprobe.pipeline.display import Display
from flatprobe.pipeline.progress import Progress
from flatprobe.pipeline.stage import Stage
from flatprobe.report.headroom import headroom_words, study_headroom_words
from flatprobe.report.numbers import decimal
from flatprobe.study.pair import Pair, chosen_position
from flatprobe.study.schema import Study

Headroom = Mapping[int, float]
Say = Callable[[Any], tuple[str, Headroom] | None]
"""From the facts of the stage of states to a sentence and the headroom per layer; None where there is none."""


class HeadroomDisplay(Display):
    """Another display that also says the headroom, once a certain stage of states is finished or reused."""

    def __init__(self, shown: Display, states: Stage, store: ArtifactStore, say: Say) -> None:
        self.shown, self.states, self.store, self.say = shown, states, store, say

    def begin(self, total: int) -> None:
        self.shown.begin(total)

    def reused(self, stage: str) -> None:
        self.shown.reused(stage)
        self._headroom(stage)

    def started(self, stage: str) -> None:
        self.shown.started(stage)

    def progress(self, stage: str, progress: Progress) -> None:
        self.shown.progress(stage, progress)

    def finished(self, stage: str, seconds: float) -> None:
        self.shown.finished(stage, seconds)
        self._headroom(stage)

    def failed(self, stage: str, seconds: float) -> None:
        self.shown.failed(stage, seconds)

    def note(self, text: str) -> None:
        self.shown.note(text)

    def close(self) -> None:
        self.shown.close()

    def _headroom(self, stage: str) -> None:
        if stage != self.states.name:
            return
        artifact = self.store.find(self.states)
        assert artifact is not None and isinstance(artifact.facts, dict), "the stage has just been finished"
        if (said := self.say(artifact.facts)) is not None:
            sentence, by_layer = said
            self.shown.note(sentence)
            self.shown.note(
                "  ".join(f"layer {layer}: {decimal(value, 4)}" for layer, value in by_layer.items())
            )


def of_pair(pair: Pair) -> Say:
    """The base's headroom, against the registered study's threshold."""

    def say(facts: Any) -> tuple[str, Headroom] | None:
        position, responses = chosen_position(pair.positions), pair.responses[0]
        found = _by_layer(facts, position, responses)
        return None if found is None else (headroom_words(found, position, responses), found)

    return say


def of_study(study: Study) -> Say:
    """The control's headroom, against the study's own threshold and layers."""
    rule = study.decision.geometry

    def say(facts: Any) -> tuple[str, Headroom] | None:
        found = _by_layer(facts, rule.position, rule.responses)
        return None if found is None else (study_headroom_words(found, study.decision.control, rule), found)

    return say


def _by_layer(facts: Any, position: str, responses: str) -> Headroom | None:
    found = facts["headroom" if responses == "own" else "headroom_fixed"][position]
    return None if found is None else {int(layer): float(value) for layer, value in found.items()}
