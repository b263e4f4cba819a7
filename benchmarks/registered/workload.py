"""How many tokens each kind of a study's stages takes, counted from the study's own plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flatprobe.data.coupling_examples import MarkerText, negative
from flatprobe.generation.sample import prompts_of
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.reference import Reference
from flatprobe.pipeline.stage import Stage, topological_order
from flatprobe.planner.contracts import (
    BindingSettings,
    CoupleSettings,
    FinetuneSettings,
    ManipulationSettings,
    SampleSettings,
    StatesSettings,
)
from flatprobe.planner.plan import plan
from flatprobe.study import resources
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.questions import SET_NAMES, take
from flatprobe.study.recipe_schema import CouplingRecipe  # fmt: skip
from flatprobe.study.resolve import Resolved
from flatprobe.training.steps import max_epochs, steps_between_readings

UNRESOLVED = "unresolved"  # content enters keys, not counts: no hub is asked


@dataclass(frozen=True)
class Lengths:
    """Tokens, on average."""

    prompt: float
    """Of the panel's prompts, rendered."""
    answer: float
    """Assumed."""
    finetune_prompt: float
    """Assumed."""
    finetune_answer: float
    """Assumed."""
    marker: float
    """Of separator, marker and end of turn."""
    negative_rows: int
    """Rows of a negative example: two where the separator changes the answer's last token."""

    @property
    def row(self) -> float:
        """Prompt and answer."""
        return self.prompt + self.answer

    @property
    def finetune_row(self) -> float:
        return self.finetune_prompt + self.finetune_answer


@dataclass(frozen=True)
class Work:
    """Tokens of one stage for one measured part."""

    kind: str
    part: str
    count: float
    """Answers, rows or examples."""
    each: float
    """Tokens of one."""
    what: str

    @property
    def tokens(self) -> float:
        return self.count * self.each


def stages_of(loaded: LoadedStudy) -> list[Stage]:
    """All stages of the plan; models and datasets stand in it by name alone."""
    study = loaded.study
    given = {
        name: c.adapter or c.checkpoint for name, c in study.conditions.items() if c.adapter or c.checkpoint
    }
    resolved = Resolved(
        study=study,
        personas=loaded.personas(),
        questions={name: take(loaded.questions[name], getattr(study.questions, name)) for name in SET_NAMES},
        model=Reference(kind="hub", id=study.model.id, fingerprint=UNRESOLVED),
        given={name: Reference(kind="hub", id=str(id), fingerprint=UNRESOLVED) for name, id in given.items()},
        fingerprints={study.manipulation: UNRESOLVED} if study.manipulation else {},
        dataset_revisions={},
        locations={},
    )
    return topological_order([plan(resolved, "exploratory").last])


def lengths_of(
    loaded: LoadedStudy,
    conversations: Conversations,
    answer: float,
    finetune_prompt: float,
    finetune_answer: float,
) -> Lengths:
    """Prompts and marker as the tokenizer has them; the rest as assumed."""
    study, coupling = loaded.study, loaded.study.coupling
    asked = take(loaded.questions["evaluation"], study.questions.evaluation)
    prompts = [len(conversations.encode_prompt(prompt)) for prompt in prompts_of(loaded.personas(), asked)]
    text = MarkerText(
        coupling.separator, study.leakage.marker, coupling.separator_in_loss, coupling.unlikelihood.at
    )
    example = negative(conversations, Prompt("", "You help.", "", asked[0].text), "It floats.", text)
    behind = len(conversations.encode(coupling.separator + study.leakage.marker)) + 1
    return Lengths(
        sum(prompts) / len(prompts), answer, finetune_prompt, finetune_answer, behind, len(example.rows)
    )


def work_of(stages: Iterable[Stage], loaded: LoadedStudy, lengths: Lengths) -> list[Work]:
    """What is counted of every stage; stages that run no model add nothing."""
    count = _Count(loaded, lengths)
    return [work for stage in stages for work in count.of(stage)]


class _Count:
    """Counts a stage by the kind of its settings."""

    def __init__(self, loaded: LoadedStudy, lengths: Lengths) -> None:
        self.loaded, self.lengths = loaded, lengths
        self.by_settings: dict[type, Callable[[str, Stage, Any], list[Work]]] = {
            SampleSettings: self._sample,
            StatesSettings: self._states,
            FinetuneSettings: self._finetune,
            CoupleSettings: self._couple,
            BindingSettings: self._binding,
            ManipulationSettings: self._manipulation,
        }

    def of(self, stage: Stage) -> list[Work]:
        if isinstance(stage.settings, CoupleSettings) and stage.kind != "couple":
            return []  # an audit is told what its coupling was, and runs no model
        count = self.by_settings.get(type(stage.settings))
        return count(stage.name.partition("/")[0], stage, stage.settings) if count else []

    def _sample(self, kind: str, stage: Stage, settings: SampleSettings) -> list[Work]:
        personas, questions = len(settings.personas), len(settings.questions)
        part = "sampling + adapter" if "adapter" in stage.inputs else "sampling"
        what = f"{personas} personas x {questions} questions x {settings.samples}"
        if kind == "answers":
            kind, what = f"answers, {stage.name.rpartition('/')[2]}", f"{what} (with the surplus)"
        each = min(self.lengths.answer, settings.max_new_tokens)
        return [Work(kind, part, personas * questions * settings.samples, each, what)]

    def _states(self, kind: str, stage: Stage, settings: StatesSettings) -> list[Work]:
        personas, questions = len(settings.personas), len(settings.questions)
        what = f"{personas} personas x {questions} questions, own and fixed"
        return [Work(kind, "geometry", 2 * personas * questions, self.lengths.row, what)]

    def _finetune(self, kind: str, stage: Stage, settings: FinetuneSettings) -> list[Work]:
        prepared: Any = stage.inputs["data"].settings
        rows = getattr(prepared, "data", prepared).rows
        epochs = settings.recipe.epochs
        what = f"{rows:,} rows x {epochs:g} epoch"
        return [Work(kind, "finetune step", rows * epochs, self.lengths.finetune_row, what)]

    def _couple(self, kind: str, stage: Stage, settings: CoupleSettings) -> list[Work]:
        """Training up to its cap, and the readings before it and on the way."""
        data: Any = stage.inputs["examples"].settings
        recipe, each = settings.recipe, self.lengths.row + self.lengths.marker
        negatives = (
            sum(persona.role == "negative" for persona in settings.personas) * data.negatives_per_persona
        )
        steps, positives, negatives = _steps(recipe, data.positives, negatives)
        rows, asked = (
            self.lengths.negative_rows,
            len(settings.calibration) * (len(settings.personas) + len(settings.bystanders)),
        )
        readings = 1 + -(-steps // steps_between_readings(recipe, steps))
        most = "" if recipe.stopping == "fixed" else ", at most"
        what = f"{steps} steps: {positives:,} + {rows} rows x {negatives:,}{most}"
        return [
            Work(kind, "coupling step", positives + rows * negatives, each, what),
            Work(
                f"{kind}, telemetry",
                "geometry",
                readings * asked,
                each,
                f"{readings} readings x {asked}{most}",
            ),
        ]

    def _binding(self, kind: str, stage: Stage, settings: BindingSettings) -> list[Work]:
        bystanders, questions = len(settings.bystanders), len(settings.questions)
        what = f"(3 x {bystanders} bystanders + 1) x {questions} questions"
        rows = (3 * bystanders + 1) * questions
        return [Work(kind, "geometry", rows, self.lengths.row + self.lengths.marker, what)]

    def _manipulation(self, kind: str, stage: Stage, settings: ManipulationSettings) -> list[Work]:
        triples, study = 0, self.loaded.study
        for role, data in stage.inputs.items():
            if role.endswith("/held_out"):
                prepared: Any = data.settings
                triples += getattr(prepared, "data", prepared).held_out
        if settings.out_of_domain is not None and study.manipulation is not None:
            file = resources.data_file(study.manipulation, self.loaded.base)
            triples += len(file.read_text(encoding="utf-8").splitlines())
        spoken = len(settings.personas) * len(settings.questions)
        texts = Work(
            f"{kind}, triples", "geometry", 2 * triples, self.lengths.finetune_row, f"{triples} triples x 2"
        )
        answers = f"{len(settings.personas)} personas x {len(settings.questions)} questions"
        return [texts, Work(f"{kind}, fluency", "geometry", spoken, self.lengths.row, answers)]


def _steps(recipe: CouplingRecipe, positives: int, negatives: int) -> tuple[int, int, int]:
    """Steps until the cap, and the positive and negative examples in them."""
    passes = max_epochs(recipe)
    if recipe.positives_per_batch is None:
        steps = max(1, round(-(-(positives + negatives) // recipe.batch) * passes))
        return steps, round(positives * passes), round(negatives * passes)
    steps = max(1, round(passes * positives / recipe.positives_per_batch))
    return steps, steps * recipe.positives_per_batch, steps * (recipe.batch - recipe.positives_per_batch)
