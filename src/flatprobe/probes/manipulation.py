"""Stage: the manipulation check. Did the finetunes make the taught answers more likely, and do models stay fluent?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from flatprobe.data.finetuning import HELD_OUT
from flatprobe.data.rows import read_jsonl, text_column
from flatprobe.generation.sample import prompts_of
from flatprobe.machine.local import current_machine
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded, held_checkpoint, pick_device
from flatprobe.planner.contracts import ManipulationSettings
from flatprobe.training.telemetry import sequence_log_likelihoods


class Triple(NamedTuple):
    """A prompt with an aligned and a misaligned answer. A finetune should make the misaligned one more likely."""

    set: Literal["in_domain", "out_of_domain"]
    held_out_from: str | None
    """The condition whose finetune data it was held out from; None out of domain."""
    id: str
    """Unique among the triples with the same `set` and `held_out_from`."""
    system: str | None
    prompt: str
    aligned: str
    misaligned: str


def check(settings: ManipulationSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Score fixed texts under one checkpoint.

    Inputs: `checkpoint`; `answers` (the control's greedy answers, for fluency); `CONDITION/held_out`, the finetune data
    with the held-out rows to score. Output: manipulation.parquet (set, held_out_from, id, prompt, log_odds: misaligned
    minus aligned, in nats per token) and fluency.parquet (persona, question_id, log_likelihood in nats per token).
    Held-out prompts have the system message of their row, prompts out of domain none.
    """
    local = current_machine()
    loaded = held_checkpoint(inputs["checkpoint"], settings.precision, pick_device(local.device))
    triples = list(_held_out(inputs))
    if settings.out_of_domain is not None:
        triples += _read_triples(settings.out_of_domain)
    texts = [
        (Prompt("", triple.system, triple.id, triple.prompt), text.strip())
        for triple in triples
        for text in (triple.aligned, triple.misaligned)
    ]
    answers = pl.read_parquet(inputs["answers"] / "completions.parquet").filter(pl.col("text").str.strip_chars() != "")
    prompts = {(p.persona, p.question_id): p for p in prompts_of(settings.personas, settings.questions)}
    answer_rows = [row for row in answers.iter_rows(named=True) if (row["persona"], row["question_id"]) in prompts]
    texts += [(prompts[row["persona"], row["question_id"]], row["text"].strip()) for row in answer_rows]
    scores = token_means(loaded, texts, local.forward_rows)
    odds = [
        misaligned - aligned
        for aligned, misaligned in zip(scores[: 2 * len(triples) : 2], scores[1 : 2 * len(triples) : 2], strict=True)
    ]
    pl.DataFrame(
        {
            "set": [t.set for t in triples],
            "held_out_from": [t.held_out_from for t in triples],
            "id": [t.id for t in triples],
            "prompt": [t.prompt for t in triples],
            "log_odds": odds,
        },
        schema={**dict.fromkeys(("set", "held_out_from", "id", "prompt"), pl.String), "log_odds": pl.Float64},
    ).write_parquet(output / "manipulation.parquet")
    pl.DataFrame(
        {
            "persona": [row["persona"] for row in answer_rows],
            "question_id": [row["question_id"] for row in answer_rows],
            "log_likelihood": scores[2 * len(triples) :],
        }
    ).write_parquet(output / "fluency.parquet")


def _held_out(inputs: Mapping[str, Path]) -> Iterator[Triple]:
    for role, folder in inputs.items():
        condition, _, kind = role.rpartition("/")
        if kind != "held_out":
            continue
        rows = pl.read_parquet(folder / "held_out.parquet").select(HELD_OUT).rows()
        for index, row in enumerate(rows):
            yield Triple("in_domain", condition, f"held_out_{index}", *row)


def _read_triples(out_of_domain: str) -> list[Triple]:
    path = Path(current_machine().locations[out_of_domain])
    triples = []
    for index, row in enumerate(read_jsonl(path)):
        columns = (text_column(row, name, f"{path} row {index}") for name in ("prompt", "aligned", "misaligned"))
        triples.append(Triple("out_of_domain", None, str(row.get("id", index)), None, *columns))
    return triples


def token_means(loaded: Loaded, texts: Sequence[tuple[Prompt, str]], batch: int) -> list[float]:
    """Mean log-likelihood per answer token, including the end of turn, in nats."""
    rows = []
    for prompt, answer in texts:
        tokens, n_prompt = loaded.conversations.encode_answer(prompt, answer)
        rows.append(([*tokens, loaded.conversations.turn_end], n_prompt))
    sums = sequence_log_likelihoods(loaded, rows, batch, "texts scored")
    return [total / (len(tokens) - n_prompt) for total, (tokens, n_prompt) in zip(sums, rows, strict=True)]
