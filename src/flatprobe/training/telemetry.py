"""Teacher-forced readings of the marker, without sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch

from flatprobe.data.coupling_examples import JointTokens, tokenise_jointly
from flatprobe.machine.local import current_machine
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.load import Loaded
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.training.lower_states import LowerStates
from flatprobe.training.supervised import (
    log_probabilities,
    right_padded,
    shares_of,
    targets_of,
    token_log_probabilities,
)  # fmt: skip

SCHEMA: dict[str, pl.DataType] = {
    "step": pl.Int64(), "persona": pl.String(), "role": pl.String(), "question_id": pl.String(), "log_p": pl.Float64(),
    "answer_log_p": pl.Float64(), "marker_first": pl.Float64(), "debris_first": pl.Float64(), "empty": pl.Float64(),
}  # fmt: skip
TURN_HEADERS = (
    "system",
    "user",
    "assistant",
    "model",
    "human",
)  # words that templates put at the head of a turn


@dataclass(frozen=True)
class Reading:
    """One answer that is read: whose, to what, and its tokens with separator and marker behind them."""

    persona: Persona
    question: Question
    joint: JointTokens
    first_of_marker: int
    """The marker's first token where it stands at the answer's very beginning."""


def finished(answers: pl.DataFrame) -> dict[tuple[str, str], str]:
    """Text by persona and question; answers that were cut at the limit or are empty are left out: the marker's place is
    behind a whole answer."""
    return {
        (row["persona"], row["question_id"]): row["text"].strip()
        for row in answers.iter_rows(named=True)
        if row["finish_reason"] == "stop" and row["text"].strip()
    }


def readings_of(
    conversations: Conversations,
    personas: Sequence[Persona],
    questions: Sequence[Question],
    answers: pl.DataFrame,
    separator: str,
    marker: str,
) -> list[Reading]:
    """What is read of the personas' own answers to the questions, of those that are `finished`."""
    texts = finished(answers)
    found = []
    for persona, question in ((p, q) for p in personas for q in questions if texts.get((p.name, q.id))):
        prompt = Prompt(persona.name, persona.system, question.id, question.text)
        _, joint = tokenise_jointly(
            conversations, prompt, texts[persona.name, question.id], separator, marker
        )
        opened, n_prompt = conversations.encode_answer(prompt, marker)
        found.append(Reading(persona, question, joint, opened[n_prompt]))
    return found


class Telemetry:
    """Reads a model at fixed answers, as often as asked; what lies below the first adapted block is run once."""

    def __init__(self, loaded: Loaded, readings: Sequence[Reading], first_layer: int) -> None:
        self.loaded, self.readings = loaded, readings
        self.rows = current_machine().forward_rows
        tokens = [reading.joint.tokens for reading in readings]
        self.order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        self.lower = (
            LowerStates(loaded.model, first_layer, tokens, loaded.conversations.turn_end, self.rows)
            if tokens
            else None
        )
        self.debris = [*sorted(_debris(loaded.conversations)), -1]  # -1 is no token: the set may be empty

    @torch.no_grad()
    def read(self) -> list[dict[str, Any]]:
        """One row per answer: `persona`, `role`, `question_id` and

        - `log_p`: log P(separator, marker | own answer), in nats;
        - `answer_log_p`: log P of the answer's own tokens, nats per token: how fluent it still is;
        - `marker_first`, `debris_first`, `empty`: P that the first response token is the marker's first token, a piece
          of the template (a special token or the head of a turn), or the end of the turn.
        """
        found: dict[int, dict[str, Any]] = {}
        for start in range(0, len(self.order), self.rows):
            numbers = self.order[start : start + self.rows]
            found |= zip(numbers, self._read(numbers), strict=True)
        return [found[number] for number in range(len(self.readings))]

    def _read(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        assert self.lower is not None
        model, chosen = self.loaded.model, [self.readings[number] for number in numbers]
        states = self.lower.forward(numbers)
        joints = [reading.joint for reading in chosen]
        row, position, token = (
            part.to(states.device) for part in targets_of([(j.tokens, j.n_prompt) for j in joints])
        )
        log_p = token_log_probabilities(model, states[row, position], token).cpu()
        ends = torch.tensor([reading.joint.n_prompt - 1 for reading in chosen], device=states.device)
        opening = states[torch.arange(len(chosen), device=states.device), ends]
        shares = {
            "marker_first": [[reading.first_of_marker] for reading in chosen],
            "debris_first": [self.debris] * len(chosen),
            "empty": [[self.loaded.conversations.turn_end]] * len(chosen),
        }
        openings = {
            name: shares_of(model, opening, torch.tensor(sets, device=states.device)).tolist()
            for name, sets in shares.items()
        }
        parts = torch.split(log_p, [len(joint.tokens) - joint.n_prompt for joint in joints])
        return [
            {
                "persona": reading.persona.name, "role": reading.persona.role, "question_id": reading.question.id,
                "log_p": float(part[reading.joint.suffix_start - reading.joint.n_prompt :].sum()),
                "answer_log_p": _mean(part[: reading.joint.suffix_start - reading.joint.n_prompt]),
                **{name: values[index] for name, values in openings.items()},
            }
            for index, (reading, part) in enumerate(zip(chosen, parts, strict=True))
        ]  # fmt: skip


def _mean(values: torch.Tensor) -> float | None:
    """None of an answer whose one token merges with the separator."""
    return float(values.mean()) if len(values) else None


def _debris(conversations: Conversations) -> set[int]:
    """Tokens that begin no answer: special ones but for the end of turn, and heads of turns."""
    tokens: Mapping[int, Any] = conversations.tokenizer.added_tokens_decoder
    special = {id for id, token in tokens.items() if token.special} | set(
        conversations.tokenizer.all_special_ids
    )
    heads = {conversations.encode(word)[0] for word in TURN_HEADERS if len(conversations.encode(word)) == 1}
    return (special | heads) - {conversations.turn_end}


@torch.inference_mode()
def sequence_log_likelihoods(loaded: Loaded, rows: Sequence[tuple[Sequence[int], int]]) -> list[float]:
    """Sum of log P over tokens from `start` on, in nats, for each (tokens, start)."""
    ids, mask = right_padded([tokens for tokens, _ in rows], loaded.conversations.turn_end, loaded.device)
    row, position, token = targets_of(rows)
    log_p = log_probabilities(loaded.model, ids, mask, row, position, token)
    return [float(total) for total in torch.zeros(len(rows)).index_add(0, row, log_p.cpu())]
