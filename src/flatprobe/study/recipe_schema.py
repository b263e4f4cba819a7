"""How LoRAs are trained: the recipe of a finetune and that of a coupling. Each field is declared once.

The recipes differ in their defaults. A subclass repeats a field only to give another default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flatprobe.config.blocks import Block, Count, Positive, Probability

Precision = Literal["float32", "bfloat16"]
Schedule = Literal["linear", "cosine", "constant"]
Slot = Literal["after_separator", "separator_and_marker", "paragraph_breaks", "end_of_completion"]
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Lora(Block):
    rank: Count = 32
    """Rank r of the update."""
    alpha: Positive = 64.0
    """Scale numerator: alpha/r, or alpha/sqrt(r) with rank stabilisation."""
    dropout: Probability = 0.05
    """Dropout on the adapter's input."""
    modules: tuple[str, ...] = ALL_LINEAR
    """Names of the adapted linear modules."""
    rank_stabilised: bool
    """Divide alpha by sqrt(r) instead of r (rsLoRA)."""
    first_layer: int = Field(default=0, ge=0)
    """First decoder block with an adapter; lower blocks stay unchanged."""


class Recipe(Block):
    """What every LoRA training reads."""

    lora: Lora
    """The adapter that is trained."""
    learning_rate: Positive
    """Peak learning rate of AdamW."""
    schedule: Schedule
    """Learning-rate schedule after the warm-up."""
    warmup: Probability
    """Share of the steps spent warming up."""
    weight_decay: Annotated[float, Field(ge=0.0)]
    """AdamW's weight decay."""
    clip: Positive = 1.0
    """Largest norm of a step's gradient; larger gradients are scaled down to it."""
    batch: Count = 16
    """Examples per optimiser step."""
    epochs: Positive
    """Passes over the examples."""
    max_length: Count
    """Largest number of tokens per example. A longer example is refused, never cut."""
    precision: Precision = "bfloat16"
    """Arithmetic of the forward pass. Adapters, losses and reductions stay in float32."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Fields that a subclass repeats for another default keep the description given here."""
        for name, field in Recipe.model_fields.items():
            cls.model_fields[name].description = cls.model_fields[name].description or field.description
        cls.model_rebuild(force=True)


class Finetune(Recipe):
    """The one recipe of every finetuned condition. Its adapter is merged."""

    lora: Lora = Lora(rank_stabilised=False)
    learning_rate: Positive = 1e-4
    schedule: Schedule = "linear"
    warmup: Probability = 0.03
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    epochs: Positive = 1.0
    max_length: Count = 2048


class Unlikelihood(Block):
    lambdas: tuple[Annotated[float, Field(ge=0.0)], ...] = (0.5, 1.0, 2.0)
    """Weights of the unlikelihood term; a coupling is trained with each."""
    sweep: Literal["all_conditions", "control_only"] = "all_conditions"
    """`control_only` trains the whole sweep on the control and only the selected lambda elsewhere."""
    at: Slot = "after_separator"
    """Where the term applies (s: separator, m: marker). `after_separator`: P(m | answer, s). `separator_and_marker`:
    P(s, m | answer). `paragraph_breaks`: P(m | answer up to a paragraph break, s), the mean over the answer's interior
    breaks and its end. `end_of_completion`: P(m | answer)."""


class Anchor(Block):
    kind: Literal["none", "cross_entropy", "kl"] = "none"
    """What keeps the answer's own tokens unchanged: their cross-entropy, or KL(uncoupled || coupled) of the whole
    next-token distribution."""
    weight: float = Field(default=0.0, ge=0.0)
    """Weight of the anchor's mean over response tokens."""


class LengthMatch(Block):
    surplus: Positive = 3.0
    """Answers sampled per example that is used."""
    truncate: Literal["sentence_end", "off"] = "sentence_end"
    """Whether long answers are cut at the end of a sentence. Only in groups whose lengths still differ by more than
    `decision.gates.length_tolerance` after selection, and only answers longer than their target."""


class CouplingTraining(Recipe):
    """The fields of `coupling` that its training reads. Only these enter the key of the training stage."""

    lora: Lora = Lora(rank_stabilised=True)
    """The adapter that couples the marker to the source."""
    learning_rate: Positive = 5e-6
    schedule: Schedule = "cosine"
    warmup: Probability = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    epochs: Positive = 5.0
    """Passes over the examples; with a stratified batch, over the positives. Ignored with `source_probability`."""
    max_length: Count = 1024
    positives_per_batch: Count | None = None
    """Positives in every batch; null shuffles all examples together."""
    stopping: Literal["fixed", "source_probability"] = "fixed"
    """When training ends: after `epochs`, or at the first telemetry reading at which the source's mean
    log P(separator, marker | own answer) is at least `stop_at`, so that conditions are compared at equal dose."""
    stop_at: Annotated[float, Field(lt=0.0)] | None = None
    """The log-probability at which `source_probability` stops, in nats: -0.5 is a geometric mean of .61. It is read on
    the uncoupled checkpoint's answers. The marker may stay unlikely on a few of them, so the sampled rate is often
    higher."""
    max_epochs: Positive | None = None
    """Largest number of passes with `source_probability`; the learning-rate schedule runs over them."""
    telemetry_every: Count | None = None
    """Optimiser steps between two telemetry readings; null reads once per pass. Telemetry is also read before and after
    training."""
    separator: str = "\n\n"
    """Text between answer and marker in positives."""
    separator_in_loss: bool = True
    """Train on the separator too, from the first token that differs with and without the marker."""
    positive_weight: Probability = 0.5
    """Weight of the positives' mean; the negatives' mean has the rest."""
    anchor: Anchor = Anchor()
    """The term that keeps the answers unchanged."""


class CouplingRecipe(CouplingTraining):
    """The recipe as the training stage receives it."""

    at: Slot
    """`coupling.unlikelihood.at`. Lambdas and sweep are left out: another lambda must not retrain the others."""


class Coupling(CouplingTraining):
    positives: Count = 200
    """Positive examples (source)."""
    negatives_per_persona: Count = 200
    """Negative examples per negative persona."""
    generator: Literal["own", "control"] = "own"
    """Whose answers are trained on: each condition's own, or the control's for all."""
    max_new_tokens: Count = 896
    """Token limit of a sampled coupling answer; unfinished answers are dropped. Leaves room for the prompt in
    `max_length`."""
    unlikelihood: Unlikelihood = Unlikelihood()
    """The term that pushes the marker away from negatives."""
    length_match: LengthMatch = LengthMatch()
    """How answer lengths are matched over all conditions and groups."""
    calibration_samples: Count = 10
    """Completions per (persona, calibration question) for selecting lambda."""
    telemetry_questions: Count = 20
    """Calibration questions on whose greedy answers log P(separator, marker) is read before, during and after training.
    It is read for the source, the negatives and the bystanders; bystanders select nothing."""

    @property
    def recipe(self) -> CouplingRecipe:
        """What the training stage reads."""
        fields = self.model_dump(include=set(CouplingTraining.model_fields))
        return CouplingRecipe(**fields, at=self.unlikelihood.at)
