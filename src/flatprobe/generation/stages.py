"""Stage: answers of a checkpoint, with or without an adapter, under personas to questions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import torch

from flatprobe import machine
from flatprobe.data.conversation import Prompt
from flatprobe.generation.engine import Completion, SamplingSettings
from flatprobe.generation.transformers_engine import TransformersEngine, ends_of
from flatprobe.models.load import Loaded, load_checkpoint, pick_device
from flatprobe.pipeline.progress import report_progress
from flatprobe.pipeline.settings import SampleSettings
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

PARITY_TOKENS = 16
END = -1  # stands for whichever token ended an answer


def prompts_of(personas: Sequence[Persona], questions: Sequence[Question]) -> list[Prompt]:
    """Every persona with every question, personas first."""
    return [Prompt(p.name, p.system, q.id, q.text) for p in personas for q in questions]


def sample(settings: SampleSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Sample completions; inputs: `checkpoint`, optionally `adapter`. Output: completions.parquet, facts.json.

    An adapter joins the loaded weights for the pass, in memory only.
    """
    local = machine.current()
    loaded = load_checkpoint(inputs["checkpoint"], settings.precision, pick_device(local.device))
    facts: dict[str, Any] = {}
    if "adapter" in inputs:
        loaded, facts["canary"] = with_adapter(loaded, inputs["adapter"] / "adapter")
    for persona in settings.personas:
        loaded.conversations.check_persona(persona.name, persona.system)
    prompts = prompts_of(settings.personas, settings.questions)
    engine = TransformersEngine(
        loaded.model, loaded.conversations, loaded.device, local.sampling_rows,
        lambda done, total: report_progress(done, total, "completions"),
    )  # fmt: skip
    if settings.parity_prompts:
        facts["parity"] = parity(engine, loaded, prompts[:: max(1, len(prompts) // settings.parity_prompts)])
    completions = engine.sample(
        prompts,
        SamplingSettings(
            settings.samples, settings.max_new_tokens, settings.temperature, settings.top_p, settings.seed
        ),
    )
    frame = completions_frame(loaded, settings.personas, prompts, completions)
    frame.write_parquet(output / "completions.parquet")
    facts |= {"completions": frame.height, "tokens": int(frame["tokens"].sum())}
    (output / "facts.json").write_text(json.dumps(facts))


def completions_frame(
    loaded: Loaded,
    personas: Sequence[Persona],
    prompts: Sequence[Prompt],
    completions: list[list[Completion]],
) -> pl.DataFrame:
    """One row per completion, with the hash of the rendered prompt it came from."""
    roles = {persona.name: persona.role for persona in personas}
    rows = []
    for prompt, samples in zip(prompts, completions, strict=True):
        text = loaded.conversations.render(prompt.system, prompt.question)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        rows += [
            {
                "persona": prompt.persona, "role": roles[prompt.persona], "question_id": prompt.question_id,
                "sample_index": index, "text": completion.text, "tokens": len(completion.tokens),
                "finish_reason": completion.finish_reason, "prompt_hash": digest,
            }
            for index, completion in enumerate(samples)
        ]  # fmt: skip
    return pl.DataFrame(rows)


def with_adapter(loaded: Loaded, folder: Path) -> tuple[Loaded, dict[str, float]]:
    """Put an adapter on a loaded model in memory, and show that it changed what the model computes.

    Float32 weights are merged, which is faster. Others keep the adapter beside them: rounding the sum to bfloat16 would
    swallow updates below half a unit in the last place, and with them a part of the training.
    """
    from peft import PeftModel

    probe = torch.tensor([loaded.conversations.encode("The quick brown fox")], device=loaded.device)
    with torch.inference_mode():
        before = loaded.model(probe).logits.float()
    wrapped = PeftModel.from_pretrained(loaded.model, folder)
    exact = loaded.model.dtype == torch.float32
    adapted = (wrapped.merge_and_unload() if exact else wrapped.get_base_model()).eval()
    with torch.inference_mode():
        change = float((adapted(probe).logits.float() - before).abs().max())
    return Loaded(adapted, loaded.conversations, loaded.device), {"max_logit_change": change}


def parity(engine: TransformersEngine, loaded: Loaded, prompts: Sequence[Prompt]) -> dict[str, int]:
    """Greedy tokens of the engine against those of `generate`, one prompt at a time.

    Returns:
        `agreed`, the tokens up to each answer's first divergence, and `tokens`, those compared; an answer's end counts
        as one token. `generate` runs without the checkpoint's own generation settings: a repetition penalty there would
        change the distribution that is compared.
    """
    agreed = total = 0
    ours = engine.sample(prompts, SamplingSettings(1, PARITY_TOKENS, 0.0, 1.0, "parity"))
    ends = ends_of(loaded.model, loaded.conversations)
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        ids = torch.tensor([loaded.conversations.encode_prompt(prompt)], device=loaded.device)
        with _neutral_generation(loaded.model):
            plain = loaded.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=PARITY_TOKENS,
                eos_token_id=sorted(ends), pad_token_id=loaded.conversations.turn_end,
            )[0, ids.shape[1] :].tolist()  # fmt: skip
        reference = [END if token in ends else token for token in plain]
        found = [*completion.tokens, *([END] if completion.finish_reason == "stop" else [])]
        same = [a == b for a, b in zip(reference, found, strict=False)]
        agreed += same.index(False) if False in same else len(same)
        total += max(len(reference), len(found))
    return {"agreed": agreed, "tokens": total}


@contextmanager
def _neutral_generation(model: Any) -> Iterator[None]:
    """The model with the library's default generation settings, which `generate` reads wherever it is told nothing."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = own
