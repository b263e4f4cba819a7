"""Stage: answers of a checkpoint, with or without an adapter, under personas to questions."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flatprobe.errors import UserError
from flatprobe.generation.canary import Canary, canary_facts
from flatprobe.generation.engine import Engine, Request, SamplingSettings
from flatprobe.generation.open_engine import opened
from flatprobe.generation.saved_completions import Chunks, Sampled, key_of
from flatprobe.machine import local as machine
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.pipeline import resume
from flatprobe.pipeline.manifest import Damaged, read_manifest
from flatprobe.pipeline.progress import report_progress
from flatprobe.plan.contracts import SampleSettings
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

DIGITS = 16  # of a prompt's SHA-256


def prompts_of(personas: Sequence[Persona], questions: Sequence[Question]) -> list[Prompt]:
    """Every persona with every question, personas first."""
    return [Prompt(p.name, p.system, q.id, q.text) for p in personas for q in questions]


def sample(settings: SampleSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Sample completions; inputs: `checkpoint`, optionally `adapter`.

    Output: completions.parquet, a row per completion; prompts.parquet, the rendered text behind each prompt hash;
    facts.json. Completions are kept as they finish: an attempt that was killed is gone on from.
    """
    local = machine.current()
    require_same_base(inputs)
    adapter = inputs["adapter"] / "adapter" if "adapter" in inputs else None
    prompts = prompts_of(settings.personas, settings.questions)
    with opened(inputs["checkpoint"], settings.precision, local, adapter) as (engine, conversations):
        check(settings, conversations)
        checks = _Checks(settings, inputs["checkpoint"], adapter, local, conversations, prompts)
        facts = checks.before(engine)
        rows = complete(engine, prompts, settings)
        facts |= checks.after(engine)
        facts |= _counts(rows, settings) | {"engine": engine.facts()}
    texts = {prompt: conversations.render(prompt.system, prompt.question) for prompt in prompts}
    completions_frame(settings.personas, prompts, rows, texts).write_parquet(output / "completions.parquet")
    prompts_frame(texts).write_parquet(output / "prompts.parquet")
    (output / "facts.json").write_text(json.dumps(facts))


def check(settings: SampleSettings, conversations: Conversations) -> None:
    """Look for what would spoil every completion.

    Raises:
        UserError: the template rewrites a persona's prompt, or the tokenizer cannot write the text to stop at.
    """
    for persona in settings.personas:
        conversations.check_persona(persona.name, persona.system)
    wanted = settings.stop_at
    if wanted is not None and wanted not in conversations.decode(conversations.encode(wanted)):
        raise UserError.one(
            "generation.TODO",
            "leakage.marker",
            f"the tokenizer of {conversations.name} cannot write {wanted!r}",
            "choose another",
        )


def require_same_base(inputs: Mapping[str, Path]) -> None:
    """Assert that an adapter was trained on the very checkpoint that it is used with, as far as records say.

    Raises:
        UserError: it was trained on another.
    """
    if "adapter" not in inputs:
        return
    try:
        trained_on = read_manifest(inputs["adapter"]).inputs.get("checkpoint")
        base = read_manifest(inputs["checkpoint"])
    except Damaged:  # not artifacts of a run: their shapes are compared when the adapter is put on
        return
    if trained_on is not None and trained_on.content != base.content:
        raise UserError.one(
            "generation.TODO",
            f"adapter {inputs['adapter']}",
            f"it was trained on another copy of {trained_on.name} than {base.name}, which it is used with",
            "run the study again, so that both are made anew",
        )


def complete(engine: Engine, prompts: Sequence[Prompt], settings: SampleSettings) -> list[Sampled]:
    """All completions, prompts in their order and samples in theirs; those of an earlier attempt are taken over."""
    requests = [Request(prompt, index) for prompt in prompts for index in range(settings.samples)]
    chunks = Chunks(resume.folder())
    missing = [request for request in requests if key_of(request) not in chunks.rows]
    if len(missing) < len(requests):
        sys.stderr.write(f"{len(requests) - len(missing)} completions of an earlier attempt are taken over\n")
    how = SamplingSettings(
        settings.max_new_tokens, settings.temperature, settings.top_p, settings.seed, settings.stop_at
    )
    clock, tokens, label = time.monotonic(), 0, ""
    try:
        for done, (index, completion) in enumerate(engine.stream(missing, how), start=1):
            label = label or _label(engine)
            chunks.add(Sampled.of(missing[index], completion, label))
            tokens += len(completion.tokens)
            seconds = max(time.monotonic() - clock, 1e-9)
            left = seconds / done * (len(missing) - done)
            report_progress(
                len(requests) - len(missing) + done, len(requests),
                f"completions, {tokens / seconds:.0f} tokens/s, {left / 60:.1f} min left",
            )  # fmt: skip
    finally:
        chunks.flush()
    sys.stderr.write(f"{tokens} tokens in {time.monotonic() - clock:.1f} s\n")
    return [chunks.rows[key_of(request)] for request in requests]


def _label(engine: Engine) -> str:
    facts = engine.facts()
    return f"{facts['name']} {facts['version']}"


def _counts(rows: Sequence[Sampled], settings: SampleSettings) -> dict[str, Any]:
    """Sizes, ends, and who sampled: more than one, where the machine file changed between two attempts.

    Where answers were over with a text, how many were, and a bound of what that saved: how long they would have become
    nobody knows, but for the limit.
    """
    found = {
        "completions": len(rows), "tokens": sum(row.tokens for row in rows),
        "finish": dict(Counter(row.finish_reason for row in rows)),
        "sampled_by": dict(Counter(row.engine for row in rows)),
    }  # fmt: skip
    if settings.stop_at is not None:
        decided = [row.tokens for row in rows if row.finish_reason == "marker"]
        saved = sum(settings.max_new_tokens - tokens for tokens in decided)
        found["decided_early"] = {
            "completions": len(decided), "tokens": sum(decided), "tokens_saved_at_most": saved
        }  # fmt: skip
        sys.stderr.write(f"{len(decided)} completions were decided early: {saved} tokens saved at most\n")
    return found


def completions_frame(
    personas: Sequence[Persona],
    prompts: Sequence[Prompt],
    rows: Sequence[Sampled],
    texts: Mapping[Prompt, str],
) -> pl.DataFrame:
    """One row per completion, with the hash of the rendered prompt it came from."""
    roles = {persona.name: persona.role for persona in personas}
    digests = {(prompt.persona, prompt.question_id): digest(texts[prompt]) for prompt in prompts}
    return pl.DataFrame(
        [
            {
                "persona": row.persona, "role": roles[row.persona], "question_id": row.question_id,
                "sample_index": row.sample_index, "text": row.text, "tokens": row.tokens,
                "finish_reason": row.finish_reason, "prompt_hash": digests[row.persona, row.question_id],
                "engine": row.engine,
            }
            for row in rows
        ]
    )  # fmt: skip


def prompts_frame(texts: Mapping[Prompt, str]) -> pl.DataFrame:
    """One row per cell: the rendered prompt, word for word, and its hash."""
    return pl.DataFrame(
        {
            "prompt_hash": [digest(text) for text in texts.values()],
            "persona": [prompt.persona for prompt in texts],
            "question_id": [prompt.question_id for prompt in texts],
            "prompt": list(texts.values()),
        }
    )


def digest(text: str) -> str:
    """The first digits of a rendered prompt's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


class _Checks:
    """What is compared before and after sampling; `before` leaves the adapter on."""

    def __init__(
        self,
        settings: SampleSettings,
        checkpoint: Path,
        adapter: Path | None,
        local: machine.Local,
        conversations: Conversations,
        prompts: Sequence[Prompt],
    ) -> None:
        self.settings, self.checkpoint, self.adapter, self.local = settings, checkpoint, adapter, local
        self.canary, self.prompts = Canary.of(conversations, prompts), prompts

    def before(self, engine: Engine) -> dict[str, Any]:
        """Facts of the parity check, where the stage asks for it."""
        answers = self._plain_answers()
        if self.adapter is not None:
            self.base = self.canary.read(engine)
            engine.use(self.adapter)
            self.adapted = self.canary.read(engine)
        if not answers:
            return {}
        from flatprobe.generation.parity import parity

        return {"parity": parity(engine, answers)}

    def after(self, engine: Engine) -> dict[str, Any]:
        """Facts of the canary, where there is an adapter; it is taken off."""
        if self.adapter is None:
            return {}
        engine.use(None)
        return {"canary": canary_facts(self.base, self.adapted, self.canary.read(engine))}

    def _plain_answers(self) -> list[Any]:
        """The reference of the parity check, computed by the plain model on this machine."""
        count = self.settings.parity_prompts
        if not count:
            return []
        from flatprobe.generation.parity import plain_answers
        from flatprobe.models.load import held_checkpoint, pick_device

        loaded = held_checkpoint(self.checkpoint, self.settings.precision, pick_device(self.local.device))
        chosen = self.prompts[:: max(1, len(self.prompts) // count)]
        return plain_answers(loaded, chosen, self.adapter)
