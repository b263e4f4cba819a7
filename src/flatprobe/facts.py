"""The small facts of every kind of stage (`facts.json`): what gates, the report and people read of it.

One model per kind, one writer and one reader. Fields that older runs lack have a default; unknown fields are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

FILE = "facts.json"


class Facts(BaseModel):
    """Base of the facts of a stage."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, ser_json_inf_nan="constants")


F = TypeVar("F", bound=Facts)


def write_facts(output: Path, facts: Facts) -> None:
    """Write `facts.json` into a stage's output folder."""
    (output / FILE).write_text(facts.model_dump_json(by_alias=True), encoding="utf-8")


def read_facts(folder: Path, model: type[F]) -> F:
    """The facts of a finished stage. Raises pydantic's ValidationError where they are not of this kind."""
    return model.model_validate_json((folder / FILE).read_bytes())


class GivenFacts(Facts):
    """A checkpoint from outside the run."""

    origin: Literal["given"] = "given"
    kind: str
    id: str
    fingerprint: str
    model_type: str


class MergeFacts(Facts):
    """A merged checkpoint, compared with its unmerged adapter on fixed prompts."""

    origin: Literal["merged"] = "merged"
    adapter_norm: float
    changed_matrices: float
    """Share of the adapted weight matrices that changed."""
    mean_kl: float
    """Nats, stored weights against the unmerged adapter, both computed in float32."""
    mean_kl_in_dtype: float
    """The same with the stored weights in their own arithmetic."""
    max_logit_change: float
    adapter: dict[str, Any] | None
    """Reference of a given adapter."""


class FinetuneDataFacts(Facts):
    """The rows of a finetune. Further fields describe how they were chosen."""

    model_config = ConfigDict(extra="allow")

    rows: int
    held_out: int
    sha256: str
    """Of the rows' messages."""
    response_tokens: dict[str, float]
    """Quantiles."""
    first_rows: list[Any]


class FinetuneFacts(Facts):
    """A trained finetune."""

    adapter_norm: float
    steps: int
    rows: int


class CouplingDataFacts(Facts):
    """The coupling's training sets."""

    sampled: int
    dropped: dict[str, Any]
    """Answers left out, by reason."""
    usable: int
    kept: int
    cut: dict[str, int]
    """Answers cut at the end of a sentence, by group."""
    support: dict[str, dict[str, dict[str, int]]]
    """Condition, persona → `kept` and `asked` examples."""
    gate: dict[str, dict[str, float]]
    """Condition → largest relative difference of medians and interquartile ranges (`median`, `iqr`)."""


class Change(Facts):
    """A mean before and after the coupling."""

    before: float | None
    after: float | None


class CoupleFacts(Facts):
    """A trained coupling; log-probabilities in nats, means over a persona's answers."""

    lambda_: float = Field(alias="lambda")
    planned_steps: int
    audited: float
    """Share of the examples whose mask passed the audit."""
    adapter_norm: float
    examples: dict[str, int]
    steps: int
    unlikelihood_at_start: float | None
    inert: bool | None
    """Whether the unlikelihood term had no gradient at first; None without the term."""
    source_log_p: float | None
    """log P(separator, marker | own answer) of the source."""
    largest_other: str | None
    """The other persona with the largest log P."""
    containment: float | None
    """The source's log P minus the largest other's."""
    answer_log_p: Change
    marker_first: Change
    debris_first: Change
    empty: Change
    reached: bool | None
    """Whether matched acquisition reached its level; None without it."""
    warnings: list[str]


class Parity(Facts):
    """Greedy tokens on which the engine agrees with plain `generate`."""

    model_config = ConfigDict(extra="allow")

    agreed: int
    tokens: int


class CanaryFacts(Facts):
    """How an adapter changes the scores of a fixed text."""

    max_log_p_change: float | None
    """Largest change of a log-probability by the adapter, in nats; None if the engine gives none."""
    base_again_change: float | None
    """The same between the two readings of the base."""
    reading: list[float] | str
    """log P of every token with the adapter, or the engine's reason for having none."""


class SampleFacts(Facts):
    """Sampled completions. Further fields count them and describe the engine."""

    model_config = ConfigDict(extra="allow")

    engine: dict[str, Any]
    parity: Parity | None = None
    canary: CanaryFacts | None = None


class SelectionFacts(Facts):
    """The selected lambda."""

    selected: float


class StatesFacts(Facts):
    """The hidden states of a condition."""

    cells: int
    """(persona, question) pairs."""
    questions: int
    answers: int
    unfinished: int
    """Pairs with an own answer that was cut or is empty."""
    empty: int
    unfinished_fixed: int
    """Questions whose fixed answer was cut or is empty."""
    tokens: int
    computed_tokens: int
    headroom: dict[str, dict[str, float] | None]
    """Position → layer → 1 - mean cosine, on own answers."""
    headroom_fixed: dict[str, dict[str, float] | None]
    headroom_mean: dict[str, float | None]
    """Kind of states → mean over layers."""


class BindingFacts(Facts):
    """The binding test."""

    pairs: int
    """(bystander, question) pairs that were read."""
    pairs_asked: int
    system: str
    """How the template renders a system turn."""
    template_default: str | None


class WeightsFacts(Facts):
    """The size of an adapter's update."""

    modules: int
    """Number of adapted modules."""
    median_norm_ratio: float
    """Median over modules of the update's Frobenius norm over the weight's."""


class VerdictFacts(Facts):
    """The verdict in one line."""

    headline: str


@dataclass(frozen=True)
class StageFacts:
    """The facts of one stage of a study, with what the stage is."""

    role: str
    """Name of the stage."""
    kind: str
    condition: str | None
    seed: int | None
    couple: str | None
    """Name of the coupling that a stage was sampled or read with."""
    facts: Facts


_MODELS: dict[str, Any] = {
    "checkpoint": GivenFacts | MergeFacts,
    "finetune_data": FinetuneDataFacts,
    "finetune": FinetuneFacts,
    "coupling_data": CouplingDataFacts,
    "couple": CoupleFacts,
    "own": SampleFacts,
    "baseline": SampleFacts,
    "leakage": SampleFacts,
    "selection": SelectionFacts,
    "states": StatesFacts,
    "binding": BindingFacts,
    "weights": WeightsFacts,
}
"""Kind of an analysis input to the model of its facts."""


def read_stage_facts(path: Path) -> list[StageFacts]:
    """The facts of all stages of a study, from the `facts-by-stage.json` of its tables."""
    return [
        StageFacts(
            role=row["role"],
            kind=row["kind"],
            condition=row["condition"],
            seed=row["seed"],
            couple=row["couple"],
            facts=TypeAdapter(_MODELS[row["kind"]]).validate_python(row["facts"]),
        )
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]


def facts_of(stages: Sequence[StageFacts], model: type[F], condition: str | None = None) -> list[F]:
    """The facts of one model, of one condition if it is given."""
    return [stage.facts for stage in stages if isinstance(stage.facts, model) and condition in (None, stage.condition)]
