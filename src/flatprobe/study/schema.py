"""The study: everything that can change a number, and the only place where such a default lives.

Field docstrings become the JSON schema's descriptions. Models are frozen and refuse unknown fields, so a typo is
an error with a suggestion and never a silent default. Cross-field rules that need other files (questions, panel,
model) live in :mod:`flatprobe.study.checks.every_check`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from flatprobe.config.blocks import Block, Count, Position, Positive, Probability
from flatprobe.study.decision_schema import Decision
from flatprobe.study.recipe_schema import Coupling, Finetune, Precision


class Model(Block):
    id: str
    """Hugging Face id, local folder, or `embedded:smollm2-135m-instruct`."""
    revision: str | None = None
    """Commit or tag of a hub model; resolved to a commit when the study is planned."""
    dtype: Precision = "bfloat16"
    """Precision in which checkpoints are stored and hidden states are computed."""


class Panel(Block):
    file: str | None = None
    """A panel file (see `panel.yaml` in the package); null uses the package's own 16 personas."""
    source: str = "librarian"
    """The persona that the marker is coupled to."""
    negatives: tuple[str, ...] = (
        "software_engineer",
        "medical_doctor",
        "data_scientist",
        "comedian",
        "villain",
    )
    """Personas trained *not* to emit the marker."""
    random_negatives: int = Field(default=1, ge=0)
    """How many further negatives are drawn from the reserve with the study's first seed."""
    reserve: tuple[str, ...] = ()
    """Personas from which random negatives are drawn; the rest of it stays unused."""
    bystanders: tuple[str, ...]
    """Personas never trained on: the pool that the verdict is about."""
    references: tuple[str, ...] = ("assistant", "template_default")
    """Personas reported beside the pool, in no pool themselves. The fixed responses of the geometric probe are the
    control's answers as `assistant` where it is among them, else as the first of them (else as the source)."""
    pools: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Further named pools, reported and never deciding; a pool with a trained persona is labelled contaminated."""


class QuestionSet(Block):
    count: Count
    """How many questions are taken, from the top of the set."""
    suffix: str = ""
    """Text appended to the user's turn after a space, for instance a request for brevity."""


class Questions(Block):
    file: str | None = None
    """A questions file (see `questions.yaml` in the package); null uses the package's own sets."""
    evaluation: QuestionSet = QuestionSet(count=20)
    """Questions on which both probes are read."""
    coupling: QuestionSet = QuestionSet(count=40)
    """Questions whose answers train the coupling."""
    calibration: QuestionSet = QuestionSet(count=20)
    """Questions for selecting lambda and for telemetry; never used by a probe."""


class Imitation(Block):
    """Rows in which personas of the study give one persona's answers: the control's own, so nothing else changes.

    The coupling questions are asked; evaluation questions never are.
    """

    persona: str = "assistant"
    """Whose answers are given: a persona that the study evaluates."""
    imitators: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Personas that give them; all others rehearse their own answers, so that they stay what they are. Null: every
    persona of the study imitates."""
    samples: Count = 4
    """Answers sampled per coupling question and answering persona; each persona has a row per question and sample."""
    match: Literal["answers", "states"] = "answers"
    """What is learnt of a row: its answer's tokens, or the hidden states that the control has on that answer under the
    prompt of whoever gives it, after every block (the last one's after the final norm). Personas that only say the same
    can still differ in their states."""


class FinetuneData(Block):
    path: str | None = None
    """A local JSONL file, or `embedded:NAME` for a set that the package ships."""
    dataset: str | None = None
    """A hub dataset's id."""
    imitate: Imitation | None = None
    """Answers of the control as one persona, under other personas' prompts: personas made alike by training. Exactly
    one of `path`, `dataset` and `imitate` is given."""
    subset: str | None = None
    """The hub dataset's configuration name."""
    split: str = "train"
    """The hub dataset's split."""
    revision: str | None = None
    """Commit or tag of the hub dataset; resolved to a commit when the study is planned."""
    prompt: str = "prompt"
    """Column with the user's turn (ignored where rows have `messages`)."""
    completion: str = "completion"
    """Column with the assistant's answer."""
    messages: str | None = None
    """Column with a list of chat messages, instead of prompt and completion."""
    rows: Count = 6000
    """Rows trained on."""
    held_out: int = Field(default=0, ge=0)
    """Rows set aside, before any is taken, for the manipulation check, which looks for a rise of `completion` against
    `aligned`; with `imitate`, the most pairs of an imitator's own (as `aligned`) and the imitated answer to a
    calibration question. A condition whose finetune holds none out is read on those of `decision.treated`, and has no
    manipulation gate where it is the treated arm of a known answer."""
    aligned: str | None = None
    """Column with the sound answer, where the set has one: needed by the in-domain manipulation check."""
    length_match: str | None = None
    """Condition whose response-length histogram the accepted rows fill; null takes the first rows."""

    @model_validator(mode="after")
    def _one_origin(self) -> FinetuneData:
        if sum(origin is not None for origin in (self.path, self.dataset, self.imitate)) != 1:
            raise ValueError(
                "give exactly one of `path` (a local file), `dataset` (a hub id) and `imitate` (a persona's answers)"
            )
        return self

    @property
    def holds_pairs_out(self) -> bool:
        """Whether held-out rows are pairs of two answers. Where sound answers are trained on, `completion` is
        `aligned`, and rows set aside only keep the prompts those of another finetune."""
        return self.held_out > 0 and (self.imitate is not None or self.completion != self.aligned)


class Condition(Block):
    """One pre-coupling checkpoint: the study's model, a finetune of it, or a given adapter or checkpoint."""

    finetune: FinetuneData | None = None
    """Finetune the study's model on this set (recipe: `finetune`)."""
    adapter: str | None = None
    """A PEFT adapter of the study's model (folder or hub id), merged as it is."""
    checkpoint: str | None = None
    """A full model (folder or hub id) used as it is."""
    revision: str | None = None
    """Commit or tag of a hub adapter or checkpoint; resolved to a commit when the study is planned."""
    seed_offset: int = Field(default=0, ge=0)
    """Added to each of the study's seeds for this condition's finetune and coupling: the same condition trained again,
    a null control of the other."""

    @model_validator(mode="after")
    def _one_origin(self) -> Condition:
        if sum(origin is not None for origin in (self.finetune, self.adapter, self.checkpoint)) > 1:
            raise ValueError("give at most one of `finetune`, `adapter` and `checkpoint`")
        if self.revision is not None and self.adapter is None and self.checkpoint is None:
            raise ValueError("`revision` is that of a hub `adapter` or `checkpoint`; there is neither")
        return self


class Leakage(Block):
    marker: str = "[ZLT]"
    """The marker; a completion counts when it contains it, case-insensitively."""
    samples: Count = 10
    """Completions per (persona, question)."""
    baseline_samples: Count = 1
    """Completions per cell of the uncoupled checkpoint: the false-positive baseline."""
    max_new_tokens: Count = 2048
    """Limit of a completion."""
    temperature: Positive = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus mass."""
    precision: Precision = "bfloat16"
    """Arithmetic of sampling."""
    stop_at_marker: bool = False
    """End a completion with its first marker: cheaper where only the strict rate counts, since what would follow, more
    markers or more text, is then unknown. Applies to the probe and its baseline, not to the selection of lambda."""


class Geometry(Block):
    layers: tuple[Annotated[int, Field(ge=0)], ...] = (6, 10, 14, 18, 22, 26)
    """0-based decoder blocks; the state is the block's output before the final norm."""
    positions: tuple[Position, ...] = (
        "last_response_token", "turn_end_token", "last_prompt_token", "response_mean", "prompt_mean", "all_mean",
    )  # fmt: skip
    """Token positions that are stored."""
    samples: Count = 1
    """Own answers per persona and question whose states are read: 1 is greedy; several are sampled like completions and
    their states averaged, as one answer leaves its last token mostly noise. Fixed answers stay greedy."""
    max_new_tokens: Count = 2048
    """Limit of the answers whose states are read."""
    resamples: Count = 2000
    """Joint question resamples for intervals."""
    reliability_splits: Count = 100
    """Random halves of the questions behind a split-half reliability."""


class Weights(Block):
    """What is measured of every adapter's update, module by module; decides nothing."""

    leading: Count = 10
    """Leading left singular vectors of the changed weight that are looked at."""
    cosine: Probability = 0.5
    """One whose cosine with every left singular vector of the weight is below this is an intruder dimension."""


class Study(Block):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Short name: the run folder is called after it."""
    description: str = ""
    """What the study asks, for the report's head."""
    smoke: bool = False
    """A smoke run: sizes too small for any claim; its verdict is labelled as such."""
    model: Model
    """The chat model under study."""
    seeds: tuple[int, ...] = (42,)
    """Seeds of finetune, coupling and sampling; three or more make a seed factor."""
    panel: Panel
    """Personas by role."""
    questions: Questions = Questions()
    """Question sets, pairwise disjoint."""
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
    weights: Weights = Weights()
    """What adapters do to the weights."""
    decision: Decision = Decision()
    """The rule, fixed before the run."""
