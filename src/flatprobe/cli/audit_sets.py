"""A study's training sets with their masks: from its run folder, or else from placeholder answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import polars as pl

from flatprobe.data.coupling_examples import CouplingExample, Group
from flatprobe.errors import UserError
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.pipeline.artifact import ArtifactStore
from flatprobe.pipeline.manifest import Damaged
from flatprobe.pipeline.stage import Stage, topological_order
from flatprobe.planner.contracts import CoupleSettings, FinetuneDataSettings
from flatprobe.prepare import Prepared
from flatprobe.training.audit import contexts
from flatprobe.training.audit.invariants import Count, answer_invariants, coupling_invariants
from flatprobe.training.audit.masks import audit_examples
from flatprobe.training.audit.stage import term_weights
from flatprobe.training.couple import SampledAnswer, answers_of, build_examples, marker_text

RUN, PLACEHOLDER = "the run folder", "placeholder answers (the run folder has none yet)"
PLACEHOLDERS = (
    "This stands for an answer.",
    "This stands for one, too!\n\nIt has a second paragraph.",
    "This one ends in no mark",
    "Does this one ask?",
)
"""Answers with different last characters, because the separator's tokens depend on them."""


class AuditSet(TypedDict):
    """One training set as the audit shows it."""

    name: str
    origin: str
    """`RUN` or `PLACEHOLDER`."""
    size: int
    evaluation: str
    """The completions behind the evaluation contexts."""
    examples: list[dict[str, Any]]
    invariants: list[Count]
    shares: list[contexts.Share]
    contexts: list[contexts.Context]


@dataclass(frozen=True)
class Finished:
    """Finished stages of a study by name."""

    stages: Mapping[str, Stage]
    store: ArtifactStore

    def folder(self, name: str) -> Path | None:
        """The folder of a finished stage, or None.

        Raises:
            UserError: its artifact is damaged.
        """
        try:
            artifact = self.store.find(self.stages[name])
        except Damaged as error:
            raise UserError.one(
                "stage.damaged", f"stage {name}", f"its artifact is damaged: {error}", "run the study again"
            ) from error
        return None if artifact is None else artifact.folder


def audit_sets(prepared: Prepared, conversations: Conversations, each: int) -> Iterator[AuditSet]:
    """Every finetune set, then every coupling set; `each` examples of each group are shown."""
    stages = {stage.name: stage for stage in topological_order([prepared.plan.last])}
    finished = Finished(stages, ArtifactStore(prepared.folder))
    for name, stage in stages.items():
        if isinstance(stage.settings, FinetuneDataSettings):
            yield _finetune(name, finished, conversations, each)
    couplings: dict[tuple[str, int], list[tuple[str, CoupleSettings]]] = {}
    for name, stage in stages.items():
        if isinstance(stage.settings, CoupleSettings) and stage.kind == "couple":
            key = (stage.settings.condition, stage.settings.seed)
            couplings.setdefault(key, []).append((name, stage.settings))
    coupling = prepared.resolved.study.coupling
    lambdas = coupling.unlikelihood.lambdas if coupling is not None else ()
    for (condition, seed), trained in couplings.items():
        data = finished.folder(f"coupling-data/seed-{seed}")
        yield _coupling(condition, seed, trained, data, finished, conversations, each, lambdas[0])


def _finetune(name: str, finished: Finished, conversations: Conversations, each: int) -> AuditSet:
    folder = finished.folder(name)
    if folder is None:
        messages = [
            [{"role": "user", "content": "What stands here?"}, {"role": "assistant", "content": answer}]
            for answer in PLACEHOLDERS
        ]
    else:
        messages = [json.loads(row) for row in pl.read_parquet(folder / "rows.parquet")["messages"]]
    rows = [conversations.encode_messages(conversation) for conversation in messages]
    audited = [
        {
            "condition": name.partition("/")[2],
            "persona": "",
            "group": "finetune",
            "question_id": f"row {number}",
            "tokens": [
                {"text": piece, "weights": {"answer": 1} if place >= n_prompt else {}, "alternative": False}
                for place, piece in enumerate(conversations.pieces(tokens))
            ],
        }
        for number, (tokens, n_prompt) in enumerate(rows[:each])
    ]
    answers = [conversation[-1]["content"] for conversation in messages]
    return AuditSet(
        name=name.replace("finetune-data/", "finetune/"),
        origin=PLACEHOLDER if folder is None else RUN,
        size=len(rows),
        evaluation="none",
        examples=audited,
        invariants=answer_invariants(rows, answers, conversations),
        shares=contexts.answer_shares(rows),
        contexts=contexts.answer_contexts(rows, conversations),
    )


def _coupling(
    condition: str,
    seed: int,
    trained: Sequence[tuple[str, CoupleSettings]],
    data: Path | None,
    finished: Finished,
    conversations: Conversations,
    each: int,
    first_lambda: float,
) -> AuditSet:
    settings = trained[0][1]
    if data is None:
        answers = placeholders(settings)
    else:
        answers = answers_of(settings, pl.read_parquet(data / "examples.parquet"))
    examples = build_examples(settings, answers, conversations)
    weights = term_weights(settings, first_lambda if settings.lambda_ is None else settings.lambda_)
    pairs = [(a.prompt, a.text) for a in answers]
    completions, evaluation = _completions(trained, finished)
    return AuditSet(
        name=f"coupling/{condition}/seed-{seed}",
        origin=PLACEHOLDER if data is None else RUN,
        size=len(examples),
        evaluation=evaluation,
        examples=audit_examples(condition, of_each_group(examples, each), conversations, each=each, weights=weights),
        invariants=coupling_invariants(examples, pairs, conversations, marker_text(settings)),
        shares=contexts.labelled_shares(examples),
        contexts=[
            *contexts.training_contexts(examples, conversations, settings.marker),
            *contexts.evaluation_contexts(completions, conversations, settings.marker),
        ],
    )


def placeholders(settings: CoupleSettings) -> list[SampledAnswer]:
    """Placeholder answers of every trained persona to the first coupling questions."""
    made = []
    for persona in settings.personas:
        group: Group = "positive" if persona.role == "source" else "negative"
        for question, answer in zip(settings.questions, PLACEHOLDERS, strict=False):
            prompt = Prompt(persona.name, persona.system, question.id, question.text)
            made.append(SampledAnswer(prompt, answer, group))
    return made


def of_each_group(examples: Iterable[CouplingExample], each: int) -> list[CouplingExample]:
    """The first `each` examples of the positives and of the negatives, taking the personas in turn."""
    turns: dict[Group, dict[str, list[CouplingExample]]] = {}
    for example in examples:
        turns.setdefault(example.group, {}).setdefault(example.persona, []).append(example)
    chosen: list[CouplingExample] = []
    for personas in turns.values():
        rounds = range(max(map(len, personas.values())))
        in_turn = [owned[turn] for turn in rounds for owned in personas.values() if turn < len(owned)]
        chosen += in_turn[:each]
    return chosen


def _completions(
    trained: Sequence[tuple[str, CoupleSettings]], finished: Finished
) -> tuple[list[tuple[str, str]], str]:
    """Text and finish reason of the completions sampled with these couplings, and which they are."""
    names, rows = [], list[tuple[str, str]]()
    for name, _ in trained:
        sampled = name.replace("couple/", "leakage/", 1)
        folder = finished.folder(sampled)
        if folder is not None:
            names.append(sampled)
            frame = pl.read_parquet(folder / "completions.parquet")
            rows += frame.select("text", "finish_reason").rows()
    return rows, ", ".join(names) if names else "none: no completions are finished"
