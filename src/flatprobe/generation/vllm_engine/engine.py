"""The vLLM engine: renders and tokenises prompts here; a child process with vLLM samples token ids.

One process per checkpoint serves the base and all its adapters. Each completion is a request with its own seed; vLLM
computes shared prefixes of prompts once. See :mod:`flatprobe.generation.vllm_engine.process`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flatprobe.errors import UserError
from flatprobe.generation.engine import Completion, CompletionRequest, FinishReason, SamplingSettings, request_seed
from flatprobe.generation.stopping import StopText
from flatprobe.generation.vllm_engine.link import Link, ProcessDied
from flatprobe.generation.vllm_engine.server import NO_ADAPTER, AdapterSize, EngineFailed, Freed, Needs, VllmServer
from flatprobe.machine.schema import VllmMachine
from flatprobe.models.adapter_files import read_lora
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.fit import longest_turn
from flatprobe.study.recipe_schema import Precision

ATTEMPTS = 2  # a process that dies is restarted once
SEED_BITS = 63  # vLLM stores a request's seed as a signed integer
NOT_SERVED = frozenset(["lm_head", "embed_tokens"])
REPORT_EVERY = 16  # tokens between two searches of an answer for the text to stop at

Indexed = Iterator[tuple[int, Any]]


class VllmEngine:
    """Samples from a checkpoint's folder. Starts the process at the first call that needs it. See the protocol."""

    name = "vllm"

    def __init__(
        self,
        checkpoint: Path,
        conversations: Conversations,
        ends: frozenset[int],
        precision: Precision,
        options: VllmMachine,
    ) -> None:
        self.conversations, self.ends = conversations, ends
        self._server = VllmServer(checkpoint, precision, options)
        self._adapter: Path | None = None
        self._room = NO_ADAPTER
        self._restarts = 0

    def make_room(self, adapter: Path) -> None:
        """Start processes with room for this adapter from now on.

        Call it before the first use of the checkpoint alone. Otherwise the process starts without room for adapters,
        and is replaced when one is used.

        Raises:
            UserError: vLLM cannot serve it, or it was trained on another base.
        """
        place = f"adapter {adapter}"
        files = read_lora(adapter, place)
        if modules := sorted(files.modules & NOT_SERVED):
            raise UserError.one(
                "adapter.not_served",
                place,
                f"it updates {', '.join(modules)}, which vLLM ignores when it scores given tokens",
                "use engine: transformers",
            )
        files.require_checkpoint(self._server.checkpoint)
        self._room = AdapterSize(max(self._room.rank, files.rank), self._room.modules | files.modules)

    def use(self, adapter: Path | None) -> None:
        """See :class:`flatprobe.generation.engine.Engine`."""
        if adapter is not None:
            self.make_room(adapter)
        self._adapter = adapter

    def stream(
        self, requests: Sequence[CompletionRequest], settings: SamplingSettings
    ) -> Iterator[tuple[int, Completion]]:
        """See :class:`flatprobe.generation.engine.Engine`.

        Raises:
            UserError: a prompt does not fit; vLLM is not installed, or does not start with these options.
            EngineFailed: the process died twice.
        """
        prompts = dict.fromkeys(request.prompt for request in requests)
        ids = {prompt: self.conversations.encode_prompt(prompt) for prompt in prompts}
        needs = Needs(longest_turn(ids, settings.max_new_tokens, self._server.context), self._room)
        return self._attempts(
            len(requests), needs, lambda link, pending: self._sample(link, pending, requests, ids, settings)
        )

    def log_probabilities(
        self, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """See :class:`flatprobe.generation.engine.Engine`. A context has at least one token."""
        if not all(contexts):
            raise ValueError("a context needs a token")
        rows = [([*context, *target], len(context)) for context, target in zip(contexts, targets, strict=True)]
        longest = max((len(tokens) for tokens, _ in rows), default=0) + 1  # vLLM also samples one new token
        if longest > self._server.context:
            raise UserError.one(
                "context.exceeded",
                "engine vllm",
                f"{longest - 1} tokens to score exceed the limit of {self._server.context - 1}",
            )
        needs = Needs(longest, self._room)
        scores = dict(self._attempts(len(rows), needs, lambda link, pending: self._score(link, pending, rows)))
        return [scores[index] for index in range(len(rows))]

    def facts(self) -> dict[str, Any]:
        """See :class:`flatprobe.generation.engine.Engine`."""
        server = self._server
        return {
            "name": self.name,
            "version": server.started.get("vllm"),
            "precision": server.precision,
            "options": server.options.model_dump(),
            "process": server.started,
            "starts": server.starts,
            "restarts": self._restarts,
            "freed": server.freed and dataclasses.asdict(server.freed),
        }

    def close(self) -> None:
        """End the process; `freed` then says what is left."""
        self._server.close()

    @property
    def freed(self) -> Freed | None:
        """What the last process left when it ended; None before."""
        return self._server.freed

    @property
    def pid(self) -> int | None:
        """Id of the running process, if any."""
        return self._server.pid

    def _attempts(self, count: int, needs: Needs, work: Callable[[Link, list[int]], Indexed]) -> Indexed:
        """Yield the results of `work` for `count` requests; if the process dies, restart it for the missing ones."""
        missing = set(range(count))
        try:
            for attempt in range(ATTEMPTS):
                try:
                    for index, result in work(self._server.link(needs), sorted(missing)) if missing else ():
                        missing.remove(index)
                        yield index, result
                    break
                except ProcessDied as death:
                    self._server.abandon()
                    if attempt == ATTEMPTS - 1:
                        raise EngineFailed(self.name, death.how, death.log) from None
                    self._restarts += 1
                    sys.stderr.write(
                        f"the vLLM process died ({death.how}); restarting it for the missing {len(missing)} of "
                        f"{count} requests\n"
                    )
            if missing:
                raise RuntimeError(f"vLLM finished without {len(missing)} of {count} requests")
        finally:
            if missing:  # the caller left early: a busy process cannot take new work
                self._server.abandon()

    def _sample(
        self,
        link: Link,
        pending: list[int],
        requests: Sequence[CompletionRequest],
        ids: dict[Prompt, list[int]],
        settings: SamplingSettings,
    ) -> Indexed:
        """Completions of the pending requests as they finish."""
        prompt_index = {prompt: index for index, prompt in enumerate(ids)}
        rows = [requests[index] for index in pending]
        seeds = [request_seed(settings.seed, row.prompt, row.sample_index) for row in rows]
        stop = None if settings.stop_at is None else StopText(settings.stop_at, self.conversations.decode)
        link.send(
            command="sample",
            prompts=list(ids.values()),
            requests=[[prompt_index[r.prompt], s % 2**SEED_BITS] for r, s in zip(rows, seeds, strict=True)],
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            ends=sorted(self.ends),
            adapter=self._server.adapter(self._adapter),
            report_every=REPORT_EVERY if stop else 0,
        )
        partial: dict[int, list[int]] = {}
        cut: set[int] = set()
        while (reply := self._server.reply(link))["reply"] != "done":
            row, finished = reply["index"], reply["reply"] == "completion"
            if row in cut:  # it finished before the process received the cut
                continue
            earlier = partial.pop(row, [])
            tokens = reply["tokens"] if finished else earlier + reply["tokens"]
            end = stop.end(tokens, len(tokens) - len(earlier)) if stop else None
            if end is not None:
                cut.add(row)
                if not finished:
                    link.send(command="cut", requests=[row])
                yield pending[row], self._completion(tokens[:end], "marker")
            elif finished:
                yield pending[row], self._completion(tokens, reply["finish_reason"])
            else:
                partial[row] = tokens

    def _completion(self, tokens: list[int], reason: FinishReason) -> Completion:
        return Completion(self.conversations.decode(tokens), tuple(tokens), reason)

    def _score(self, link: Link, pending: list[int], rows: list[tuple[list[int], int]]) -> Indexed:
        """Log-probabilities of the pending rows."""
        link.send(
            command="log_probabilities",
            rows=[rows[index] for index in pending],
            adapter=self._server.adapter(self._adapter),
        )
        while (reply := self._server.reply(link))["reply"] != "done":
            yield pending[reply["index"]], reply["values"]
