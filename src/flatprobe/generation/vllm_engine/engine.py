"""The vLLM engine: prompts rendered and tokenised here, token ids sampled by a process that holds vLLM.

One process per checkpoint serves the base and all its adapters. Every completion is a request with a seed of its own;
prompts that begin alike share what was computed for them. See :mod:`flatprobe.generation.vllm_engine.process`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flatprobe.errors import UserError
from flatprobe.generation.engine import (
    Completion,
    CompletionRequest,
    FinishReason,
    SamplingSettings,
    request_seed,
)
from flatprobe.generation.stopping import StopText
from flatprobe.generation.vllm_engine.link import Link, ProcessDied
from flatprobe.generation.vllm_engine.server import (
    NO_ADAPTER,
    AdapterSize,
    EngineFailed,
    Freed,
    Needs,
    VllmServer,
)
from flatprobe.machine.schema import VllmMachine
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.fit import longest_turn, read_lora
from flatprobe.study.recipe_schema import Precision

ATTEMPTS = 2  # a process that dies is started once more, for what is missing
SEED_BITS = 63  # of a request's seed; vLLM holds it in a signed integer
UNSERVED = frozenset(["lm_head", "embed_tokens"])
LOOK = 16  # tokens between two looks at an answer that may be over early

Numbered = Iterator[tuple[int, Any]]


class VllmEngine:
    """Samples from a checkpoint's folder through a process that holds vLLM. See the protocol for what each verb does.

    Nothing is started before the first completion is asked for.
    """

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
        """See that a process started from now on can serve this adapter, too.

        Say it before the first call where the checkpoint alone is asked first: a process is started without room for
        adapters where none is known, and replaced when one comes.

        Raises:
            UserError: vLLM cannot serve it, or it is of another base.
        """
        place = f"adapter {adapter}"
        files = read_lora(adapter, place)
        if unserved := sorted(files.modules & UNSERVED):
            raise UserError.one(
                "adapter.not_served",
                place,
                f"it updates {', '.join(unserved)}, which vLLM leaves out of scores of given tokens",
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
            UserError: a prompt does not fit; vLLM is not there, or cannot be started this way.
            EngineFailed: the process died, was started again, and died again.
        """
        ids = {
            prompt: self.conversations.encode_prompt(prompt)
            for prompt in dict.fromkeys(r.prompt for r in requests)
        }
        needs = Needs(longest_turn(ids, settings.max_new_tokens, self._server.context), self._room)
        return self._attempts(
            len(requests), needs, lambda link, waiting: self._sample(link, waiting, requests, ids, settings)
        )

    def log_probabilities(
        self, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """See :class:`flatprobe.generation.engine.Engine`. A context holds one token at least."""
        if not all(contexts):
            raise ValueError("a context needs a token")
        rows = [
            ([*context, *target], len(context)) for context, target in zip(contexts, targets, strict=True)
        ]
        # The engine samples one token beyond what it scores.
        longest = max((len(tokens) for tokens, _ in rows), default=0) + 1
        if longest > self._server.context:
            raise UserError.one(
                "vllm_engine.TODO",
                "engine vllm",
                f"{longest - 1} tokens to score: the context ends at {self._server.context - 1}",
            )
        found = dict(self._attempts(
            len(rows), Needs(longest, self._room), lambda link, waiting: self._score(link, waiting, rows)
        ))  # fmt: skip
        return [found[index] for index in range(len(rows))]

    def facts(self) -> dict[str, Any]:
        """See :class:`flatprobe.generation.engine.Engine`."""
        server = self._server
        return {
            "name": self.name, "version": server.started.get("vllm"), "precision": server.precision,
            "options": server.options.model_dump(), "process": server.started,
            "starts": server.starts, "restarts": self._restarts,
            "freed": server.freed and dataclasses.asdict(server.freed),
        }  # fmt: skip

    def close(self) -> None:
        """End the process; `freed` says what was seen after it."""
        self._server.close()

    @property
    def freed(self) -> Freed | None:
        """What was seen when the last process had ended; None before."""
        return self._server.freed

    @property
    def pid(self) -> int | None:
        """The running process, if there is one."""
        return self._server.pid

    def _attempts(self, count: int, needs: Needs, work: Callable[[Link, list[int]], Numbered]) -> Numbered:
        """What `work` yields for the requests that wait; after the death of the process once more for the rest."""
        waiting = set(range(count))
        try:
            for attempt in range(ATTEMPTS):
                try:
                    for index, result in work(self._server.link(needs), sorted(waiting)) if waiting else ():
                        waiting.remove(index)
                        yield index, result
                    break
                except ProcessDied as death:
                    self._server.abandon()
                    if attempt == ATTEMPTS - 1:
                        raise EngineFailed(self.name, death.how, death.tail) from None
                    self._restarts += 1
                    sys.stderr.write(
                        f"the vLLM process died ({death.how}) with {len(waiting)} of {count} requests to do: "
                        "it is started once more for these\n"
                    )
            if waiting:
                raise RuntimeError(f"vLLM finished without {len(waiting)} of {count} requests")
        finally:
            if waiting:  # whoever asked has left: a process that works on cannot be given new work
                self._server.abandon()

    def _sample(
        self,
        link: Link,
        waiting: list[int],
        requests: Sequence[CompletionRequest],
        ids: dict[Prompt, list[int]],
        settings: SamplingSettings,
    ) -> Numbered:
        """Completions of the requests that wait, as they finish."""
        places = {prompt: place for place, prompt in enumerate(ids)}
        wanted = [requests[index] for index in waiting]
        seeds = [request_seed(settings.seed, request.prompt, request.sample_index) for request in wanted]
        stop = None if settings.stop_at is None else StopText(settings.stop_at, self.conversations.decode)
        link.send(
            command="sample", prompts=list(ids.values()),
            requests=[[places[r.prompt], s % 2**SEED_BITS] for r, s in zip(wanted, seeds, strict=True)],
            max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p,
            ends=sorted(self.ends), adapter=self._server.adapter(self._adapter), report_every=LOOK if stop else 0,
        )  # fmt: skip
        seen: dict[int, list[int]] = {}
        cut: set[int] = set()
        while (reply := self._server.reply(link))["reply"] != "done":
            place, finished = reply["index"], reply["reply"] == "completion"
            if place in cut:  # it ended before the process had heard of the cut
                continue
            before = seen.pop(place, [])
            tokens = reply["tokens"] if finished else before + reply["tokens"]
            end = stop.end(tokens, len(tokens) - len(before)) if stop else None
            if end is not None:
                cut.add(place)
                if not finished:
                    link.send(command="cut", requests=[place])
                yield waiting[place], self._completion(tokens[:end], "marker")
            elif finished:
                yield waiting[place], self._completion(tokens, reply["finish_reason"])
            else:
                seen[place] = tokens

    def _completion(self, tokens: list[int], reason: FinishReason) -> Completion:
        return Completion(self.conversations.decode(tokens), tuple(tokens), reason)

    def _score(self, link: Link, waiting: list[int], rows: list[tuple[list[int], int]]) -> Numbered:
        """Log-probabilities of the rows that wait."""
        link.send(
            command="log_probabilities", rows=[rows[index] for index in waiting],
            adapter=self._server.adapter(self._adapter),
        )  # fmt: skip
        while (reply := self._server.reply(link))["reply"] != "done":
            yield waiting[reply["index"]], reply["values"]
