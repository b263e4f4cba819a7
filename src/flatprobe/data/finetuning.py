"""Stage: the rows of one finetune, taken in file order, length-matched where the study says so."""

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
from flatprobe.machine.local import current_machine
from flatprobe.models.conversation import Conversations
from flatprobe.models.load import checkpoint_path, load_tokenizer
from flatprobe.plan.contracts import FinetuneDataSettings
from flatprobe.study.resources import PREFIX, data_file
from flatprobe.study.schema import FinetuneData

BIN = 8  # tokens per bin of the response-length histogram
HELD_OUT = ("system", "prompt", "aligned", "misaligned")
"""Columns of the texts that are held out; a null system is no system message."""
QUANTILES = {"min": 0, "q25": 25, "median": 50, "q75": 75, "max": 100}


@dataclass(frozen=True)
class ChatRow:
    messages: Messages
    response_tokens: int
    reference: Messages | None = None
    """The same answer as it was given, under its giver's prompt; of imitated answers only."""


def local_path(data: FinetuneData, fingerprint: str | None) -> Path | None:
    """Where a local set lies on this machine; None for a hub dataset."""
    if data.path is None:
        return None
    if data.path.startswith(PREFIX):
        return data_file(data.path, Path())
    return Path(current_machine().locations[str(fingerprint)])


def prepare(settings: FinetuneDataSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Take rows for training and set rows aside for the manipulation check.

    Inputs: `checkpoint` (for its tokenizer and template), optionally `length_reference` (another set's folder).
    Output: rows.parquet (messages as JSON, response_tokens), held_out.parquet (`HELD_OUT`; no system message),
    facts.json (counts, hash, first rows, length summary).

    Raises:
        UserError: a missing column, or fewer usable rows than asked for.
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
    scanned: Counter[str] = Counter()
    taken = take(_usable(rows, settings, conversations, name, scanned), data.rows, quota, scanned)
    if len(taken) < data.rows:
        raise UserError.one(
            "finetuning.TODO",
            name,
            f"{len(taken)} usable rows, {data.rows} asked for ({dict(scanned)})",
            "lower `rows` or add data",
        )
    facts = {
        "name": name, "subset": data.subset, "revision": data.revision, "licence": licence(data), **scanned,
    }  # fmt: skip
    write(taken, [{"system": None, **row} for row in held_out], facts, output)


def write(
    taken: Sequence[ChatRow],
    held_out: Sequence[Mapping[str, str | None]],
    facts: Mapping[str, Any],
    output: Path,
) -> None:
    """The files of a finetune's data: rows, held-out texts, and facts with counts, hash, first rows and lengths."""
    messages = [json.dumps(row.messages, sort_keys=True) for row in taken]
    tokens = np.array([row.response_tokens for row in taken])
    references = [
        None if row.reference is None else json.dumps(row.reference, sort_keys=True) for row in taken
    ]
    pl.DataFrame(
        {"messages": messages, "response_tokens": tokens, "reference": references},
        schema_overrides={"reference": pl.String},
    ).write_parquet(output / "rows.parquet")
    pl.DataFrame(held_out, schema=dict.fromkeys(HELD_OUT, pl.String)).write_parquet(
        output / "held_out.parquet"
    )
    names, values = zip(*QUANTILES.items(), strict=True)
    described = {
        "rows": len(taken), "held_out": len(held_out),
        "sha256": hashlib.sha256("\n".join(messages).encode()).hexdigest(),
        "response_tokens": dict(zip(names, np.percentile(tokens, values).tolist(), strict=True)),
        "first_rows": [row.messages for row in taken[:2]],
    }  # fmt: skip
    (output / "facts.json").write_text(json.dumps({**facts, **described}))


def take(
    rows: Iterator[ChatRow], wanted: int, quota: Counter[int] | None, scanned: Counter[str]
) -> list[ChatRow]:
    """The first `wanted` rows; with a quota per length bin, those that still fit, then the closest of the others.

    Quotas are scaled to sum to `wanted`; how many rows had to come from a full bin is counted as `off_target`. Of these
    only as many are held as could still be needed, so that a large set may be scanned to its end.
    """
    if quota is None:
        return list(islice(rows, wanted))
    room = apportion(quota, wanted)
    taken: list[ChatRow] = []
    centre = sum(bin_ * count for bin_, count in quota.items()) / sum(quota.values())
    spare: list[
        tuple[float, int, ChatRow]
    ] = []  # a heap, the row farthest from the centre (then the latest) on top
    for index, row in enumerate(rows):
        bin_ = row.response_tokens // BIN
        if room[bin_] > 0:
            room[bin_] -= 1
            taken.append(row)
        else:
            heapq.heappush(spare, (-abs(row.response_tokens / BIN - centre), -index, row))
        if len(taken) == wanted:
            return taken
        if len(spare) > wanted - len(taken):
            heapq.heappop(spare)
    scanned["off_target"] = len(spare)
    return taken + [row for _, _, row in sorted(spare, key=lambda item: item[:2], reverse=True)]


def apportion(quota: Counter[int], wanted: int) -> Counter[int]:
    """The quota scaled to `wanted` in all, by largest remainders (ties to the lower bin)."""
    total = sum(quota.values())
    room = Counter({bin_: count * wanted // total for bin_, count in quota.items()})
    by_remainder = sorted(quota, key=lambda bin_: (-(quota[bin_] * wanted % total), bin_))
    room.update(by_remainder[: wanted - sum(room.values())])
    return room


def _usable(
    rows: Iterator[Mapping[str, Any]],
    settings: FinetuneDataSettings,
    conversations: Conversations,
    name: str,
    scanned: Counter[str],
) -> Iterator[ChatRow]:
    """Rows with a prompt and an answer that fits; a row whose last answer would be cut is refused and counted."""
    for index, row in enumerate(rows):
        scanned["scanned"] += 1
        messages = conversation_of(row, settings.data, f"{name} row {settings.data.held_out + index}")
        if len(messages) < 2 or not messages[-1]["content"].strip():
            scanned["refused_empty"] += 1
            continue
        tokens, n_prompt = conversations.encode_messages(messages)
        if len(tokens) > settings.max_length:
            scanned["refused_too_long"] += 1
            continue
        yield ChatRow(messages, len(tokens) - n_prompt)


def _triple(row: Mapping[str, Any], data: FinetuneData, place: str) -> dict[str, str]:
    if data.aligned is None:
        raise UserError.one("finetuning.TODO", place, "`held_out` rows need the name of the `aligned` column")
    columns = {"prompt": data.prompt, "aligned": data.aligned, "misaligned": data.completion}
    return {name: text_column(row, column, place) for name, column in columns.items()}


def licence(data: FinetuneData) -> str:
    """What the set's licence is, where it says so, at the revision that is used."""
    if data.path is not None:
        return "CC0-1.0" if data.path.startswith(PREFIX) else "local file: yours to know"
    from huggingface_hub import DatasetCard, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        card = hf_hub_download(str(data.dataset), "README.md", repo_type="dataset", revision=data.revision)
        return str(DatasetCard.load(card).data.get("license", "not stated"))
    except (HfHubHTTPError, OSError, ValueError):
        return "unknown: the dataset card could not be read"
