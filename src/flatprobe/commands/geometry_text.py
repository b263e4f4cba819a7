"""What `flatprobe geometry` prints: headroom as soon as it is known, tables, and the answer in plain words."""

from __future__ import annotations

from typing import Any

from flatprobe import console
from flatprobe.pipeline.artifact import ArtifactStore
from flatprobe.pipeline.display import Display
from flatprobe.pipeline.progress import Progress
from flatprobe.pipeline.stage import Stage
from flatprobe.report import compared_tables as tables
from flatprobe.report.compared import Compared
from flatprobe.report.compared_words import conclusion, headroom_words
from flatprobe.report.numbers import decimal
from flatprobe.report.tables import Table
from flatprobe.study.pair import Pair, chosen_position


class HeadroomDisplay(Display):
    """Another display that also says what room the base's cosines leave, once the base's states are there."""

    def __init__(self, shown: Display, pair: Pair, states: Stage, store: ArtifactStore) -> None:
        self.shown, self.pair, self.states, self.store = shown, pair, states, store

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
        position, responses = chosen_position(self.pair.positions), self.pair.responses[0]
        found: Any = artifact.facts["headroom" if responses == "own" else "headroom_fixed"]
        by_layer = {layer: float(found[position][str(layer)]) for layer in self.pair.layers}
        self.shown.note(headroom_words(by_layer, position, responses))
        self.shown.note("  ".join(f"layer {layer}: {decimal(value, 4)}" for layer, value in by_layer.items()))


def show(compared: Compared) -> None:
    """Print the tables per layer, per position and per measure, then the answer."""
    pair = compared.pair
    questions = "1 question" if len(pair.questions) == 1 else f"{len(pair.questions)} questions"
    console.say(
        f"{compared.treated} against {compared.base}: source {pair.source}, {len(pair.bystanders)} bystanders, "
        f"{questions}",
        style="bold",
    )  # fmt: skip
    for table in (
        tables.layers(compared, compared.position, compared.responses),
        tables.positions(compared),
        tables.measures(compared, every_estimator=False),
    ):
        _print(table)
    for sentence in conclusion(compared):
        console.say(sentence, style="bold")


def _print(table: Table) -> None:
    heads = [head for head, _ in table.heads]
    right = [head for head, align in table.heads if align == "number"]
    console.say()
    console.table(heads, table.rows, table.caption, right)
    console.say()
