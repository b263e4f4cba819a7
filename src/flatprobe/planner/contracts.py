"""The settings of each kind of stage. They stand apart from the stage functions, so that planning imports no torch.

Settings are hashed into keys: a new field or name makes every stage of its kind run again. Fields have no defaults:
defaults that change a number stand only in the study's schema.
"""

from __future__ import annotations

from typing import Literal

from flatprobe.config.blocks import Position
from flatprobe.models.reference import Reference
from flatprobe.pipeline.stage import Settings
from flatprobe.study.decision_schema import Decision, RegistrationState
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question, SetName
from flatprobe.study.recipe_schema import CouplingRecipe, Finetune, Precision
from flatprobe.study.schema import FinetuneData

EntryKind = Literal[
    "checkpoint",
    "finetune_data",
    "finetune",
    "own",
    "states",
    "coupling_data",
    "couple",
    "selection",
    "leakage",
    "baseline",
    "manipulation",
    "binding",
    "audit",
    "weights",
]


class CheckpointSettings(Settings):
    """Kind `checkpoint`: a model from outside the run."""

    reference: Reference


class FinetuneDataSettings(Settings):
    """Kind `finetune_data`: the rows of one finetune."""

    data: FinetuneData
    fingerprint: str | None
    """sha256 of a local or embedded file; null for a hub dataset."""
    max_length: int


class ImitationSettings(Settings):
    """Kind `imitation_data`: the rows of a finetune in which personas give one persona's answers."""

    imitated: str
    imitators: tuple[str, ...]
    """Personas that give the imitated persona's answers. The other `personas` give their own."""
    personas: tuple[Persona, ...]
    """Personas whose system prompts have rows."""
    questions: tuple[Question, ...]
    """Coupling questions, for the training rows."""
    calibration: tuple[Question, ...]
    """Calibration questions, for the held-out pairs."""
    marker: str
    rows: int
    held_out: int
    max_length: int


class FinetuneSettings(Settings):
    """Kind `finetune`: the LoRA of one condition."""

    recipe: Finetune
    seed: int
    match: Literal["answers", "states"]
    """See `Imitation.match`."""


class MergeSettings(Settings):
    """Kind `merge`: an adapter merged into its checkpoint."""

    dtype: Precision
    """Precision of the stored checkpoint."""
    given: Reference | None
    """An adapter from outside the run; null merges the `adapter` input."""


class SampleSettings(Settings):
    """Kind `sample`: answers of one checkpoint."""

    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    samples: int
    max_new_tokens: int
    temperature: float
    top_p: float
    precision: Precision
    seed: str
    """Name of the random streams; request seeds are derived from it."""
    stop_at: str | None
    """Text that ends a completion. Null: every completion runs until its end of turn or the token limit."""
    parity_prompts: int
    """Prompts on which the engine is compared with plain `generate` (0: not compared)."""


class CouplingDataSettings(Settings):
    """Kind `coupling_data`: the coupling's training sets of all conditions."""

    source: str
    marker: str
    positives: int
    negatives_per_persona: int
    truncate: Literal["sentence_end", "off"]
    tolerance: float
    """A group's answers are cut if its median or interquartile range differs relatively by more than this."""


class CoupleSettings(Settings):
    """Kind `couple`: the LoRA that couples the marker to the source."""

    recipe: CouplingRecipe
    condition: str
    marker: str
    lambda_: float | None
    """Weight of the unlikelihood term. Null: the selected one, from the `selection` input."""
    seed: int
    personas: tuple[Persona, ...]
    """Source and negatives, the personas trained on."""
    bystanders: tuple[Persona, ...]
    """Personas that only telemetry reads; never trained on."""
    questions: tuple[Question, ...]
    """Coupling questions."""
    calibration: tuple[Question, ...]
    """Calibration questions of the telemetry's answers."""


class SelectSettings(Settings):
    """Kind `select_lambda`: the choice of lambda on the control."""

    source: str
    marker: str
    lambdas: tuple[float, ...]


class StatesSettings(Settings):
    """Kind `states`: the hidden states of one checkpoint."""

    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    layers: tuple[int, ...]
    positions: tuple[Position, ...]
    precision: Precision
    fixed_persona: str
    """The persona whose control answers are the fixed responses."""


class BindingSettings(Settings):
    """Kind `binding`: the marker's log-probability for each pairing of system prompt and answer."""

    source: Persona
    bystanders: tuple[Persona, ...]
    questions: tuple[Question, ...]
    """Evaluation questions."""
    separator: str
    marker: str
    precision: Precision
    level: float
    """Confidence level of the intervals over questions."""


class WeightsSettings(Settings):
    """Kind `weights`: the size of an adapter's update in each module."""

    precision: Precision
    """Precision of the stored checkpoint, which is read without loss."""


class ManipulationSettings(Settings):
    """Kind `manipulation`: fixed texts scored under one checkpoint."""

    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    precision: Precision
    out_of_domain: str | None
    """sha256 of a JSONL file of (prompt, aligned, misaligned) triples."""


class Entry(Settings):
    """Describes one input of the analysis. `role` is its name among the stage's inputs."""

    role: str
    kind: EntryKind
    condition: str | None
    seed: int | None
    couple: str | None = None
    """Role of the coupling that the input was measured with. Lambda is in that coupling's facts."""


class GatherSettings(Settings):
    """Kind `gather`: all observations as tables."""

    marker: str
    personas: tuple[Persona, ...]
    questions: dict[SetName, tuple[Question, ...]]
    entries: tuple[Entry, ...]
    level: float
    """Level of the intervals of rates."""


class EstimateSettings(Settings):
    """Kind `estimate`: all contrasts and descriptive statistics, with intervals."""

    rule: Decision
    source: str
    bystanders: tuple[str, ...]
    pools: dict[str, tuple[str, ...]]
    trained: tuple[str, ...]
    """Source and negatives. A pool with one of them is contaminated."""
    geometry_resamples: int
    reliability_splits: int
    seed: int
    stop_at: float | None
    """The source's log-probability at which couplings stop, in nats; null with fixed epochs."""
    entries: tuple[Entry, ...]


class DecideSettings(Settings):
    """Kind `decide`: gates and the registered rule."""

    rule: Decision
    source: str
    bystanders: tuple[str, ...]
    registered: RegistrationState
    smoke: bool
    finetuned: tuple[str, ...]
    """Conditions whose checkpoint was merged from an adapter."""
    held_out_from: dict[str, str]
    """Condition whose finetune holds out texts to the condition under whose name they were scored. The two differ if
    both are trained on the same rows."""
