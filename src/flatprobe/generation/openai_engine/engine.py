"""An engine for a server that is already running and speaks OpenAI's completions protocol: vLLM, SGLang, llama.cpp.

Prompts are rendered and tokenised here. The server's answers are not trusted to come from the right model, prompt or
tokens: what it says of each is compared with what was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flatprobe.errors import UserError
from flatprobe.generation.engine import Completion, CompletionRequest, SamplingSettings, request_seed
from flatprobe.generation.openai_engine.server import key_of, named, require_package, served
from flatprobe.generation.stopping import StopText
from flatprobe.machine.schema import OpenaiMachine
from flatprobe.models.conversation import Conversations
from flatprobe.models.fit import longest_turn, read_lora, require_context_length

RETRIES = 4  # of the client, with growing pauses, where the server is busy, fails or cannot be reached
SEED_BITS = 31  # of a request's seed: what all three servers can hold
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0, "typical_p": 1.0}
"""Sent along because the servers have other defaults; each ignores the names that it does not know."""

Answer = TypeVar("Answer")


class OpenaiEngine:
    """Samples from a checkpoint that a server holds. See the protocol for what each verb does.

    An adapter is used under a name made of its content, which the server must have or be willing to load.
    """

    name = "openai"

    def __init__(
        self, checkpoint: Path, conversations: Conversations, ends: frozenset[int], options: OpenaiMachine
    ) -> None:
        require_package()
        self.checkpoint, self.conversations, self.ends, self.options = (
            checkpoint,
            conversations,
            ends,
            options,
        )
        self._key = key_of(options)
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
        """See :class:`flatprobe.generation.engine.Engine`. With `stop_at` answers are cut when they are whole.

        Raises:
            UserError: the server cannot be reached, refuses, holds another model, or reads another prompt.
        """
        ids = {r.prompt: self.conversations.encode_prompt(r.prompt) for r in requests}
        length = longest_turn(ids, settings.max_new_tokens, require_context_length(self.checkpoint))

        def work(client: Any, model: str, request: CompletionRequest) -> Coroutine[Any, Any, Completion]:
            return self._complete(client, model, request, ids[request.prompt], settings)

        return self._all(requests, work, length)

    def log_probabilities(
        self, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """See :class:`flatprobe.generation.engine.Engine`. A context holds one token at least.

        Raises:
            UserError: as for `stream`; or the server does not score the tokens of a prompt.
        """
        if not all(contexts):
            raise ValueError("a context needs a token")
        rows = [
            ([*context, *target], len(context)) for context, target in zip(contexts, targets, strict=True)
        ]
        length = max((len(tokens) for tokens, _ in rows), default=0) + 1
        found = dict(self._all(rows, self._score, length))
        return [found[index] for index in range(len(rows))]

    def facts(self) -> dict[str, Any]:
        """See :class:`flatprobe.generation.engine.Engine`."""
        import openai

        return {
            "name": self.name, "version": f"openai {openai.__version__}", "options": self.options.model_dump(),
            "served": self._served, "reencoded": self._reencoded,
        }  # fmt: skip

    def close(self) -> None:
        """Nothing is held between calls."""

    def _all(
        self,
        items: Sequence[Any],
        work: Callable[[Any, str, Any], Coroutine[Any, Any, Answer]],
        length: int,
    ) -> Iterator[tuple[int, Answer]]:
        """Ask for all items, so many at a time; the answers as they come. Whoever leaves early cancels the rest."""
        import openai

        loop = asyncio.new_event_loop()
        client = openai.AsyncOpenAI(
            base_url=self.options.base_url,
            api_key=self._key,
            timeout=self.options.timeout,
            max_retries=RETRIES,
        )
        room = asyncio.Semaphore(self.options.concurrency)

        async def one(index: int) -> tuple[int, Answer]:
            async with room:
                return index, await work(client, model, items[index])

        tasks: list[asyncio.Task[tuple[int, Answer]]] = []
        try:
            with named(self.options):
                model = loop.run_until_complete(self._model(client, length))
                tasks = [loop.create_task(one(index)) for index in range(len(items))]
                pending = set(tasks)
                while pending:
                    done, pending = loop.run_until_complete(
                        asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    )
                    for task in done:
                        yield task.result()
        finally:
            loop.run_until_complete(_cancel(tasks))
            loop.run_until_complete(client.close())
            loop.close()

    async def _model(self, client: Any, length: int) -> str:
        self._served = await served(client, self.options, self.checkpoint, self._adapter, length)
        return str(self._served["name"])

    async def _complete(
        self, client: Any, model: str, request: CompletionRequest, ids: list[int], settings: SamplingSettings
    ) -> Completion:
        """One completion, after a look at what the server read and why it ended."""
        as_text = self.options.prompt == "text"
        prompt = self.conversations.render(request.prompt.system, request.prompt.question) if as_text else ids
        seed = request_seed(settings.seed, request.prompt, request.sample_index) % 2**SEED_BITS
        answer = await client.completions.create(
            model=model, prompt=prompt, max_tokens=settings.max_new_tokens, temperature=settings.temperature,
            top_p=settings.top_p, seed=seed, frequency_penalty=0.0, presence_penalty=0.0,
            extra_body={
                **NEUTRAL, "stop_token_ids": sorted(self.ends), "add_special_tokens": False, "return_token_ids": True,
            },
        )  # fmt: skip
        read = answer.usage.prompt_tokens if answer.usage else None
        if read not in (None, len(ids)):
            raise UserError.one(
                "openai_engine.TODO",
                f"engine openai: {self.options.base_url}",
                f"it read a prompt of {len(ids)} tokens as {read}: it adds or splits tokens",
                "set `prompt: tokens`" if as_text else "use another server: this one changes token ids",
            )
        (choice,) = answer.choices
        if choice.finish_reason not in ("stop", "length"):
            raise UserError.one(
                "openai_engine.TODO", f"engine openai: {self.options.base_url}",
                f"a completion ended with {choice.finish_reason!r}", "see the server's log",
            )  # fmt: skip
        made = answer.usage.completion_tokens if answer.usage else settings.max_new_tokens
        if choice.finish_reason == "length" and made < settings.max_new_tokens:
            raise UserError.one(
                "openai_engine.TODO",
                f"engine openai: {self.options.base_url}",
                f"it cut a completion at {made} of {settings.max_new_tokens} tokens: its context is too short",
                "start it with a longer one",
            )
        tokens = self._tokens(choice)
        if settings.stop_at is not None:
            stop = StopText(settings.stop_at, self.conversations.decode)
            if (end := stop.end(tokens, len(tokens))) is not None:
                return Completion(self.conversations.decode(tokens[:end]), tuple(tokens[:end]), "marker")
        return Completion(self.conversations.decode(tokens), tuple(tokens), choice.finish_reason)

    def _tokens(self, choice: Any) -> list[int]:
        """The sampled tokens without the one that ended them; from the text, counted, where the server keeps them."""
        tokens = getattr(choice, "token_ids", None)
        if tokens is None:
            self._reencoded += 1
            return self.conversations.encode(choice.text)
        ended = choice.finish_reason == "stop" and tokens and tokens[-1] in self.ends
        return list(tokens[:-1] if ended else tokens)

    async def _score(self, client: Any, model: str, row: tuple[list[int], int]) -> list[float]:
        """Log-probabilities of the tokens from a place on, by echoing them."""
        tokens, first = row
        answer = await client.completions.create(
            model=model, prompt=tokens, max_tokens=1, temperature=0.0, echo=True, logprobs=0,
            extra_body={"add_special_tokens": False, "return_tokens_as_token_ids": True},
        )  # fmt: skip
        scored = answer.choices[0].logprobs
        values = list(scored.token_logprobs or ())[first : len(tokens)] if scored else []
        if len(values) != len(tokens) - first or None in values:
            raise UserError.one(
                "openai_engine.TODO",
                f"engine openai: {self.options.base_url}",
                "it does not score the tokens of a prompt (echo with logprobs)",
                "use engine: vllm or transformers",
            )
        said = list(scored.tokens or ())[first : len(tokens)]
        wanted = [f"token_id:{token}" for token in tokens[first:]]
        if said and said[0].startswith("token_id:") and said != wanted:
            raise UserError.one(
                "openai_engine.TODO",
                f"engine openai: {self.options.base_url}",
                "it scored other tokens than it was given",
                "see its log",
            )
        return [float(value) for value in values]


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """End what is under way; a server that is left while it answers stops answering."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
