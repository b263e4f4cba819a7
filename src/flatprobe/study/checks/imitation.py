"""Checks of finetunes on one persona's answers: the personas exist, and they give enough rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flatprobe.config.suggest import did_you_mean
from flatprobe.config.yaml_file import FieldPath, dotted
from flatprobe.errors import Problem
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.schema import FinetuneData, Imitation

EFFECTIVE_FIELDS = ("imitate", "rows", "held_out")
"""Fields of a finetune's data that have an effect with `imitate`."""


def imitation_problems(loaded: LoadedStudy, name: str, data: FinetuneData) -> Iterator[Problem]:
    """A control that imitates itself, fields without effect, personas that are not evaluated, too few rows."""
    assert data.imitate is not None
    study = loaded.study
    where: FieldPath = ("conditions", name, "finetune")
    imitate = (*where, "imitate")
    if study.coupling is None:
        yield loaded.problem(
            "imitation.without_coupling",
            imitate,
            f"{dotted(imitate)}: answers are sampled by the rules of `coupling`, which is null",
            "give `coupling`, or train on a set of texts",
        )
        return
    if name == study.decision.control:
        message = f"{dotted(where)}: the control cannot imitate its own answers"
        yield loaded.problem("imitation.control", where, message)
    for field, schema in FinetuneData.model_fields.items():
        if field not in EFFECTIVE_FIELDS and getattr(data, field) != schema.default:
            message = f"{dotted((*where, field))}: has no effect with `imitate`"
            yield loaded.problem("field.no_effect", (*where, field), message, "remove the field")
    first_trained, layers = study.finetune.lora.first_layer, study.geometry.layers
    if data.imitate.match == "states" and layers and first_trained > min(layers):
        yield loaded.bad_value(
            "imitation.states_unchanged",
            (*imitate, "match"),
            data.imitate.match,
            f"finetune.lora.first_layer = {first_trained} does not train the states after block {min(layers)}, "
            "which the geometric probe reads",
            f"lower finetune.lora.first_layer to {min(layers)} at most",
        )
    if not set(study.panel.negatives) | set(study.panel.bystanders) <= set(loaded.entries):
        return  # unknown personas are already reported, so the evaluated personas are unknown
    yield from _rows(loaded, where, data, study.coupling.telemetry_questions)


def _rows(loaded: LoadedStudy, where: FieldPath, data: FinetuneData, telemetry_questions: int) -> Iterator[Problem]:
    imitation = data.imitate
    assert imitation is not None
    personas = loaded.personas()
    evaluated = [persona.name for persona in personas]
    if imitation.persona not in evaluated:
        yield loaded.bad_value(
            "panel.not_evaluated",
            (*where, "imitate", "persona"),
            imitation.persona,
            "not evaluated in this study",
            did_you_mean(imitation.persona, evaluated) or "add it to panel.references",
        )
    imitator_problems = list(_imitators(loaded, (*where, "imitate", "imitators"), imitation, evaluated))
    yield from imitator_problems
    questions = loaded.study.questions.coupling.count
    available = questions * imitation.samples * len(evaluated)
    if data.rows > available:
        yield loaded.bad_value(
            "imitation.too_few_rows",
            (*where, "rows"),
            data.rows,
            f"{questions} questions x {imitation.samples} samples x {len(evaluated)} personas are {available}",
            "raise imitate.samples; leave a surplus for unfinished and repeated answers",
        )
    imitators = [
        persona
        for persona in personas
        if persona.role != "reference"
        and persona.name != imitation.persona
        and persona.name in _imitator_names(imitation, evaluated)
    ]
    pairs = len(imitators) * telemetry_questions
    if data.held_out > pairs and not imitator_problems:
        yield loaded.bad_value(
            "imitation.too_few_pairs",
            (*where, "held_out"),
            data.held_out,
            f"{len(imitators)} imitators x {telemetry_questions} of coupling.telemetry_questions are {pairs}",
        )


def _imitator_names(imitation: Imitation, evaluated: Sequence[str]) -> Sequence[str]:
    return evaluated if imitation.imitators is None else imitation.imitators


def _imitators(
    loaded: LoadedStudy, where: FieldPath, imitation: Imitation, evaluated: Sequence[str]
) -> Iterator[Problem]:
    for name in imitation.imitators or ():
        if name not in evaluated:
            remedy = did_you_mean(name, evaluated) or "add it to the panel"
            message = f"{dotted(where)}: {name} is not evaluated in this study"
            yield loaded.problem("panel.not_evaluated", where, message, remedy)
    if set(_imitator_names(imitation, evaluated)) <= {imitation.persona}:
        message = f"{dotted(where)}: contains only {imitation.persona}, the persona that is imitated"
        yield loaded.problem("imitation.no_imitator", where, message, "add other personas")
