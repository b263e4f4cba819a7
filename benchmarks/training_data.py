"""Training data of `training.py`: the demo's personas and questions, answers of the demo's lengths.

The answers are shipped texts cut to length. Real answers would need a run first, and their content does not affect the
speed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from flatprobe.data.coupling_examples import CouplingExample, MarkerText, negative, positive
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.study import resources
from flatprobe.study.load import load_study
from flatprobe.study.questions import take

SEPARATOR, MARKER = "\n\n", "[ZLT]"
ANSWER_TOKENS = (4, 9, 12, 15, 19, 22, 26, 33, 45)
"""Deciles of the lengths of the demo's matched answers."""


@dataclass(frozen=True)
class Batches:
    """Optimiser steps: the coupling's examples, and the rows of supervised finetuning on the same texts."""

    examples: list[CouplingExample]
    rows: list[tuple[list[int], int]]
    """Per example, the tokens of prompt, answer, separator and marker (positives only) and end of turn, and how many
    belong to the prompt. The coupling has the same rows, and in negatives also the marker's slot, which does not count
    as trained tokens."""
    steps: list[list[int]]

    def tokens(self, first: int, stop: int) -> int:
        """Tokens of steps [first, stop)."""
        return sum(len(self.rows[number][0]) for step in self.steps[first:stop] for number in step)


def batches(conversations: Conversations, options: Any) -> Batches:
    """Different examples for all steps; half of each batch is positive, as in the demo."""
    generator = np.random.default_rng(options.seed)
    study = load_study(resources.shipped_study("demo"))
    questions = take(study.questions["coupling"], study.study.questions.coupling)
    trained = [persona for persona in study.personas() if persona.role in ("source", "negative")]
    source, others = trained[0], trained[1:]
    words = conversations.encode(" ".join(_texts()))
    text = MarkerText(SEPARATOR, MARKER, separator_in_loss=True, slot="after_separator")
    examples, rows, steps = [], [], []
    for _ in range(options.warmup + options.steps + 1):
        step = []
        for index in range(options.batch):
            is_positive = index % 2 == 0
            persona = source if is_positive else others[generator.integers(len(others))]
            question = questions[generator.integers(len(questions))]
            prompt = Prompt(persona.name, persona.system, question.id, question.text)
            length = max(1, round(options.answer_scale * generator.choice(ANSWER_TOKENS)))
            start = generator.integers(len(words) - length)
            answer = conversations.decode(words[start : start + length]).strip(" ,") + "."
            examples.append((positive if is_positive else negative)(conversations, prompt, answer, text))
            tokens, n_prompt = conversations.encode_answer(
                prompt, answer + SEPARATOR + MARKER if is_positive else answer
            )
            rows.append(([*tokens, conversations.turn_end], n_prompt))
            step.append(len(rows) - 1)
        steps.append(step)
    return Batches(examples, rows, steps)


def _texts() -> list[str]:
    file = resources.path("finetune/everyday_help.jsonl")
    return [json.loads(line)["completion"] for line in file.read_text(encoding="utf-8").splitlines()]
