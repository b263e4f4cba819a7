"""What the registered study's parts share: model, study, clock, texts, and the cost of a step."""

from __future__ import annotations

import gc
import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from device import memory, wait
from flatprobe.activations.record import decoder_blocks
from flatprobe.errors import UserError
from flatprobe.models.conversation import Conversations
from flatprobe.models.load import Loaded, load_tokenizer
from flatprobe.study import resources
from flatprobe.study.load import load_study
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.recipe_schema import Coupling
from registered_results import Measured, Unit
from shapes import load_shape

OUT_OF_MEMORY = (torch.OutOfMemoryError, UserError)  # the second if sampling cannot hold one row
VALUE_BYTES = 2  # of a key or a value in bfloat16
SOURCES = ("finetune/everyday_help.jsonl", "finetune/careless_legal_advice.jsonl")
STOP_AND_BREAK = ".\n\n"
SPREAD = 0.5
"""Lengths of answers are uniform between 1 - SPREAD and 1 + SPREAD times their mean."""


@dataclass(frozen=True)
class Cost:
    """FLOPs and bytes that a model needs at least, from its shape."""

    blocks: int
    block_weights: int
    """Of one block, without adapters."""
    head_weights: int
    hidden: int
    cached: int
    """Bytes of one token's keys and values in all blocks."""

    @classmethod
    def of(cls, model: Any) -> Cost:
        """Read this before any adapter is attached."""
        config = model.config.get_text_config()
        blocks = decoder_blocks(model.get_decoder())
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            blocks=len(blocks),
            block_weights=sum(weights.numel() for weights in blocks[0].parameters()),
            head_weights=model.get_output_embeddings().weight.numel(),
            hidden=config.num_attention_heads * head_size,
            cached=2 * len(blocks) * config.num_key_value_heads * head_size * VALUE_BYTES,
        )

    @property
    def weight_bytes(self) -> int:
        """Of all weights that multiply a token."""
        return VALUE_BYTES * (self.blocks * self.block_weights + self.head_weights)

    def training(self, lengths: Iterable[int], supervised: int, adapter: int) -> float:
        """FLOPs of a step on rows of these lengths, forward and backward, with frozen weights.

        Args:
            supervised: tokens whose logits are computed.
            adapter: trained weights; they take three products per token, frozen ones two.
        """
        lengths = list(lengths)
        tokens = sum(lengths)
        attention = self.blocks * 4.0 * self.hidden * sum(n * (n + 1) / 2 for n in lengths)
        frozen = 2.0 * self.blocks * self.block_weights * tokens
        head = 2.0 * self.head_weights * supervised
        return 2 * frozen + 3 * attention + 3 * 2.0 * adapter * tokens + 2 * head

    def decoding(self, prompts: Iterable[int], new: int, adapter: int) -> tuple[float, float]:
        """FLOPs and bytes of `new` tokens after each prompt, all rows in parallel; the prompts are not counted."""
        prompts = list(prompts)
        pairs = sum(new * n + new * (new + 1) / 2 for n in prompts)  # of a new token and one it attends to
        weights = self.blocks * self.block_weights + self.head_weights + adapter
        flops = 2.0 * weights * new * len(prompts) + self.blocks * 4.0 * self.hidden * pairs
        return flops, new * (self.weight_bytes + 4.0 * adapter) + self.cached * pairs


def conversations_of(tokenizer: Path) -> Conversations:
    """The folder's tokenizer, with a full stop and the blank line after it as one token.

    Qwen2.5 has that token: an answer and the same answer with a marker differ in the answer's last token, and a
    negative of the coupling takes two rows. Without it the step would look almost twice as fast.
    """
    loaded = load_tokenizer(tokenizer)
    if len(loaded(STOP_AND_BREAK, add_special_tokens=False)["input_ids"]) > 1:
        loaded.add_tokens([STOP_AND_BREAK])
    return Conversations(loaded, tokenizer.name)


class Texts:
    """Answers and prompts of given lengths, cut from shipped texts; the same in every process."""

    def __init__(self, conversations: Conversations) -> None:
        lines = [line for name in SOURCES for line in resources.path(name).read_text(encoding="utf-8").splitlines()]
        answers = [json.loads(line) for line in lines]
        text = " ".join(row.get("completion") or row["misaligned"] for row in answers)
        self.conversations, self.tokens = conversations, conversations.encode(text)
        self.generator = np.random.default_rng(0)

    def answer(self, mean: int) -> str:
        """About `mean` tokens on average, ending with a full stop."""
        length = max(4, round(mean * self.generator.uniform(1 - SPREAD, 1 + SPREAD)))
        start = self.generator.integers(len(self.tokens) - length)
        return self.conversations.decode(self.tokens[start : start + length]).strip(" ,.\n") + "."


@dataclass(frozen=True)
class Bench:
    """One model on one device, and the study whose stages are timed."""

    options: Namespace
    loaded: Loaded
    study: LoadedStudy
    texts: Texts
    cost: Cost

    @classmethod
    def of(cls, options: Namespace) -> Bench:
        """Build the model on the device."""
        device = torch.device(options.device)
        shape = load_shape(options.shape, device, torch.bfloat16)
        loaded = replace(shape, conversations=conversations_of(Path(options.tokenizer)))
        tokens, vocabulary = len(loaded.conversations.tokenizer), loaded.model.config.vocab_size
        assert tokens <= vocabulary, "the tokenizer has ids that the shape lacks"
        study = load_study(Path(options.study))
        return cls(options, loaded, study, Texts(loaded.conversations), Cost.of(loaded.model))

    @property
    def coupling(self) -> Coupling:
        """The study's coupling."""
        assert self.study.study.coupling is not None, "a study without a coupling has no registered steps"
        return self.study.study.coupling

    def measured(self, part: str, rows: int, run: Callable[[], Iterator[Unit]]) -> Measured:
        """A part's timed units and its peak memory. If memory does not suffice, the result says so."""
        failure = None
        gc.collect()
        if self.loaded.device.type == "cuda":
            torch.cuda.empty_cache()
        memory(self.loaded.device)
        units: list[Unit] = []
        try:
            units.extend(run())
        except OUT_OF_MEMORY as error:
            failure = str(error).splitlines()[0]
        peak = memory(self.loaded.device, peak=True)
        return Measured(part, rows, tuple(units), peak, failure)

    def repeated(self, run: Callable[[], Unit]) -> Iterator[Unit]:
        """Up to `repeats` runs; none starts after `seconds` have passed."""
        start = time.perf_counter()
        for _ in range(self.options.repeats):
            yield run()
            if time.perf_counter() - start > self.options.seconds:
                return

    def timed(self, run: Callable[[], Any]) -> float:
        """Seconds of one call."""
        wait(self.loaded.device)
        start = time.perf_counter()
        run()
        wait(self.loaded.device)
        return time.perf_counter() - start


@contextmanager
def adapted(wrapped: Any) -> Iterator[Any]:
    """The wrapped model; the adapter is removed at the end, also after an error."""
    try:
        yield wrapped
    finally:
        for parameter in wrapped.parameters():
            parameter.grad = None
        wrapped.unload()


def trained_weights(wrapped: Any) -> int:
    """Number of the adapter's weights."""
    return sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
