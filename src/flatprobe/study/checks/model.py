"""Whether the study fits its model: depth, chat template, tokens, context. Reads no weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flatprobe.config.yaml_file import FieldPath, dotted
from flatprobe.errors import Problem, UserError
from flatprobe.models.conversation import Conversations, load_conversations
from flatprobe.models.fit import architecture_problems, context_length
from flatprobe.models.reference import read_config
from flatprobe.study.checks.given import given_problems
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.panel import Persona
from flatprobe.study.questions import SET_NAMES, SetName, take
from flatprobe.study.recipe_schema import Coupling

_ANSWER = "This is a short answer."  # in many vocabularies its full stop merges with line breaks


def model_problems(loaded: LoadedStudy, folder: Path, given: Mapping[str, Path] | None = None) -> list[Problem]:
    """Problems of the study with the model in a local folder, each on the line of its field.

    `given` maps conditions to the folders of their given adapters and checkpoints.
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
    rewritten = _persona_problems(loaded, conversations)
    if rewritten:  # the tokens of such prompts mean nothing
        return problems + rewritten
    return [
        *problems,
        *(_marker_problems(loaded, study.coupling, conversations) if study.coupling is not None else ()),
        *_length_problems(loaded, conversations, config),
        *given_problems(loaded, conversations, config, given or {}),
    ]


def _layer_problems(loaded: LoadedStudy, config: dict[str, Any]) -> Iterator[Problem]:
    """Layers that are no decoder block of the model."""
    depth, study = int(config["num_hidden_layers"]), loaded.study
    layers: list[tuple[FieldPath, int]] = [
        (("geometry", "layers", index), layer) for index, layer in enumerate(study.geometry.layers)
    ]
    layers.append((("finetune", "lora", "first_layer"), study.finetune.lora.first_layer))
    if study.coupling is not None:
        layers.append((("coupling", "lora", "first_layer"), study.coupling.lora.first_layer))
    for where, layer in layers:
        if layer >= depth:
            name = study.model.id.rpartition("/")[2]
            yield loaded.problem(
                "geometry.layer_range" if where[0] == "geometry" else "lora.layer_range",
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
            place = loaded.place(*_field_of(loaded, persona))
            problems += [
                replace(problem, place=place, message=f"{persona.name}: {problem.message}")
                for problem in error.problems
            ]
    return problems


def _field_of(loaded: LoadedStudy, persona: Persona) -> FieldPath:
    """The field that names a persona; drawn negatives are in the reserve."""
    panel = loaded.study.panel
    for role in ("negatives", "reserve", "bystanders", "references"):
        names: tuple[str, ...] = getattr(panel, role)
        if persona.name in names:
            return ("panel", role, names.index(persona.name))
    return ("panel", "source")


def _marker_problems(loaded: LoadedStudy, coupling: Coupling, conversations: Conversations) -> Iterator[Problem]:
    """Whether the tokenizer decodes the marker to the same text, without a token for unknown characters."""
    study, where = loaded.study, ("leakage", "marker")
    ending = _ANSWER + coupling.separator + study.leakage.marker
    head = conversations.render(loaded.personas()[0].system, "?")
    prompt, tokens = conversations.encode(head), conversations.encode(head + ending)
    name = f"leakage.marker = {study.leakage.marker}"
    if tokens[: len(prompt)] != prompt or conversations.decode(tokens[len(prompt) :]) != ending:
        message = f"{name}: the tokenizer changes it when it follows an answer"
        yield loaded.problem("marker.tokenizer", where, message, "choose another marker")
    unknown = conversations.tokenizer.unk_token_id
    if unknown is not None and unknown in tokens[len(prompt) :]:
        message = f"{name}: contains a character unknown to the tokenizer"
        yield loaded.problem("marker.unknown_character", where, message, "choose another marker")


def _length_problems(loaded: LoadedStudy, conversations: Conversations, config: dict[str, Any]) -> Iterator[Problem]:
    """Prompts with answers that exceed the context, and coupling examples that exceed their own limit."""
    study, coupling = loaded.study, loaded.study.coupling
    names = SET_NAMES if coupling is not None else SET_NAMES[:1]
    personas = {name: _longest_prompt(loaded, conversations, name) for name in names}
    longest = {name: tokens for name, (tokens, _) in personas.items()}
    limits: list[tuple[FieldPath, int, int]] = [  # field, other tokens in the context, limit
        (("geometry", "max_new_tokens"), longest["evaluation"], study.geometry.max_new_tokens)
    ]
    if coupling is not None:
        tail = len(conversations.encode(coupling.separator + study.leakage.marker)) + 1  # and the end of turn
        limits += [
            (("leakage", "max_new_tokens"), longest["evaluation"], study.leakage.max_new_tokens),
            (("coupling", "max_new_tokens"), max(longest.values()) + tail, coupling.max_new_tokens),
        ]
        most = coupling.max_length - tail - longest["coupling"]
        if coupling.max_new_tokens > most:
            yield loaded.problem(
                "coupling.example_length",
                ("coupling", "max_new_tokens"),
                f"coupling.max_new_tokens = {coupling.max_new_tokens}: with a prompt of {longest['coupling']} tokens "
                f"and {tail} for separator, marker and end of turn, an example may exceed "
                f"coupling.max_length = {coupling.max_length}",
                f"use at most {most}",
            )
    context = context_length(config)
    if context is None:
        return
    if any(condition.finetune for condition in study.conditions.values()):
        limits.append((("finetune", "max_length"), 0, study.finetune.max_length))
    for where, others, limit in limits:
        if others + limit > context:
            added = f" plus {others} other tokens" if others else ""
            if where == ("geometry", "max_new_tokens"):
                added += f", of the prompt as {personas['evaluation'][1]}"
            message = f"{dotted(where)} = {limit}{added}: the model's context is {context} tokens"
            yield loaded.problem("context.exceeded", where, message, f"use at most {context - others}")


def _longest_prompt(loaded: LoadedStudy, conversations: Conversations, name: SetName) -> tuple[int, str]:
    """Tokens of the longest prompt, with the set's longest question, and its persona."""
    questions = take(loaded.questions[name], getattr(loaded.study.questions, name))
    longest = max((question.text for question in questions), key=lambda text: len(conversations.encode(text)))
    return max(
        (len(conversations.encode(conversations.render(persona.system, longest))), persona.name)
        for persona in loaded.personas()
    )
