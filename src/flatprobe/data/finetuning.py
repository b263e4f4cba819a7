"""Stage: the training rows of one finetune, in file order, length-matched if the study asks for it."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flatprobe.data.rows import Messages, conversation_of, read_rows, text_column
from flatprobe.errors import UserError
from flatprobe.facts import FinetuneDataFacts, write_facts
from flatprobe.machine.local import current_machine
from flatprobe.models.conversation import Conversations
from flatprobe.models.load import checkpoint_path, load_tokenizer
from flatprobe.planner.contracts import FinetuneDataSettings
from flatprobe.study.resources import PREFIX, data_file
from flatprobe.study.schema import FinetuneData

BIN = 8  # tokens per bin of the response-length histogram
HELD_OUT = ("system", "prompt", "aligned", "misaligned")
"""Columns of the held-out texts. A null system means no system message."""
QUANTILES = {"min": 0, "q25": 25, "median": 50, "q75": 75, "max": 100}


@dataclass(frozen=True)
class ChatRow:
    """One training conversation."""

    messages: Messages
    response_tokens: int
    reference: Messages | None = None
    """For imitated answers: the same answer under the imitated persona's prompt."""


def local_path(data: FinetuneData, fingerprint: str | None) -> Path | None:
    """The path of a local data set on this machine; None for a hub dataset."""
    if data.path is None:
        return None
    if data.path.startswith(PREFIX):
        return data_file(data.path, Path())
    return Path(current_machine().locations[str(fingerprint)])


def prepare(settings: FinetuneDataSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Take the training rows, and hold rows out for the manipulation check.

    Inputs: `checkpoint` (its tokenizer and template); `length_reference` (another finetune's data), if lengths are
    matched.
    Output: rows.parquet (messages as JSON, response_tokens), held_out.parquet (`HELD_OUT`, without system messages),
    facts.json (counts, hash, first rows, quantiles of lengths).

    Raises:
        UserError: a column is missing, or there are fewer usable rows than requested.
    """
    data = settings.data
    path = checkpoint_path(inputs["checkpoint"])
    conversations = Conversations(load_tokenizer(path), path.name)
    rows = read_rows(data, local_path(data, settings.fingerprint))
    name = data.path or str(data.dataset)
    held_out = [_triple(row, data, f"{name} row {i}") for i, row in enumerate(islice(rows, data.held_out))]
    quota: Counter[int] | None = None
    if "length_reference" in inputs:
        reference = pl.read_parquet(inputs["length_reference"] / "rows.parquet")["response_tokens"].to_numpy()
        quota = Counter((reference // BIN).tolist())
    counts: Counter[str] = Counter()
    training_rows = take(_usable(rows, settings, conversations, name, counts), data.rows, quota, counts)
    if len(training_rows) < data.rows:
        raise UserError.one(
            "finetune_data.too_few_rows",
            name,
            f"{len(training_rows)} usable rows, {data.rows} requested ({dict(counts)})",
            "lower `rows` or add data",
        )
    facts = {"name": name, "subset": data.subset, "revision": data.revision, "licence": licence(data), **counts}
    write(training_rows, [{"system": None, **row} for row in held_out], facts, output)


def write(
    rows: Sequence[ChatRow], held_out: Sequence[Mapping[str, str | None]], facts: Mapping[str, Any], output: Path
) -> None:
    """Write rows.parquet, held_out.parquet and facts.json of a finetune's data."""
    messages = [json.dumps(row.messages, sort_keys=True) for row in rows]
    tokens = np.array([row.response_tokens for row in rows])
    references = [None if row.reference is None else json.dumps(row.reference, sort_keys=True) for row in rows]
    pl.DataFrame(
        {"messages": messages, "response_tokens": tokens, "reference": references},
        schema_overrides={"reference": pl.String},
    ).write_parquet(output / "rows.parquet")
    pl.DataFrame(held_out, schema=dict.fromkeys(HELD_OUT, pl.String)).write_parquet(output / "held_out.parquet")
    names, values = zip(*QUANTILES.items(), strict=True)
    summary = {
        "rows": len(rows),
        "held_out": len(held_out),
        "sha256": hashlib.sha256("\n".join(messages).encode()).hexdigest(),
        "response_tokens": dict(zip(names, np.percentile(tokens, values).tolist(), strict=True)),
        "first_rows": [row.messages for row in rows[:2]],
    }
    write_facts(output, FinetuneDataFacts(**{**facts, **summary}))


def take(rows: Iterator[ChatRow], size: int, quota: Counter[int] | None, counts: Counter[str]) -> list[ChatRow]:
    """The first `size` rows, or rows with the length distribution of `quota`.

    `quota` counts rows per length bin and is scaled to `size`. Rows of a full bin are spare. If the data end too early,
    the spare rows closest to the quota's mean length fill up, and `counts["off_target"]` is their number. No more spare
    rows are held in memory than could still be needed.
    """
    if quota is None:
        return list(islice(rows, size))
    room = apportion(quota, size)
    chosen: list[ChatRow] = []
    centre = sum(bin_ * count for bin_, count in quota.items()) / sum(quota.values())
    spare: list[tuple[float, int, ChatRow]] = []  # a heap; on top the row farthest from the centre, then the latest
    for index, row in enumerate(rows):
        bin_ = row.response_tokens // BIN
        if room[bin_] > 0:
            room[bin_] -= 1
            chosen.append(row)
        else:
            heapq.heappush(spare, (-abs(row.response_tokens / BIN - centre), -index, row))
        if len(chosen) == size:
            return chosen
        if len(spare) > size - len(chosen):
            heapq.heappop(spare)
    counts["off_target"] = len(spare)
    return chosen + [row for _, _, row in sorted(spare, key=lambda item: item[:2], reverse=True)]


def apportion(quota: Counter[int], size: int) -> Counter[int]:
    """The quota scaled to a sum of `size` by the largest-remainder method (ties: the lower bin)."""
    total = sum(quota.values())
    room = Counter({bin_: count * size // total for bin_, count in quota.items()})
    by_remainder = sorted(quota, key=lambda bin_: (-(quota[bin_] * size % total), bin_))
    room.update(by_remainder[: size - sum(room.values())])
    return room


def _usable(
    rows: Iterator[Mapping[str, Any]],
    settings: FinetuneDataSettings,
    conversations: Conversations,
    name: str,
    counts: Counter[str],
) -> Iterator[ChatRow]:
    """Rows with a prompt and an answer of allowed length. `counts` receives the numbers of scanned and refused rows."""
    for index, row in enumerate(rows):
        counts["scanned"] += 1
        messages = conversation_of(row, settings.data, f"{name} row {settings.data.held_out + index}")
        if len(messages) < 2 or not messages[-1]["content"].strip():
            counts["refused_empty"] += 1
            continue
        tokens, n_prompt = conversations.encode_messages(messages)
        if len(tokens) > settings.max_length:
            counts["refused_too_long"] += 1
            continue
        yield ChatRow(messages, len(tokens) - n_prompt)


def _triple(row: Mapping[str, Any], data: FinetuneData, place: str) -> dict[str, str]:
    if data.aligned is None:
        raise UserError.one("finetune_data.no_aligned", place, "`held_out` rows need the name of the `aligned` column")
    columns = {"prompt": data.prompt, "aligned": data.aligned, "misaligned": data.completion}
    return {name: text_column(row, column, place) for name, column in columns.items()}


def licence(data: FinetuneData) -> str:
    """The licence that the data set states at the used revision."""
    if data.path is not None:
        return "CC0-1.0" if data.path.startswith(PREFIX) else "local file: licence unknown"
    from huggingface_hub import DatasetCard, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        card = hf_hub_download(str(data.dataset), "README.md", repo_type="dataset", revision=data.revision)
        return str(DatasetCard.load(card).data.get("license", "not stated"))
    except (HfHubHTTPError, OSError, ValueError):
        return "unknown: the dataset card could not be read"
