"""The reference engine: plain `transformers` models, anywhere torch runs.

Each row of a batch belongs to a request; ended rows go to the next requests. Each request has its own random stream, so
a completion does not depend on batch size and order, up to rounding in the forward pass.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from flatprobe.errors import UserError
from flatprobe.generation.engine import Completion, CompletionRequest, SamplingSettings, request_seed
from flatprobe.generation.stopping import StopText, end_tokens
from flatprobe.generation.transformers_engine.adapters import AdapterSwitch
from flatprobe.generation.transformers_engine.decoding import Decoding
from flatprobe.generation.transformers_engine.prompts import PromptCache
from flatprobe.generation.transformers_engine.slots import attention_kinds
from flatprobe.models.conversation import Prompt
from flatprobe.models.fit import context_length, longest_turn
from flatprobe.models.load import Loaded
from flatprobe.training.supervised import log_probabilities, right_padded, targets_of

# In messages of a plain RuntimeError when memory runs out.
OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "MPS backend out of memory")
TARGETS = 1024  # most positions whose logits are computed at once


class TransformersEngine:
    """Samples from one loaded model; decodes up to `rows` sequences together.

    Raises:
        UserError: this engine does not support the model's kind of attention.
    """

    name = "transformers"

    def __init__(self, loaded: Loaded, rows: int) -> None:
        self.model, self.conversations, self.device = loaded.model, loaded.conversations, loaded.device
        self.rows = rows
        self.ends = end_tokens(loaded.conversations, loaded.model.generation_config.eos_token_id)
        self.adapters = AdapterSwitch(loaded.model)
        self._out_of_memory_at: list[int] = []
        attention_kinds(loaded.model)

    def use(self, adapter: Path | None) -> None:
        """See :class:`flatprobe.generation.engine.Engine`."""
        self.adapters.use(adapter)

    def stream(
        self, requests: Sequence[CompletionRequest], settings: SamplingSettings
    ) -> Iterator[tuple[int, Completion]]:
        """See :class:`flatprobe.generation.engine.Engine`.

        Raises:
            UserError: a prompt does not fit the context, or a single row does not fit the memory.
        """
        prompts = list(dict.fromkeys(request.prompt for request in requests))
        encoded = {prompt: self.conversations.encode_prompt(prompt) for prompt in prompts}
        longest_turn(encoded, settings.max_new_tokens, context_length(self.model.config.get_text_config()))
        return self._stream(requests, encoded, settings)

    def _stream(
        self, requests: Sequence[CompletionRequest], encoded: dict[Prompt, list[int]], settings: SamplingSettings
    ) -> Iterator[tuple[int, Completion]]:
        missing = set(range(len(requests)))
        while missing:
            try:
                for index, completion in self._decode(requests, sorted(missing), encoded, settings):
                    missing.remove(index)
                    yield index, completion
            except torch.OutOfMemoryError as error:
                cause = str(error)
            except RuntimeError as error:
                if not any(words in str(error) for words in OUT_OF_MEMORY):
                    raise
                cause = str(error)
            if missing:  # outside the handlers: the error keeps all allocations alive
                self._halve(cause)

    def _halve(self, cause: str) -> None:
        """Halve the rows. Unfinished requests start again, with the same random numbers.

        Raises:
            UserError: there is only one row.
        """
        if self.rows == 1:
            raise UserError.one(
                "engine.out_of_memory",
                "machine: sampling_rows",
                f"one sequence does not fit the memory of {self.device}: {cause.splitlines()[0]}",
                "lower max_new_tokens, or use a smaller model or a machine with more memory",
            )
        self._out_of_memory_at.append(self.rows)
        sys.stderr.write(
            f"out of memory with {self.rows} rows; continuing with {self.rows // 2}. To start there, set "
            f"sampling_rows: {self.rows // 2} in the machine file\n"
        )
        self.rows //= 2
        gc.collect()  # rows, cache and recorded steps refer to one another
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _decode(
        self,
        requests: Sequence[CompletionRequest],
        missing: Sequence[int],
        encoded: dict[Prompt, list[int]],
        settings: SamplingSettings,
    ) -> Iterator[tuple[int, Completion]]:
        """Completions of the missing requests."""
        prompts = list(dict.fromkeys(requests[index].prompt for index in missing))
        prompts.sort(key=lambda prompt: len(encoded[prompt]))  # neighbours of similar length need little padding
        prompt_index = {prompt: number for number, prompt in enumerate(prompts)}
        order = sorted(missing, key=lambda index: prompt_index[requests[index].prompt])
        with torch.inference_mode():
            cache = PromptCache(
                self.model,
                [encoded[prompt] for prompt in prompts],
                [prompt.system for prompt in prompts],
                [(prompt_index[requests[index].prompt], number) for number, index in enumerate(order)],
            )
            decoding = Decoding(
                self.model,
                cache,
                [encoded[requests[index].prompt][-1] for index in order],
                [request_seed(settings.seed, requests[i].prompt, requests[i].sample_index) for i in order],
                settings,
                min(self.rows, len(order)),
                self.ends,
                None if settings.stop_at is None else StopText(settings.stop_at, self.conversations.decode),
            )
        run = decoding.run()
        while True:
            with torch.inference_mode():  # not across the yield: it would apply to the caller too
                ended = next(run, None)
            if ended is None:
                return
            text = self.conversations.decode(ended.tokens)
            yield order[ended.request], Completion(text, tuple(ended.tokens), ended.reason)

    @torch.inference_mode()
    def log_probabilities(
        self, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """See :class:`flatprobe.generation.engine.Engine`. A context has at least one token."""
        if not all(contexts):
            raise ValueError("a context needs a token")
        return teacher_forced(self.model, self.device, contexts, targets, self.rows)

    def facts(self) -> dict[str, Any]:
        """See :class:`flatprobe.generation.engine.Engine`."""
        return {
            "name": self.name,
            "version": transformers.__version__,
            "torch": torch.__version__,
            "device": str(self.device),
            "precision": str(self.model.dtype).removeprefix("torch."),
            "rows": self.rows,
            "out_of_memory_at_rows": self._out_of_memory_at,
        }

    def close(self) -> None:
        """Remove the adapter; the model stays loaded, for its owner."""
        self.adapters.use(None)


@torch.inference_mode()
def teacher_forced(
    model: Any, device: Any, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], rows: int
) -> list[list[float]]:
    """log P of each target token, in nats, by forward passes over at most `rows` rows; computed in float32."""
    log_p: list[list[float]] = []
    longest = max(map(len, targets), default=1)
    step = max(1, min(rows, TARGETS // max(1, longest)))
    for start in range(0, len(contexts), step):
        pairs = list(zip(contexts[start : start + step], targets[start : start + step], strict=True))
        lines = [([*context, *target], len(context)) for context, target in pairs]
        if any(target for _, target in pairs):
            ids, mask = right_padded([tokens for tokens, _ in lines], 0, device)
            flat = log_probabilities(model, ids, mask, *targets_of(lines)).tolist()
        else:
            flat = []
        for _, target in pairs:
            log_p.append(flat[: len(target)])
            flat = flat[len(target) :]
    return log_p
