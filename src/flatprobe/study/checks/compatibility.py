"""Whether the options of `flatprobe geometry` fit the base: layers, and prompts with room for an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flatprobe.errors import Problem, UserError
from flatprobe.models.conversation import Conversations
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question


def layer_problems(layers: Sequence[int], depth: int) -> list[Problem]:
    """Layers that are no decoder block of the model."""
    return [
        Problem(
            "geometry.layer_range",
            "--layers",
            f"{layer}: BASE has {depth} decoder blocks (0–{depth - 1})",
        )
        for layer in layers
        if not 0 <= layer < depth
    ]


def prompt_problems(
    conversations: Conversations,
    personas: Sequence[Persona],
    questions: Sequence[Question],
    context: int | None,
    max_new_tokens: int,
) -> Iterator[Problem]:
    """Personas that the template rewrites, and prompts that leave too little context for an answer.

    `context` is in tokens; None sets no limit.
    """
    for persona in personas:
        try:
            conversations.check_persona(persona.name, persona.system)
        except UserError as error:
            yield from error.problems
            continue
        if context is None or not questions:
            continue
        lengths = {
            q.id: len(conversations.encode(conversations.render(persona.system, q.text))) for q in questions
        }
        longest = max(lengths, key=lengths.__getitem__)
        needed = lengths[longest] + max_new_tokens + 1  # and the end of turn
        if needed > context:
            yield Problem(
                "context.exceeded",
                f"panel: {persona.name}",
                f"its prompt with question {longest} has {lengths[longest]} tokens; with --max-new-tokens "
                f"{max_new_tokens} that is {needed}, and the model's context is {context}",
                "shorten the prompt, or lower --max-new-tokens",
            )
