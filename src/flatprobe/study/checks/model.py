"""What only the model's own files can tell: depth, chat template, tokens, context. No weights are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flatprobe.config.yaml_file import FieldPath, dotted
from flatprobe.errors import Problem, UserError
from flatprobe.models.conversation import Conversations
from flatprobe.models.reference import read_config
from flatprobe.study.architecture import architecture_problems
from flatprobe.study.checks.given import given_problems
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.panel import Persona
from flatprobe.study.questions import SET_NAMES, SetName, take
from flatprobe.study.recipe_schema import Coupling
from flatprobe.study.tokenizers import load_conversations

_ANSWER = "This is a short answer."  # ends in a full stop, which merges with line breaks in many vocabularies


def model_problems(
    loaded: LoadedStudy, folder: Path, given: Mapping[str, Path] | None = None
) -> list[Problem]:
    """What of the study does not fit the model in a local folder, with the lines of the study's fields.

    `given` holds the folders of given adapters and checkpoints by condition.
    """
    study, place = loaded.study, loaded.place("model", "id")
    if unreadable := architecture_problems(folder, place):
        return unreadable
    try:
        config = read_config(folder, place)
        conversations = load_conversations(folder, study.model.id, place)
    except UserError as error:
        return list(error.problems)
    problems = [*_layer_problems(loaded, config)]
    personas = _persona_problems(loaded, conversations)
    if personas:  # lengths and tokens of prompts that come out otherwise mean nothing
        return problems + personas
    return [
        *problems,
        *(_marker_problems(loaded, study.coupling, conversations) if study.coupling is not None else ()),
        *_length_problems(loaded, conversations, config),
        *given_problems(loaded, conversations, config, given or {}),
    ]


def _layer_problems(loaded: LoadedStudy, config: dict[str, Any]) -> Iterator[Problem]:
    """Decoder blocks that the model has not."""
    depth, study = int(config["num_hidden_layers"]), loaded.study
    wanted: list[tuple[FieldPath, int]] = [
        (("geometry", "layers", index), layer) for index, layer in enumerate(study.geometry.layers)
    ]
    wanted.append((("finetune", "lora", "first_layer"), study.finetune.lora.first_layer))
    if study.coupling is not None:
        wanted.append((("coupling", "lora", "first_layer"), study.coupling.lora.first_layer))
    for where, layer in wanted:
        if layer >= depth:
            name = study.model.id.rpartition("/")[2]
            yield loaded.problem(
                "model.TODO",
                where,
                f"{dotted(where)} = {layer}: {name} has {depth} decoder blocks (0–{depth - 1})",
            )


def _persona_problems(loaded: LoadedStudy, conversations: Conversations) -> list[Problem]:
    """Personas whose prompt the template does not render as written."""
    problems = []
    for persona in loaded.personas():
        try:
            conversations.check_persona(persona.name, persona.system)
        except UserError as error:
            where = loaded.place(*_field_of(loaded, persona))
            problems += [
                Problem("model.TODO", where, f"{persona.name}: {p.message}", p.remedy) for p in error.problems
            ]
    return problems


def _field_of(loaded: LoadedStudy, persona: Persona) -> FieldPath:
    """Where the study names a persona; a drawn negative stands in the reserve."""
    panel = loaded.study.panel
    for role in ("negatives", "reserve", "bystanders", "references"):
        names: tuple[str, ...] = getattr(panel, role)
        if persona.name in names:
            return ("panel", role, names.index(persona.name))
    return ("panel", "source")


def _marker_problems(
    loaded: LoadedStudy, coupling: Coupling, conversations: Conversations
) -> Iterator[Problem]:
    """The marker must come back from the tokenizer as it went in, without a token that stands for any text."""
    study, where = loaded.study, ("leakage", "marker")
    ending = _ANSWER + coupling.separator + study.leakage.marker
    head = conversations.render(loaded.personas()[0].system, "?")
    prompt, tokens = conversations.encode(head), conversations.encode(head + ending)
    name = f"leakage.marker = {study.leakage.marker}"
    if tokens[: len(prompt)] != prompt or conversations.decode(tokens[len(prompt) :]) != ending:
        yield loaded.problem(
            "model.TODO",
            where,
            f"{name}: the tokenizer does not give it back as it is behind an answer",
            "choose another marker",
        )
    unknown = conversations.tokenizer.unk_token_id
    if unknown is not None and unknown in tokens[len(prompt) :]:
        yield loaded.problem(
            "model.TODO",
            where,
            f"{name}: holds a character unknown to the tokenizer",
            "choose another marker",
        )


def _length_problems(
    loaded: LoadedStudy, conversations: Conversations, config: dict[str, Any]
) -> Iterator[Problem]:
    """Prompt and answer must fit the context, and a coupling example its own limit."""
    study, coupling = loaded.study, loaded.study.coupling
    names = SET_NAMES if coupling is not None else SET_NAMES[:1]
    longest = {name: _longest_prompt(loaded, conversations, name) for name in names}
    wanted: list[tuple[FieldPath, int, int]] = [  # field, tokens beside those that it limits, limit
        (("geometry", "max_new_tokens"), longest["evaluation"], study.geometry.max_new_tokens),
    ]
    if coupling is not None:
        tail = len(conversations.encode(coupling.separator + study.leakage.marker)) + 1  # and the end of turn
        wanted += [
            (("leakage", "max_new_tokens"), longest["evaluation"], study.leakage.max_new_tokens),
            (("coupling", "max_new_tokens"), max(longest.values()) + tail, coupling.max_new_tokens),
        ]
    if coupling is not None and longest["coupling"] + coupling.max_new_tokens + tail > coupling.max_length:
        yield loaded.problem(
            "model.TODO",
            ("coupling", "max_new_tokens"),
            f"coupling.max_new_tokens = {coupling.max_new_tokens}: with a prompt of {longest['coupling']} tokens "
            f"and {tail} for separator, marker and end of turn, an example may exceed "
            f"coupling.max_length = {coupling.max_length}",
            f"use at most {coupling.max_length - tail - longest['coupling']}",
        )
    context = config.get("max_position_embeddings")
    if context is None:
        return
    if any(condition.finetune for condition in study.conditions.values()):
        wanted.append((("finetune", "max_length"), 0, study.finetune.max_length))
    for where, prompt, limit in wanted:
        if prompt + limit > context:
            beside = f" beside {prompt} others" if prompt else ""
            yield loaded.problem(
                "model.TODO", where, f"{dotted(where)} = {limit}{beside}: the model's context is {context} tokens",
                f"use at most {context - prompt}",
            )  # fmt: skip


def _longest_prompt(loaded: LoadedStudy, conversations: Conversations, name: SetName) -> int:
    """Tokens of the longest persona's prompt with the set's longest question."""
    questions = take(loaded.questions[name], getattr(loaded.study.questions, name))
    longest = max((question.text for question in questions), key=lambda text: len(conversations.encode(text)))
    return max(
        len(conversations.encode(conversations.render(persona.system, longest)))
        for persona in loaded.personas()
    )
