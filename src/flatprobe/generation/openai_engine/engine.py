"""The engine for a running server with OpenAI's completions protocol: vLLM, SGLang, llama.cpp.

Prompts are rendered and tokenised here. The model, the prompt's tokens and the scored tokens that the server reports
are compared with those requested.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flatprobe.errors import UserError
from flatprobe.generation.engine import Completion, CompletionRequest, SamplingSettings, request_seed
from flatprobe.generation.openai_engine.server import api_key, client_errors, place_of, require_package, served_model
from flatprobe.generation.stopping import StopText
from flatprobe.machine.schema import OpenaiMachine
from flatprobe.models.adapter_files import read_lora
from flatprobe.models.conversation import Conversations
from flatprobe.models.fit import longest_turn, require_context_length

RETRIES = 4  # of the client, with growing pauses, if the server is busy, fails or is unreachable
SEED_BITS = 31  # of a request's seed: all three servers accept this many
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0, "typical_p": 1.0}
"""Sent with every request: the servers' defaults differ. Each server ignores names that it does not know."""

Answer = TypeVar("Answer")


class OpenaiEngine:
    """Samples from a checkpoint that a server serves. See the protocol.

    An adapter's name on the server is a hash of its content. The server must have it or load it.
    """

    name = "openai"

    def __init__(
        self, checkpoint: Path, conversations: Conversations, ends: frozenset[int], options: OpenaiMachine
    ) -> None:
        require_package()
        self.checkpoint, self.conversations = checkpoint, conversations
        self.ends, self.options = ends, options
        self._key = api_key(options)
        self._adapter: Path | None = None
        self._served: dict[str, Any] = {}
        self._reencoded = 0

    def use(self, adapter: Path | None) -> None:
        """See :class:`flatprobe.generation.engine.Engine`."""
        if adapter is not None:
            read_lora(adapter, f"adapter {adapter}").require_checkpoint(self.checkpoint)
        self._adapter = adapter

    def stream(
        self, requests: Sequence[CompletionRequest], settings: SamplingSettings
    ) -> Iterator[tuple[int, Completion]]:
        """See :class:`flatprobe.generation.engine.Engine`. `stop_at` cuts finished answers, so it saves nothing.

        Raises:
            UserError: the server is unreachable, refuses, serves another model, or reads other tokens.
        """
        prompts = dict.fromkeys(request.prompt for request in requests)
        ids = {prompt: self.conversations.encode_prompt(prompt) for prompt in prompts}
        length = longest_turn(ids, settings.max_new_tokens, require_context_length(self.checkpoint))

        def work(client: Any, model: str, request: CompletionRequest) -> Coroutine[Any, Any, Completion]:
            return self._complete(client, model, request, ids[request.prompt], settings)

        return self._all(requests, work, length)

    def log_probabilities(
        self, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """See :class:`flatprobe.generation.engine.Engine`. A context has at least one token.

        Raises:
            UserError: as for `stream`; or the server does not score a prompt's tokens.
        """
        if not all(contexts):
            raise ValueError("a context needs a token")
        rows = [([*context, *target], len(context)) for context, target in zip(contexts, targets, strict=True)]
        length = max((len(tokens) for tokens, _ in rows), default=0) + 1
        scores = dict(self._all(rows, self._score, length))
        return [scores[index] for index in range(len(rows))]

    def facts(self) -> dict[str, Any]:
        """See :class:`flatprobe.generation.engine.Engine`."""
        import openai

        return {
            "name": self.name,
            "version": f"openai {openai.__version__}",
            "options": self.options.model_dump(),
            "served": self._served,
            "reencoded": self._reencoded,
        }

    def close(self) -> None:
        """Holds nothing between calls."""

    def _all(
        self, items: Sequence[Any], work: Callable[[Any, str, Any], Coroutine[Any, Any, Answer]], length: int
    ) -> Iterator[tuple[int, Answer]]:
        """Send all items, `concurrency` at a time; yield the answers as they come. Closing early cancels the rest."""
        import openai

        loop = asyncio.new_event_loop()
        client = openai.AsyncOpenAI(
            base_url=self.options.base_url, api_key=self._key, timeout=self.options.timeout, max_retries=RETRIES
        )
        slots = asyncio.Semaphore(self.options.concurrency)

        async def one(index: int) -> tuple[int, Answer]:
            async with slots:
                return index, await work(client, model, items[index])

        tasks: list[asyncio.Task[tuple[int, Answer]]] = []
        try:
            with client_errors(self.options):
                model = loop.run_until_complete(self._model(client, length))
                tasks = [loop.create_task(one(index)) for index in range(len(items))]
                pending = set(tasks)
                while pending:
                    done, pending = loop.run_until_complete(asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED))
                    for task in done:
                        yield task.result()
        finally:
            loop.run_until_complete(_cancel(tasks))
            loop.run_until_complete(client.close())
            loop.close()

    async def _model(self, client: Any, length: int) -> str:
        self._served = await served_model(client, self.options, self.checkpoint, self._adapter, length)
        return str(self._served["name"])

    async def _complete(
        self, client: Any, model: str, request: CompletionRequest, ids: list[int], settings: SamplingSettings
    ) -> Completion:
        """One completion, checked for the tokens that the server read and for why it ended."""
        as_text = self.options.prompt == "text"
        prompt = self.conversations.render(request.prompt.system, request.prompt.question) if as_text else ids
        seed = request_seed(settings.seed, request.prompt, request.sample_index) % 2**SEED_BITS
        answer = await client.completions.create(
            model=model,
            prompt=prompt,
            max_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=seed,
            frequency_penalty=0.0,
            presence_penalty=0.0,
            extra_body={
                **NEUTRAL,
                "stop_token_ids": sorted(self.ends),
                "add_special_tokens": False,
                "return_token_ids": True,
            },
        )
        tokens_read = answer.usage.prompt_tokens if answer.usage else None
        if tokens_read not in (None, len(ids)):
            raise UserError.one(
                "server.prompt_tokens",
                place_of(self.options),
                f"it read a prompt of {len(ids)} tokens as {tokens_read}: it adds or splits tokens",
                "set `prompt: tokens`" if as_text else "use another server: this one changes token ids",
            )
        (choice,) = answer.choices
        if choice.finish_reason not in ("stop", "length"):
            raise UserError.one(
                "server.finish_reason",
                place_of(self.options),
                f"a completion ended with {choice.finish_reason!r}",
                "see the server's log",
            )
        sampled = answer.usage.completion_tokens if answer.usage else settings.max_new_tokens
        if choice.finish_reason == "length" and sampled < settings.max_new_tokens:
            raise UserError.one(
                "server.context",
                place_of(self.options),
                f"it cut a completion at {sampled} of {settings.max_new_tokens} tokens: its context is too short",
                "start it with a longer context",
            )
        tokens = self._tokens(choice)
        if settings.stop_at is not None:
            stop = StopText(settings.stop_at, self.conversations.decode)
            if (end := stop.end(tokens, len(tokens))) is not None:
                return Completion(self.conversations.decode(tokens[:end]), tuple(tokens[:end]), "marker")
        return Completion(self.conversations.decode(tokens), tuple(tokens), choice.finish_reason)

    def _tokens(self, choice: Any) -> list[int]:
        """The sampled tokens without the end token. If the server returns none, encodes the text and counts that."""
        tokens = getattr(choice, "token_ids", None)
        if tokens is None:
            self._reencoded += 1
            return self.conversations.encode(choice.text)
        ended = choice.finish_reason == "stop" and tokens and tokens[-1] in self.ends
        return list(tokens[:-1] if ended else tokens)

    async def _score(self, client: Any, model: str, row: tuple[list[int], int]) -> list[float]:
        """Log-probabilities of the tokens from an index on; the server echoes them."""
        tokens, first = row
        answer = await client.completions.create(
            model=model,
            prompt=tokens,
            max_tokens=1,
            temperature=0.0,
            echo=True,
            logprobs=0,
            extra_body={"add_special_tokens": False, "return_tokens_as_token_ids": True},
        )
        echo = answer.choices[0].logprobs
        values = list(echo.token_logprobs or ())[first : len(tokens)] if echo else []
        if len(values) != len(tokens) - first or None in values:
            raise UserError.one(
                "server.no_scores",
                place_of(self.options),
                "it does not score a prompt's tokens (echo with logprobs)",
                "use engine: vllm or transformers",
            )
        echoed = list(echo.tokens or ())[first : len(tokens)]
        expected = [f"token_id:{token}" for token in tokens[first:]]
        if echoed and echoed[0].startswith("token_id:") and echoed != expected:
            raise UserError.one(
                "server.other_scores", place_of(self.options), "it scored other tokens than requested", "see its log"
            )
        return [float(value) for value in values]


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel open requests; the server then stops working on them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
