"""Teacher-forced readings of the marker, without sampling."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import torch

from flatprobe import machine
from flatprobe.data.conversation import Prompt
from flatprobe.data.coupling import tokenise_jointly
from flatprobe.models.load import Loaded
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question
from flatprobe.training.supervised import log_probabilities, right_padded, targets_of


def marker_log_probabilities(
    loaded: Loaded,
    personas: Sequence[Persona],
    questions: Sequence[Question],
    answers: pl.DataFrame,
    separator: str,
    marker: str,
) -> pl.DataFrame:
    """log P(separator, marker | own answer), in nats: one row (persona, role, question_id, log_p) per answer.

    Answers that are empty are left out: there is nothing that the marker could follow.
    """
    texts = {
        (row["persona"], row["question_id"]): row["text"].strip() for row in answers.iter_rows(named=True)
    }
    cells = [(p, q) for p in personas for q in questions if texts.get((p.name, q.id))]
    joints = []
    for persona, question in cells:
        prompt = Prompt(persona.name, persona.system, question.id, question.text)
        text = texts[persona.name, question.id]
        joints.append(tokenise_jointly(loaded.conversations, prompt, text, separator, marker)[1])
    scores: list[float] = []
    size = machine.current().forward_rows
    for start in range(0, len(joints), size):
        chunk = joints[start : start + size]
        scores += sequence_log_likelihoods(loaded, [(joint.tokens, joint.first) for joint in chunk])
    return pl.DataFrame(
        {
            "persona": [p.name for p, _ in cells],
            "role": [p.role for p, _ in cells],
            "question_id": [q.id for _, q in cells],
            "log_p": scores,
        }
    )


@torch.inference_mode()
def sequence_log_likelihoods(loaded: Loaded, rows: Sequence[tuple[Sequence[int], int]]) -> list[float]:
    """Sum of log P over tokens from `start` on, in nats, for each (tokens, start)."""
    ids, mask = right_padded([tokens for tokens, _ in rows], loaded.conversations.turn_end, loaded.device)
    row, position, token = targets_of(rows)
    log_p = log_probabilities(loaded.model, ids, mask, row, position, token)
    return [float(total) for total in torch.zeros(len(rows)).index_add(0, row, log_p.cpu())]
