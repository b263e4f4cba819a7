"""Stage: sample a checkpoint's answers, with or without an adapter, under personas to questions."""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from flatprobe.errors import UserError
from flatprobe.facts import CanaryFacts, Parity, SampleFacts, write_facts
from flatprobe.generation.canary import Canary, canary_facts
from flatprobe.generation.engine import CompletionRequest, Engine, SamplingSettings
from flatprobe.generation.open_engine import open_engine
from flatprobe.generation.saved_completions import CompletionStore, SavedCompletion, frame_of, key_of
from flatprobe.machine.local import Local, current_machine
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.pipeline import resume
from flatprobe.pipeline.manifest import Damaged, read_manifest
from flatprobe.pipeline.progress import report_progress
from flatprobe.planner.contracts import SampleSettings
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

DIGITS = 16  # of a prompt's SHA-256


def prompts_of(personas: Sequence[Persona], questions: Sequence[Question]) -> list[Prompt]:
    """Every persona with every question, ordered by persona."""
    return [Prompt(p.name, p.system, q.id, q.text) for p in personas for q in questions]


def sample(settings: SampleSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Sample completions. Inputs: `checkpoint`, optionally `adapter`.

    Output: completions.parquet, one row per completion; prompts.parquet, the rendered text behind each prompt hash;
    facts.json. Completions are saved as they finish, so a killed attempt can be resumed.
    """
    local = current_machine()
    require_same_base(inputs)
    adapter = inputs["adapter"] / "adapter" if "adapter" in inputs else None
    prompts = prompts_of(settings.personas, settings.questions)
    with open_engine(inputs["checkpoint"], settings.precision, local, adapter) as (engine, conversations):
        check(settings, conversations)
        checks = _EngineChecks(settings, inputs["checkpoint"], adapter, local, conversations, prompts)
        parity = checks.before(engine)
        rows = complete(engine, prompts, settings)
        canary = checks.after(engine)
        facts = SampleFacts(**_counts(rows, settings), engine=engine.facts(), parity=parity, canary=canary)
    texts = {prompt: conversations.render(prompt.system, prompt.question) for prompt in prompts}
    completions_frame(settings.personas, rows, texts).write_parquet(output / "completions.parquet")
    prompts_frame(texts).write_parquet(output / "prompts.parquet")
    write_facts(output, facts)


def check(settings: SampleSettings, conversations: Conversations) -> None:
    """Check for faults that would spoil every completion.

    Raises:
        UserError: the template rewrites a persona's prompt, or the tokenizer cannot encode the text to stop at.
    """
    for persona in settings.personas:
        conversations.check_persona(persona.name, persona.system)
    text = settings.stop_at
    if text is not None and text not in conversations.decode(conversations.encode(text)):
        raise UserError.one(
            "marker.tokenizer",
            "leakage.marker",
            f"the tokenizer of {conversations.name} cannot encode {text!r}",
            "choose another marker",
        )


def require_same_base(inputs: Mapping[str, Path]) -> None:
    """Assert that an adapter's manifest names the checkpoint it is used with. Without manifests nothing is checked.

    Raises:
        UserError: it was trained on another checkpoint.
    """
    if "adapter" not in inputs:
        return
    try:
        trained_on = read_manifest(inputs["adapter"]).inputs.get("checkpoint")
        base = read_manifest(inputs["checkpoint"])
    except Damaged:  # not artifacts of a run: the engine compares their shapes
        return
    if trained_on is not None and trained_on.content != base.content:
        raise UserError.one(
            "adapter.other_base",
            f"adapter {inputs['adapter']}",
            f"it was trained on another copy of {trained_on.name} than {base.name}, which it is used with",
            "run the study again: it makes both anew",
        )


def complete(engine: Engine, prompts: Sequence[Prompt], settings: SampleSettings) -> list[SavedCompletion]:
    """All completions in the order of prompts, then samples. Reuses those of an earlier attempt."""
    requests = [CompletionRequest(prompt, index) for prompt in prompts for index in range(settings.samples)]
    store = CompletionStore(resume.folder())
    missing = [request for request in requests if key_of(request) not in store.rows]
    reused = len(requests) - len(missing)
    if reused:
        sys.stderr.write(f"reusing {reused} completions of an earlier attempt\n")
    sampling = SamplingSettings(
        settings.max_new_tokens, settings.temperature, settings.top_p, settings.seed, settings.stop_at
    )
    start, tokens, label = time.monotonic(), 0, ""
    try:
        for done, (index, completion) in enumerate(engine.stream(missing, sampling), start=1):
            label = label or _label(engine)
            store.add(SavedCompletion.of(missing[index], completion, label))
            tokens += len(completion.tokens)
            seconds = max(time.monotonic() - start, 1e-9)
            minutes_left = seconds / done * (len(missing) - done) / 60
            note = f"completions, {tokens / seconds:.0f} tokens/s, {minutes_left:.1f} min left"
            report_progress(reused + done, len(requests), note)
    finally:
        store.flush()
    sys.stderr.write(f"{tokens} tokens in {time.monotonic() - start:.1f} s\n")
    return [store.rows[key_of(request)] for request in requests]


def _label(engine: Engine) -> str:
    facts = engine.facts()
    return f"{facts['name']} {facts['version']}"


def _counts(rows: Sequence[SavedCompletion], settings: SampleSettings) -> dict[str, Any]:
    """Numbers of completions and tokens, by how they ended and by engine: attempts may have used different ones.

    With a text to stop at, also an upper bound of the tokens saved: the limit minus the tokens sampled. How long these
    answers would have become is unknown.
    """
    counts = {
        "completions": len(rows),
        "tokens": sum(row.tokens for row in rows),
        "finish": dict(Counter(row.finish_reason for row in rows)),
        "sampled_by": dict(Counter(row.engine for row in rows)),
    }
    if settings.stop_at is not None:
        stopped = [row.tokens for row in rows if row.finish_reason == "marker"]
        saved = sum(settings.max_new_tokens - tokens for tokens in stopped)
        counts["decided_early"] = {"completions": len(stopped), "tokens": sum(stopped), "tokens_saved_at_most": saved}
        sys.stderr.write(f"{len(stopped)} completions stopped at the marker, saving at most {saved} tokens\n")
    return counts


def completions_frame(
    personas: Sequence[Persona], rows: Sequence[SavedCompletion], texts: Mapping[Prompt, str]
) -> pl.DataFrame:
    """One row per completion, with its persona's role and the hash of its rendered prompt."""
    roles = {persona.name: persona.role for persona in personas}
    hashes = {(prompt.persona, prompt.question_id): digest(text) for prompt, text in texts.items()}
    frame = frame_of(rows)
    role = pl.Series("role", [roles[row.persona] for row in rows])
    prompt_hash = pl.Series("prompt_hash", [hashes[row.persona, row.question_id] for row in rows])
    return frame.select(
        "persona", role, "question_id", "sample_index", "text", "tokens", "finish_reason", prompt_hash, "engine"
    )


def prompts_frame(texts: Mapping[Prompt, str]) -> pl.DataFrame:
    """One row per cell: the rendered prompt and its hash."""
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


class _EngineChecks:
    """Parity and canary, run around sampling. `before` leaves the adapter attached."""

    def __init__(
        self,
        settings: SampleSettings,
        checkpoint: Path,
        adapter: Path | None,
        local: Local,
        conversations: Conversations,
        prompts: Sequence[Prompt],
    ) -> None:
        self.settings, self.checkpoint, self.adapter, self.local = settings, checkpoint, adapter, local
        self.canary, self.prompts = Canary.of(conversations, prompts), prompts

    def before(self, engine: Engine) -> Parity | None:
        """Facts of the parity check, if the stage asks for it."""
        reference = self._reference()
        if self.adapter is not None:
            self.base = self.canary.read(engine)
            engine.use(self.adapter)
            self.adapted = self.canary.read(engine)
        if not reference:
            return None
        from flatprobe.generation.parity import parity

        return Parity(**parity(engine, reference))

    def after(self, engine: Engine) -> CanaryFacts | None:
        """Facts of the canary, if there is an adapter. Removes the adapter."""
        if self.adapter is None:
            return None
        engine.use(None)
        return canary_facts(self.base, self.adapted, self.canary.read(engine))

    def _reference(self) -> list[Any]:
        """Answers of the plain `transformers` model on this machine, for the parity check."""
        count = self.settings.parity_prompts
        if not count:
            return []
        from flatprobe.generation.parity import plain_answers
        from flatprobe.models.load import held_checkpoint, pick_device

        loaded = held_checkpoint(self.checkpoint, self.settings.precision, pick_device(self.local.device))
        every = max(1, len(self.prompts) // count)
        return plain_answers(loaded, self.prompts[::every], self.adapter)
