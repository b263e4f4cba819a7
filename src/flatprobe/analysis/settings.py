"""What the analysis stages are told."""

from __future__ import annotations

from typing import Literal

from flatprobe.config.blocks import Responses
from flatprobe.pipeline.stage import Settings
from flatprobe.study.decision_schema import Decision, Registered
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question, SetName

Kind = Literal[
    "checkpoint", "finetune_data", "finetune", "own", "states", "coupling_data", "couple", "selection",
    "leakage", "baseline", "manipulation", "binding", "audit", "weights",
]  # fmt: skip


class Entry(Settings):
    """What one input of the analysis is; its role in the stage's inputs is `role`."""

    role: str
    kind: Kind
    condition: str | None
    seed: int | None
    couple: str | None = None
    """Role of the coupling that a leakage input was sampled with; its facts hold lambda."""


class GatherSettings(Settings):
    """`analysis.gather:gather`: all observations as tables."""

    marker: str
    personas: tuple[Persona, ...]
    questions: dict[SetName, tuple[Question, ...]]
    entries: tuple[Entry, ...]


class EstimateSettings(Settings):
    """`analysis.estimate:estimate`: every contrast and description, with intervals."""

    rule: Decision
    source: str
    bystanders: tuple[str, ...]
    pools: dict[str, tuple[str, ...]]
    trained: tuple[str, ...]
    """Personas that no pool may hold without being called contaminated."""
    geometry_resamples: int
    reliability_splits: int
    seed: int
    stop_at: float | None
    """The source's registered level in nats, of matched acquisition; null without it."""
    entries: tuple[Entry, ...]


class PairSettings(Settings):
    """`analysis.checkpoint_pair:compare`: two checkpoints' states against each other, outside a study."""

    source: str
    bystanders: tuple[str, ...]
    responses: tuple[Responses, ...]
    level: float
    resamples: int
    reliability_splits: int
    seed: int


class DecideSettings(Settings):
    """`analysis.decide:decide_study`: gates and the registered rule."""

    rule: Decision
    source: str
    bystanders: tuple[str, ...]
    registered: Registered
    smoke: bool
    finetuned: tuple[str, ...]
    """Conditions that were merged from an adapter."""
    held_out_from: dict[str, str]
    """By condition whose finetune holds texts out, the condition under whose name they were scored: another one where
    both are trained on the same rows."""
