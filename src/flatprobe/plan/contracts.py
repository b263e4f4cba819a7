"""What each stage is told. Apart from the stage functions, so that planning imports no model library.

No field has a default: defaults that change a number live in the study's schema alone.
"""

from __future__ import annotations

from typing import Literal

from flatprobe.config.blocks import Position, Responses
from flatprobe.models.reference import Reference
from flatprobe.pipeline.stage import Settings
from flatprobe.study.decision_schema import Decision, RegistrationState
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question, SetName
from flatprobe.study.recipe_schema import CouplingRecipe, Finetune, Precision
from flatprobe.study.schema import FinetuneData

EntryKind = Literal[
    "checkpoint", "finetune_data", "finetune", "own", "states", "coupling_data", "couple", "selection",
    "leakage", "baseline", "manipulation", "binding", "audit", "weights",
]  # fmt: skip


class CheckpointSettings(Settings):
    """`training.checkpoint:use_checkpoint`: a model from outside the run."""

    reference: Reference


class FinetuneDataSettings(Settings):
    """`data.finetuning:prepare`: the rows of one finetune."""

    data: FinetuneData
    fingerprint: str | None
    """sha256 of a local or embedded file; null for a hub dataset."""
    max_length: int


class ImitationSettings(Settings):
    """`data.imitation:prepare`: the rows of a finetune in which personas give one persona's answers."""

    imitated: str
    imitators: tuple[str, ...]
    """Who gives the imitated persona's answers; the other `personas` give their own."""
    personas: tuple[Persona, ...]
    """Under whose system prompts there are rows."""
    questions: tuple[Question, ...]
    """Coupling questions, which the answers are to."""
    calibration: tuple[Question, ...]
    """Questions of the texts that are held out."""
    marker: str
    rows: int
    held_out: int
    max_length: int


class FinetuneSettings(Settings):
    """`training.finetune:finetune`: the LoRA of one condition."""

    recipe: Finetune
    seed: int
    match: Literal["answers", "states"]
    """See `Imitation.match`."""


class MergeSettings(Settings):
    """`training.merge:merge`: an adapter merged into its checkpoint."""

    dtype: Precision
    """Precision of the stored checkpoint."""
    given: Reference | None
    """An adapter from outside the run; null merges the `adapter` input."""


class SampleSettings(Settings):
    """`generation.stages:sample`: answers of one checkpoint."""

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
    """Text with which a completion is over; null lets every completion run to its own end."""
    parity_prompts: int
    """Prompts on which the engine is compared with plain `generate` (0: not compared)."""


class CouplingDataSettings(Settings):
    """`data.stages:build`: the coupling's training sets of all conditions."""

    source: str
    marker: str
    positives: int
    negatives_per_persona: int
    truncate: Literal["sentence_end", "off"]
    tolerance: float
    """Relative difference of medians and interquartile ranges beyond which a group's answers are cut."""


class CoupleSettings(Settings):
    """`training.couple:couple`: the LoRA that couples the marker to the source."""

    recipe: CouplingRecipe
    condition: str
    marker: str
    lambda_: float | None
    """Weight of the unlikelihood term; null takes the selected one from the `selection` input."""
    seed: int
    personas: tuple[Persona, ...]
    """Source and negatives: those trained on."""
    bystanders: tuple[Persona, ...]
    """Personas that telemetry reads besides; never trained on."""
    questions: tuple[Question, ...]
    """Coupling questions."""
    calibration: tuple[Question, ...]
    """Questions of the telemetry's answers."""


class SelectSettings(Settings):
    """`probes.leakage:select_lambda`."""

    source: str
    marker: str
    lambdas: tuple[float, ...]


class StatesSettings(Settings):
    """`probes.geometry:capture`: the hidden states of one checkpoint."""

    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    layers: tuple[int, ...]
    positions: tuple[Position, ...]
    precision: Precision
    fixed_persona: str
    """The persona whose control answers are the fixed responses."""


class BindingSettings(Settings):
    """`probes.binding:measure`: the marker under either system prompt and behind either answer."""

    source: Persona
    bystanders: tuple[Persona, ...]
    questions: tuple[Question, ...]
    """Evaluation questions."""
    separator: str
    marker: str
    precision: Precision
    level: float
    """Level of the intervals over questions."""


class WeightsSettings(Settings):
    """`training.weights_stage:measure`: what an adapter does to each weight matrix."""

    precision: Precision
    """In which the checkpoint is stored, and so read without loss."""
    leading: int
    cosine: float


class ManipulationSettings(Settings):
    """`probes.manipulation:check`: fixed texts scored under one checkpoint."""

    personas: tuple[Persona, ...]
    questions: tuple[Question, ...]
    precision: Precision
    out_of_domain: str | None
    """sha256 of a JSONL file of (prompt, aligned, misaligned) triples."""


class Entry(Settings):
    """What one input of the analysis is; its role in the stage's inputs is `role`."""

    role: str
    kind: EntryKind
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
    registered: RegistrationState
    smoke: bool
    finetuned: tuple[str, ...]
    """Conditions that were merged from an adapter."""
    held_out_from: dict[str, str]
    """By condition whose finetune holds texts out, the condition under whose name they were scored: another one where
    both are trained on the same rows."""
