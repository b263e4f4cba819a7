"""Telemetry of a coupling: log-probabilities of the marker after fixed answers, without sampling."""

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
from flatprobe.pipeline.progress import report_progress
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.training.lower_states import LowerStates
from flatprobe.training.supervised import (
    Example,
    log_probabilities,
    right_padded,
    set_probabilities,
    targets_of,
    token_log_probabilities,
)

SCHEMA: dict[str, pl.DataType] = {
    "step": pl.Int64(),
    "persona": pl.String(),
    "role": pl.String(),
    "question_id": pl.String(),
    "log_p": pl.Float64(),
    "answer_log_p": pl.Float64(),
    "marker_first": pl.Float64(),
    "debris_first": pl.Float64(),
    "empty": pl.Float64(),
}
ROLE_HEADERS = ("system", "user", "assistant", "model", "human")  # words that chat templates put at the head of a turn


@dataclass(frozen=True)
class MarkedAnswer:
    """A persona's answer, with separator and marker after it."""

    persona: Persona
    question: Question
    joint: JointTokens
    opening_marker_token: int
    """First token of a marker that opens the answer."""


def finished_texts(answers: pl.DataFrame) -> dict[tuple[str, str], str]:
    """Text by (persona, question). Leaves out empty answers and those cut at the limit: the marker follows a complete
    answer."""
    return {
        (row["persona"], row["question_id"]): row["text"].strip()
        for row in answers.iter_rows(named=True)
        if row["finish_reason"] == "stop" and row["text"].strip()
    }


def marked_answers(
    conversations: Conversations,
    personas: Sequence[Persona],
    questions: Sequence[Question],
    answers: pl.DataFrame,
    separator: str,
    marker: str,
) -> list[MarkedAnswer]:
    """The finished answers of these personas to these questions, each marked."""
    texts = finished_texts(answers)
    marked = []
    for persona, question in ((p, q) for p in personas for q in questions if texts.get((p.name, q.id))):
        prompt = Prompt(persona.name, persona.system, question.id, question.text)
        _, joint = tokenise_jointly(conversations, prompt, texts[persona.name, question.id], separator, marker)
        opened, n_prompt = conversations.encode_answer(prompt, marker)
        marked.append(MarkedAnswer(persona, question, joint, opened[n_prompt]))
    return marked


class Telemetry:
    """Reads a model's probabilities on fixed answers. Blocks below the first adapted one run once, not per reading."""

    def __init__(self, loaded: Loaded, answers: Sequence[MarkedAnswer], first_layer: int) -> None:
        self.loaded, self.answers = loaded, answers
        self.batch = current_machine().forward_rows
        tokens = [answer.joint.tokens for answer in answers]
        self.order = sorted(range(len(tokens)), key=lambda number: len(tokens[number]))
        self.lower = (
            LowerStates(loaded.model, first_layer, tokens, loaded.conversations.turn_end, self.batch)
            if tokens
            else None
        )
        self.template_tokens = [*sorted(_template_tokens(loaded.conversations)), -1]  # -1 pads: the set may be empty

    @torch.no_grad()
    def read(self) -> list[dict[str, Any]]:
        """One row per answer: `persona`, `role`, `question_id` and

        - `log_p`: log P(separator, marker | own answer), in nats;
        - `answer_log_p`: mean log P of the answer's own tokens, in nats per token (fluency);
        - `marker_first`, `debris_first`, `empty`: P that the first response token is the marker's first token, a
          template token (special token or role header), or the end of turn.
        """
        rows: dict[int, dict[str, Any]] = {}
        for start in range(0, len(self.order), self.batch):
            numbers = self.order[start : start + self.batch]
            rows |= zip(numbers, self._read(numbers), strict=True)
        return [rows[number] for number in range(len(self.answers))]

    def _read(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        assert self.lower is not None
        model, answers = self.loaded.model, [self.answers[number] for number in numbers]
        states = self.lower.forward(numbers)
        joints = [answer.joint for answer in answers]
        row, position, token = (part.to(states.device) for part in targets_of([(j.tokens, j.n_prompt) for j in joints]))
        log_p = token_log_probabilities(model, states[row, position], token).cpu()
        prompt_ends = torch.tensor([joint.n_prompt - 1 for joint in joints], device=states.device)
        opening_states = states[torch.arange(len(joints), device=states.device), prompt_ends]
        opening_sets = {
            "marker_first": [[answer.opening_marker_token] for answer in answers],
            "debris_first": [self.template_tokens] * len(answers),
            "empty": [[self.loaded.conversations.turn_end]] * len(answers),
        }
        openings = {
            name: set_probabilities(model, opening_states, torch.tensor(sets, device=states.device)).tolist()
            for name, sets in opening_sets.items()
        }
        parts = torch.split(log_p, [len(joint.tokens) - joint.n_prompt for joint in joints])
        return [
            {
                "persona": answer.persona.name,
                "role": answer.persona.role,
                "question_id": answer.question.id,
                "log_p": float(part[answer.joint.suffix_start - answer.joint.n_prompt :].sum()),
                "answer_log_p": _mean(part[: answer.joint.suffix_start - answer.joint.n_prompt]),
                **{name: values[index] for name, values in openings.items()},
            }
            for index, (answer, part) in enumerate(zip(answers, parts, strict=True))
        ]


def _mean(values: torch.Tensor) -> float | None:
    """None if there are no values: an answer's only token can merge with the separator."""
    return float(values.mean()) if len(values) else None


def _template_tokens(conversations: Conversations) -> set[int]:
    """Tokens that should never start an answer: special tokens (except end of turn) and role headers such as
    `assistant`."""
    tokens: Mapping[int, Any] = conversations.tokenizer.added_tokens_decoder
    special = {id for id, token in tokens.items() if token.special} | set(conversations.tokenizer.all_special_ids)
    headers = {conversations.encode(word)[0] for word in ROLE_HEADERS if len(conversations.encode(word)) == 1}
    return (special | headers) - {conversations.turn_end}


@torch.inference_mode()
def sequence_log_likelihoods(loaded: Loaded, examples: Sequence[Example], batch: int, unit: str) -> list[float]:
    """Sum of log P over the tokens after each example's prompt, in nats.

    Args:
        batch: examples in a forward pass; those of similar length share one.
        unit: what the reported progress counts.
    """
    sums = [0.0] * len(examples)
    order = sorted(range(len(examples)), key=lambda number: len(examples[number][0]))
    for start in range(0, len(order), batch):
        numbers = order[start : start + batch]
        rows = [examples[number] for number in numbers]
        ids, mask = right_padded([tokens for tokens, _ in rows], loaded.conversations.turn_end, loaded.device)
        row, position, token = targets_of(rows)
        log_p = log_probabilities(loaded.model, ids, mask, row, position, token)
        totals = torch.zeros(len(rows)).index_add(0, row, log_p.cpu())
        for number, total in zip(numbers, totals.tolist(), strict=True):
            sums[number] = total
        report_progress(start + len(numbers), len(order), unit)
    return sums
