"""The GPU-hours of a study: tokens of every stage, counted from its plan, at measured rates."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flatprobe import console
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
from flatprobe.study.recipe_schema import CouplingRecipe
from flatprobe.study.resolve import Resolved
from flatprobe.training.steps import max_epochs, steps_between_readings
from registered_results import Results

UNRESOLVED = "unresolved"  # content enters keys, not counts, so no hub is asked
PROPOSED = 7.0  # GPU-hours: 6 for coupling and leakage, half an hour for the geometry, rounded up
HOUR = 3600.0  # seconds
COLUMNS = ("stages", "number", "of each", "tokens of one", "tokens", "tokens/s", "of", "GPU-h")
AREAS = {
    "own": "geometry",
    "states": "geometry",
    "finetune": "finetunes and their check",
    "manipulation": "finetunes and their check",
}
"""Kind of stage → part of the study it belongs to; all others are "coupling and leakage"."""
RIGHT = ("number", "tokens of one", "tokens", "tokens/s", "GPU-h")


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
    """All stages of the plan; models and datasets are not looked up."""
    study = loaded.study
    given = {name: c.adapter or c.checkpoint for name, c in study.conditions.items() if c.adapter or c.checkpoint}
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
    loaded: LoadedStudy, conversations: Conversations, answer: float, finetune_prompt: float, finetune_answer: float
) -> Lengths:
    """Prompts and marker are tokenised; the other lengths are assumed."""
    study, coupling = loaded.study, loaded.study.coupling
    assert coupling is not None, "a study without a coupling has no GPU-hours to compute"
    questions = take(loaded.questions["evaluation"], study.questions.evaluation)
    prompts = [len(conversations.encode_prompt(prompt)) for prompt in prompts_of(loaded.personas(), questions)]
    text = MarkerText(coupling.separator, study.leakage.marker, coupling.separator_in_loss, coupling.unlikelihood.at)
    example = negative(conversations, Prompt("", "You help.", "", questions[0].text), "It floats.", text)
    return Lengths(
        prompt=sum(prompts) / len(prompts),
        answer=answer,
        finetune_prompt=finetune_prompt,
        finetune_answer=finetune_answer,
        marker=len(conversations.encode(coupling.separator + study.leakage.marker)) + 1,
        negative_rows=len(example.rows),
    )


def work_of(stages: Iterable[Stage], loaded: LoadedStudy, lengths: Lengths) -> list[Work]:
    """The counted work of every stage; stages that run no model add nothing."""
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
            return []  # an audit has its coupling's settings, but runs no model
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
        """Training up to its cap, and the telemetry readings before and during it."""
        data: Any = stage.inputs["examples"].settings
        recipe, each = settings.recipe, self.lengths.row + self.lengths.marker
        negatives = sum(persona.role == "negative" for persona in settings.personas) * data.negatives_per_persona
        steps, positives, negatives = _steps(recipe, data.positives, negatives)
        rows = self.lengths.negative_rows
        answers = len(settings.calibration) * (len(settings.personas) + len(settings.bystanders))
        readings = 1 + -(-steps // steps_between_readings(recipe, steps))
        cap = "" if recipe.stopping == "fixed" else ", at most"
        what = f"{steps} steps: {positives:,} + {rows} rows x {negatives:,}{cap}"
        read = f"{readings} readings x {answers}{cap}"
        return [
            Work(kind, "coupling step", positives + rows * negatives, each, what),
            Work(f"{kind}, telemetry", "geometry", readings * answers, each, read),
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
        personas, questions = len(settings.personas), len(settings.questions)
        each, texts = self.lengths.finetune_row, f"{triples} triples x 2"
        answers = f"{personas} personas x {questions} questions"
        return [
            Work(f"{kind}, triples", "geometry", 2 * triples, each, texts),
            Work(f"{kind}, fluency", "geometry", personas * questions, self.lengths.row, answers),
        ]


def _steps(recipe: CouplingRecipe, positives: int, negatives: int) -> tuple[int, int, int]:
    """Steps until the cap, and their numbers of positive and negative examples."""
    passes = max_epochs(recipe)
    if recipe.positives_per_batch is None:
        steps = max(1, round(-(-(positives + negatives) // recipe.batch) * passes))
        return steps, round(positives * passes), round(negatives * passes)
    steps = max(1, round(passes * positives / recipe.positives_per_batch))
    return steps, steps * recipe.positives_per_batch, steps * (recipe.batch - recipe.positives_per_batch)


# --- the table


def show_hours(results: Results, loaded: LoadedStudy, lengths: Lengths) -> None:
    """One row per kind of stage. Hours: stages x answers or rows of each x tokens of one / (tokens/s) / 3,600."""
    stages = stages_of(loaded)
    work = work_of(stages, loaded, lengths)
    console.say()
    console.say(f"GPU-hours of {loaded.path}", style="bold")
    console.say(
        f"Tokens on average: prompt {lengths.prompt:.0f} (the panel's), answer {lengths.answer:g} (assumed), "
        f"finetune row {lengths.finetune_prompt:g} + {lengths.finetune_answer:g} (assumed), "
        f"separator, marker and end of turn {lengths.marker:g}; rows of a negative: {lengths.negative_rows}."
    )
    rows, hours, missing = [], dict[str, float](), set[str]()
    for (kind, part, what, count, each), number in _grouped(work).items():
        best = results.best(part)
        rate = best.tokens_per_second if best else None
        tokens = number * count * each
        if best is None or rate is None:
            missing.add(part)
        else:
            hours[kind] = hours.get(kind, 0.0) + tokens / rate / HOUR
        rows.append(
            (
                kind,
                str(number),
                what,
                f"{each:,.0f}",
                f"{tokens:,.0f}",
                f"{rate:,.0f}" if rate else "–",
                f"{part}, {best.rows} rows" if best else f"{part}: not measured",
                f"{tokens / rate / HOUR:.3f}" if rate else "–",
            )
        )
    console.table(COLUMNS, rows, right=RIGHT)
    _show_total(hours, missing)
    _show_rest(stages, work)


def _grouped(work: Sequence[Work]) -> dict[tuple[str, str, str, float, float], int]:
    """Number of stages with the same work, in the plan's order."""
    return dict(Counter((item.kind, item.part, item.what, item.count, item.each) for item in work))


def _show_total(hours: dict[str, float], missing: set[str]) -> None:
    areas = defaultdict[str, float](float)
    for kind, spent in hours.items():
        areas[AREAS.get(kind.partition(",")[0], "coupling and leakage")] += spent
    total = sum(hours.values())
    parts = " + ".join(f"{name} {spent:.2f}" for name, spent in areas.items())
    if missing:
        console.say(f"Total without {', '.join(sorted(missing))}, not measured: {total:.2f} GPU-h ({parts}).")
    else:
        share = f"{total / PROPOSED:.0%} of the proposal's {PROPOSED:g}"
        console.say(f"Total: {parts} = {total:.2f} GPU-h, {share} (which include no finetune).")


def _show_rest(stages: Sequence[object], work: Sequence[Work]) -> None:
    """The stages that the total leaves out."""
    counted = {item.kind.partition(",")[0] for item in work}
    names = Counter(str(getattr(stage, "name", "")).partition("/")[0] for stage in stages)
    rest = ", ".join(f"{name} ({number})" for name, number in names.items() if name not in counted)
    console.say(
        f"Not counted: {rest}; loading of weights; the parity checks. Passes without gradients (telemetry, "
        "binding, manipulation) use the rate of the geometry pass, which shares prefixes and stops at its last "
        "layer. Sampling is measured with all rows busy; in a stage, rows that wait for its longest answers cost more."
    )
