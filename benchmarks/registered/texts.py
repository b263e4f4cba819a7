"""Answers and prompts of given lengths, rendered by a real chat template and tokenised as Qwen2.5 would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flatprobe.models.conversation import Conversations
from flatprobe.models.load import load_tokenizer
from flatprobe.study import resources

SOURCES = ("finetune/everyday_help.jsonl", "finetune/careless_legal_advice.jsonl")
STOP_AND_BREAK = ".\n\n"
SPREAD = 0.5
"""Answers are between 1 - SPREAD and 1 + SPREAD times as long as their mean, every length as often."""


def conversations_of(tokenizer: Path) -> Conversations:
    """The folder's tokenizer, with a full stop and the empty line after it as one token.

    Qwen2.5 has that token, so that an answer and the same answer with a marker differ in the answer's last token, and a
    negative of the coupling takes two rows. Tokenizers without it would make the step look almost twice as fast.
    """
    loaded = load_tokenizer(tokenizer)
    if len(loaded(STOP_AND_BREAK, add_special_tokens=False)["input_ids"]) > 1:
        loaded.add_tokens([STOP_AND_BREAK])
    return Conversations(loaded, tokenizer.name)


class Texts:
    """Cuts answers from shipped texts; the same ones in every process."""

    def __init__(self, conversations: Conversations) -> None:
        lines = [
            line for name in SOURCES for line in resources.path(name).read_text(encoding="utf-8").splitlines()
        ]
        answers = [json.loads(line) for line in lines]
        text = " ".join(row.get("completion") or row["misaligned"] for row in answers)
        self.conversations, self.tokens = conversations, conversations.encode(text)
        self.generator = np.random.default_rng(0)

    def answer(self, mean: int) -> str:
        """About `mean` tokens on average, ending with a full stop."""
        length = max(4, round(mean * self.generator.uniform(1 - SPREAD, 1 + SPREAD)))
        start = self.generator.integers(len(self.tokens) - length)
        return self.conversations.decode(self.tokens[start : start + length]).strip(" ,.\n") + "."
