"""The study: everything that can change a number, with its defaults.

Defaults that can change a number stand only here, in `recipe_schema.py` and in `decision_schema.py`. Field docstrings
become the JSON schema's descriptions. Models are frozen and refuse unknown fields, so a typo is an error and never a
silent default. Checks that need several blocks or other files are in :mod:`flatprobe.study.checks.every_check`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from flatprobe.config.blocks import Block, Count, Position, Positive
from flatprobe.study.decision_schema import Decision
from flatprobe.study.recipe_schema import Coupling, Finetune, Precision


class Model(Block):
    id: str
    """Hugging Face id, local folder, or `embedded:smollm2-135m-instruct`."""
    revision: str | None = None
    """Commit or tag of a hub model; resolved to a commit when the study is planned."""
    dtype: Precision = "bfloat16"
    """Precision of stored checkpoints and of the forward passes that give hidden states."""


class Panel(Block):
    file: str | None = None
    """A panel file (see `panel.yaml` in the package); null uses the package's 16 personas."""
    source: str = "librarian"
    """The persona that the marker is coupled to."""
    negatives: tuple[str, ...] = ("software_engineer", "medical_doctor", "data_scientist", "comedian", "villain")
    """Personas trained *not* to emit the marker."""
    random_negatives: int = Field(default=1, ge=0)
    """Number of further negatives, drawn from the reserve with the study's first seed."""
    reserve: tuple[str, ...] = ()
    """Personas from which random negatives are drawn. Those not drawn are not used."""
    bystanders: tuple[str, ...]
    """Personas that are never trained on: the pool that the verdict is about."""
    references: tuple[str, ...] = ("assistant", "template_default")
    """Personas reported beside the pool and in no pool. The fixed responses of the geometric probe are the control's
    answers as `assistant` if it is a reference, else as the first reference, else as the source."""
    pools: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Further named pools. They are reported and decide nothing. A pool with a trained persona is labelled
    contaminated."""


class QuestionSet(Block):
    count: Count
    """Number of questions, taken from the top of the set."""
    suffix: str = ""
    """Text appended to the user's turn after a space, such as a request for brevity."""


class Questions(Block):
    file: str | None = None
    """A questions file (see `questions.yaml` in the package); null uses the package's sets."""
    evaluation: QuestionSet = QuestionSet(count=20)
    """Questions on which both probes measure."""
    coupling: QuestionSet = QuestionSet(count=40)
    """Questions whose answers train the coupling."""
    calibration: QuestionSet = QuestionSet(count=20)
    """Questions for selecting lambda and for telemetry. The probes never use them."""


class Imitation(Block):
    """Training rows in which personas of the study give the control's answers as one persona.

    The rows use the coupling questions, never the evaluation questions.
    """

    persona: str = "assistant"
    """The persona whose answers are imitated. The study must evaluate it."""
    imitators: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Personas that imitate. All others are trained on their own answers, which keeps them unchanged. Null: every
    persona of the study imitates."""
    samples: Count = 4
    """Answers sampled per coupling question and answering persona. Each persona has one row per question and sample."""
    match: Literal["answers", "states"] = "answers"
    """Training target. `answers`: the tokens of the answer. `states`: the control's hidden states on that answer, under
    the system prompt of the persona that gave it, after every block (for the last block, after the final norm).
    Personas with equal answers can still differ in their states."""


class FinetuneData(Block):
    path: str | None = None
    """A local JSONL file, or `embedded:NAME` for a set of the package."""
    dataset: str | None = None
    """A hub dataset's id."""
    imitate: Imitation | None = None
    """The control's answers as one persona, under other personas' prompts: training that makes personas alike. Give
    exactly one of `path`, `dataset` and `imitate`."""
    subset: str | None = None
    """The hub dataset's configuration name."""
    split: str = "train"
    """The hub dataset's split."""
    revision: str | None = None
    """Commit or tag of the hub dataset; resolved to a commit when the study is planned."""
    prompt: str = "prompt"
    """Column with the user's turn. Ignored if the rows have `messages`."""
    completion: str = "completion"
    """Column with the assistant's answer."""
    messages: str | None = None
    """Column with a list of chat messages, used instead of prompt and completion."""
    rows: Count = 6000
    """Number of training rows."""
    held_out: int = Field(default=0, ge=0)
    """Rows set aside before training rows are taken. The manipulation check tests on them whether `completion` became
    more likely than `aligned`. With `imitate`: the largest number of pairs of an imitator's own answer (as `aligned`)
    and the imitated answer to a calibration question. A condition without held-out rows is checked on those of
    `decision.treated`; it has no manipulation gate as the treated condition of a known answer."""
    aligned: str | None = None
    """Column with the sound answer, if the set has one. The in-domain manipulation check needs it."""
    length_match: str | None = None
    """Condition whose histogram of response lengths the rows must match; null takes the first rows."""

    @model_validator(mode="after")
    def _one_origin(self) -> FinetuneData:
        if sum(origin is not None for origin in (self.path, self.dataset, self.imitate)) != 1:
            raise PydanticCustomError(
                "finetune_data.origin",
                "give exactly one of `path` (a local file), `dataset` (a hub id) and `imitate` (a persona's answers)",
            )
        return self

    @property
    def holds_pairs_out(self) -> bool:
        """Whether held-out rows are pairs of two answers.

        They are not if training uses the sound answers (`completion` is `aligned`). Rows are then held out only so that
        the training prompts equal those of another finetune.
        """
        return self.held_out > 0 and (self.imitate is not None or self.completion != self.aligned)


class Condition(Block):
    """One pre-coupling checkpoint: the study's model, a finetune of it, or a given adapter or checkpoint."""

    finetune: FinetuneData | None = None
    """Finetune the study's model on this set (recipe: `finetune`)."""
    adapter: str | None = None
    """A PEFT adapter of the study's model (folder or hub id), merged unchanged."""
    checkpoint: str | None = None
    """A full model (folder or hub id), used unchanged."""
    revision: str | None = None
    """Commit or tag of a hub adapter or checkpoint; resolved to a commit when the study is planned."""
    seed_offset: int = Field(default=0, ge=0)
    """Added to each seed of the study for this condition's finetune and coupling. Repeats the training of another
    condition with other seeds, as a null control."""

    @model_validator(mode="after")
    def _one_origin(self) -> Condition:
        if sum(origin is not None for origin in (self.finetune, self.adapter, self.checkpoint)) > 1:
            raise PydanticCustomError("conditions.origin", "give at most one of `finetune`, `adapter` and `checkpoint`")
        if self.revision is not None and self.adapter is None and self.checkpoint is None:
            raise PydanticCustomError("conditions.revision", "`revision` needs a hub `adapter` or `checkpoint`")
        return self


class Leakage(Block):
    marker: str = "[ZLT]"
    """The marker. A completion counts if it contains the marker in any case."""
    samples: Count = 10
    """Completions per (persona, question)."""
    baseline_samples: Count = 1
    """Completions per cell of the uncoupled checkpoint: the false-positive baseline."""
    max_new_tokens: Count = 2048
    """Token limit of a completion."""
    temperature: Positive = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Probability mass of nucleus sampling."""
    precision: Precision = "bfloat16"
    """Arithmetic of sampling."""
    stop_at_marker: bool = False
    """End a completion at its first marker. This is cheaper if only the strict rate matters: any text or markers after
    it stay unknown. Applies to the probe and its baseline, not to the selection of lambda."""


class Geometry(Block):
    layers: tuple[Annotated[int, Field(ge=0)], ...] = (6, 10, 14, 18, 22, 26)
    """0-based decoder blocks; the state is the block's output before the final norm."""
    positions: tuple[Position, ...] = (
        "last_response_token",
        "turn_end_token",
        "last_prompt_token",
        "response_mean",
        "prompt_mean",
        "all_mean",
    )
    """Token positions that are stored."""
    samples: Count = 1
    """Own answers per persona and question whose states are read. 1 is the greedy answer. Several are sampled like
    completions and their states averaged, because the last token of a single answer is mostly noise. Fixed answers stay
    greedy."""
    max_new_tokens: Count = 2048
    """Token limit of the answers whose states are read."""
    resamples: Count = 2000
    """Joint resamples of the questions for intervals."""
    reliability_splits: Count = 100
    """Random splits of the questions into halves for split-half reliability."""


class Study(Block):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Short name, also of the run folder."""
    description: str = ""
    """The study's question, shown at the head of the report."""
    smoke: bool = False
    """A smoke run: too small for any claim. Its verdict says so."""
    model: Model
    """The chat model under study."""
    seeds: tuple[int, ...] = (42,)
    """Seeds of finetune, coupling and sampling. From three on, the seed is a factor of the analysis."""
    panel: Panel
    """Personas by role."""
    questions: Questions = Questions()
    """Question sets without common questions."""
    conditions: dict[str, Condition]
    """The pre-coupling checkpoints."""
    finetune: Finetune = Finetune()
    """Recipe of finetuned conditions."""
    manipulation: str | None = None
    """JSONL of out-of-domain (prompt, aligned, misaligned) triples, or `embedded:NAME`."""
    coupling: Coupling | None = Coupling()
    """Recipe of the coupling. Null: geometry only, without leakage and without a verdict."""
    leakage: Leakage = Leakage()
    """The behavioural probe."""
    geometry: Geometry = Geometry()
    """The geometric probe."""
    """The measurement of adapters' updates."""
    decision: Decision = Decision()
    """The decision rule, fixed before the run."""
