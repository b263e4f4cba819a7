"""Whether two checkpoints can be compared, from their describing files alone: no weights are read.

States are compared token by token and layer by layer, so both must have the same depth and width, and must turn every
persona and question into the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open

from flatprobe.errors import Problem, UserError
from flatprobe.models.conversation import Conversations
from flatprobe.models.reference import PICKLED
from flatprobe.study.architecture import SIZES
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

_FROM_HIDDEN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_SHOWN = 3  # names listed before "and N more"
SAME_COPY = "use a copy of the checkpoint with the base's chat template and tokenizer"


def size_problems(base: Mapping[str, Any], treated: Mapping[str, Any], place: str) -> list[Problem]:
    """Another depth or width than the base's."""
    return [
        Problem(
            "compatibility.TODO",
            place,
            f"has {treated.get(key)} {noun}, and BASE has {base.get(key)}",
            "give two checkpoints of one model",
        )
        for key, noun in SIZES.items()
        if treated.get(key) != base.get(key)
    ]


def layer_problems(layers: Sequence[int], depth: int) -> list[Problem]:
    """Decoder blocks that the model has not."""
    there = f"BASE has {depth} decoder blocks (0–{depth - 1})"
    return [
        Problem("compatibility.TODO", "--layers", f"{layer}: {there}")
        for layer in layers
        if not 0 <= layer < depth
    ]


def prompt_problems(
    conversations: Conversations,
    personas: Sequence[Persona],
    questions: Sequence[Question],
    room: int | None,
    max_new_tokens: int,
) -> Iterator[Problem]:
    """Personas that the template does not write as they are, and prompts that leave no room for an answer.

    `room` is the model's context in tokens, None where its configuration names none.
    """
    for persona in personas:
        try:
            conversations.check_persona(persona.name, persona.system)
        except UserError as error:
            yield from error.problems
            continue
        if room is None or not questions:
            continue
        lengths = {
            q.id: len(conversations.encode(conversations.render(persona.system, q.text))) for q in questions
        }
        worst = max(lengths, key=lengths.__getitem__)
        needed = lengths[worst] + max_new_tokens + 1  # and the end of turn
        if needed > room:
            yield Problem(
                "compatibility.TODO",
                f"panel: {persona.name}",
                f"its prompt with question {worst} has {lengths[worst]} tokens; with --max-new-tokens "
                f"{max_new_tokens} that is {needed}, and the model's context is {room}",
                "shorten the prompt, or lower --max-new-tokens",
            )


def rendering_problems(
    base: Conversations,
    treated: Conversations,
    personas: Sequence[Persona],
    questions: Sequence[Question],
    place: str,
) -> list[Problem]:
    """What the two chat templates or tokenizers write otherwise."""
    problems = []
    if base.tokenizer.chat_template == treated.tokenizer.chat_template:
        why = "its tokenizer"
    else:
        why = "its chat template (whose text differs)"
    differing = [p.name for p in personas if not _alike(base, treated, p, questions)]
    if differing:
        problems.append(
            Problem(
                "compatibility.TODO",
                place,
                f"{why} writes the prompts of {_some(differing)} otherwise than that of BASE",
                SAME_COPY,
            )
        )
    if base.turn_end != treated.turn_end:
        ends = [c.pieces([c.turn_end])[0] for c in (treated, base)]
        problems.append(
            Problem(
                "compatibility.TODO",
                place,
                f"ends a turn with {ends[0]!r}, and BASE with {ends[1]!r}",
                SAME_COPY,
            )
        )
    if tokens := _differing_tokens(base, treated):
        problems.append(
            Problem(
                "compatibility.TODO",
                place,
                f"its tokenizer and that of BASE differ in {len(tokens):,} tokens: {_some(tokens)}",
                SAME_COPY,
            )
        )
    return problems


def templates_differ(base: Conversations, treated: Conversations) -> bool:
    """Whether the templates' texts differ, which matters only where a prompt comes out otherwise."""
    return bool(base.tokenizer.chat_template != treated.tokenizer.chat_template)


def adapter_problems(folder: Path, config: Mapping[str, Any], place: str) -> list[Problem]:
    """Why an adapter is not one of this base: no readable files, deeper blocks, other widths."""
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, SafetensorError):
        missing = "adapter_config.json and adapter_model.safetensors"
        return [
            Problem(
                "compatibility.TODO",
                place,
                f"no readable {missing} in {folder}",
                f"give a PEFT adapter's folder; {PICKLED}",
            )
        ]
    except ValueError as error:
        return [
            Problem("compatibility.TODO", place, f"{folder / 'adapter_config.json'} is not JSON: {error}")
        ]
    depth, width, remedy = config["num_hidden_layers"], config["hidden_size"], "give an adapter of BASE"
    blocks = [int(parts[parts.index("layers") + 1]) for n in shapes if "layers" in (parts := n.split("."))]
    problems = []
    if blocks and max(blocks) >= depth:
        problems.append(
            Problem(
                "compatibility.TODO",
                place,
                f"adapts decoder block {max(blocks)}, and BASE has {depth} blocks",
                remedy,
            )
        )
    widths = {
        shape[1]
        for name, shape in shapes.items()
        if "lora_A" in name and any(f".{module}." in name for module in _FROM_HIDDEN)
    }
    if other := sorted(widths - {width}):
        problems.append(
            Problem(
                "compatibility.TODO", place, f"adapts {other[0]} dimensions, and BASE has {width}", remedy
            )
        )
    return problems


def _alike(
    base: Conversations, treated: Conversations, persona: Persona, questions: Sequence[Question]
) -> bool:
    """Whether all prompts of a persona are the same tokens in both; texts may agree where tokens do not."""
    try:
        for question in questions:
            text = base.render(persona.system, question.text)
            if treated.render(persona.system, question.text) != text or treated.encode(text) != base.encode(
                text
            ):
                return False
    except TemplateError:
        return False
    return True


def _differing_tokens(base: Conversations, treated: Conversations) -> list[str]:
    """Tokens that stand for another id, or for none, in one of the tokenizers; tokens added later are left out, for
    checkpoints often add a padding token that no text contains."""
    ours, theirs = (_vocabulary(conversations) for conversations in (base, treated))
    return sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))


def _vocabulary(conversations: Conversations) -> dict[str, int]:
    tokenizer = conversations.tokenizer
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    return {token: id for token, id in tokenizer.get_vocab().items() if token not in added}


def _some(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = len(names) - _SHOWN
    listed = ", ".join(names[:_SHOWN])
    return f"{listed} and {more:,} more" if more > 0 else listed
