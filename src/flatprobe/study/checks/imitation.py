"""Rules of finetunes on one persona's answers: who is imitated, by whom, and how many rows that can give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flatprobe.config.suggest import did_you_mean
from flatprobe.config.yaml_file import FieldPath, dotted
from flatprobe.errors import Problem
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.schema import FinetuneData, Imitation

READ = ("imitate", "rows", "held_out")
"""Fields of a finetune's data that say something where answers are imitated."""


def imitation_problems(loaded: LoadedStudy, name: str, data: FinetuneData) -> Iterator[Problem]:
    """A persona that is not evaluated, a control that imitates itself, rows that cannot be had, fields not read."""
    assert data.imitate is not None
    study, where = loaded.study, ("conditions", name, "finetune")
    if study.coupling is None:
        yield loaded.problem(
            "imitation.without_coupling",
            (*where, "imitate"),
            f"{dotted((*where, 'imitate'))}: answers are sampled by the rules of `coupling`, which is null",
            "give `coupling`, or train on a set of texts",
        )
        return
    if name == study.decision.control:
        yield loaded.problem(
            "imitation.TODO",
            where,
            f"{dotted(where)}: the answers are the control's, and this is the control",
        )
    for field in FinetuneData.model_fields:
        if field not in READ and getattr(data, field) != FinetuneData.model_fields[field].default:
            yield loaded.problem(
                "imitation.TODO",
                (*where, field),
                f"{dotted((*where, field))}: not read with `imitate`",
                "leave it out",
            )
    first, read = study.finetune.lora.first_layer, study.geometry.layers
    if data.imitate.match == "states" and read and first > min(read):
        yield loaded.problem(
            "imitation.TODO",
            (*where, "imitate", "match"),
            f"{dotted((*where, 'imitate', 'match'))} = states: finetune.lora.first_layer = {first} leaves the states "
            f"after block {min(read)}, which the geometry reads, as they are",
            f"lower finetune.lora.first_layer to {min(read)} at most",
        )
    if not set(study.panel.negatives) | set(study.panel.bystanders) <= set(loaded.entries):
        return  # said already, and nobody knows who is evaluated
    yield from _counts(loaded, where, data, study.coupling.telemetry_questions)


def _counts(
    loaded: LoadedStudy, where: FieldPath, data: FinetuneData, telemetry_questions: int
) -> Iterator[Problem]:
    assert data.imitate is not None
    study, evaluated = loaded.study, [persona.name for persona in loaded.personas()]
    imitated = data.imitate.persona
    if imitated not in evaluated:
        yield loaded.problem(
            "imitation.TODO",
            (*where, "imitate", "persona"),
            f"{dotted((*where, 'imitate', 'persona'))} = {imitated}: not evaluated in this study",
            did_you_mean(imitated, evaluated) or "add it to panel.references",
        )
    said = list(_imitators(loaded, where, data.imitate, evaluated))
    yield from said
    asked, texts = study.questions.coupling.count, len(evaluated) * data.imitate.samples
    if data.rows > asked * texts:
        yield loaded.problem(
            "imitation.TODO",
            (*where, "rows"),
            f"{dotted((*where, 'rows'))} = {data.rows}: {asked} questions x {data.imitate.samples} samples x "
            f"{len(evaluated)} personas are {asked * texts}",
            "raise imitate.samples, and leave some to spare for unfinished and repeated answers",
        )
    held = sum(
        persona.role != "reference"
        and persona.name != imitated
        and persona.name in _who(data.imitate, evaluated)
        for persona in loaded.personas()
    )
    most = held * telemetry_questions
    if data.held_out > most and not said:
        yield loaded.problem(
            "imitation.TODO",
            (*where, "held_out"),
            f"{dotted((*where, 'held_out'))} = {data.held_out}: {held} imitators x "
            f"{telemetry_questions} of coupling.telemetry_questions are {most}",
        )


def _who(imitation: Imitation, evaluated: Sequence[str]) -> Sequence[str]:
    return evaluated if imitation.imitators is None else imitation.imitators


def _imitators(
    loaded: LoadedStudy, where: FieldPath, imitation: Imitation, evaluated: Sequence[str]
) -> Iterator[Problem]:
    place = (*where, "imitate", "imitators")
    for name in imitation.imitators or ():
        if name not in evaluated:
            yield loaded.problem(
                "imitation.TODO",
                place,
                f"{dotted(place)}: {name} is not evaluated in this study",
                did_you_mean(name, evaluated) or "add it to the panel",
            )
    if set(_who(imitation, evaluated)) <= {imitation.persona}:
        yield loaded.problem(
            "imitation.TODO",
            place,
            f"{dotted(place)}: nobody but {imitation.persona}, who is imitated",
            "name others",
        )
