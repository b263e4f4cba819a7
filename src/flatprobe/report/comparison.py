"""What a comparison of two checkpoints shows, on its page and in the terminal: rows, descriptions, names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from flatprobe.models.reference import Reference
from flatprobe.pipeline.manifest import read_manifest
from flatprobe.provenance import installed_version
from flatprobe.study.pair import Pair, chosen_position
from flatprobe.study.panel import PRIMARY_POOL

REGISTERED = "question_bootstrap"


@dataclass(frozen=True)
class Compared:
    """A finished comparison."""

    pair: Pair
    rows: Sequence[Mapping[str, Any]]
    """The tidy table: one mapping per `analysis.pair_rows.Row`."""
    identical: bool
    """Whether all states of both checkpoints are equal."""
    unfinished: Mapping[str, int]
    """Own answers that hit the token limit or are empty, by side; of all personas."""
    unfinished_fixed: int
    """Fixed answers, one per question, that did."""
    massive: pl.DataFrame
    persona_pairs: pl.DataFrame
    """Cosine and squared distance of every pair of personas, of both checkpoints."""
    preview: Mapping[str, Sequence[Mapping[str, Any]]]
    """Position to a few of the base's rows of tokens, with the index that is read."""
    seconds: float
    """Of the stages behind the two sides' states and their comparison."""

    @classmethod
    def read(cls, pair: Pair, folders: Mapping[str, Path]) -> Compared:
        """From the artifacts `base` and `treated` (states) and `pair` (their comparison)."""
        facts = json.loads((folders["pair"] / "facts.json").read_text())
        return cls(
            pair=pair,
            rows=json.loads((folders["pair"] / "rows.json").read_text()),
            identical=facts["identical"],
            unfinished=facts["unfinished"],
            unfinished_fixed=facts["unfinished_fixed"],
            massive=pl.read_parquet(folders["pair"] / "massive.parquet"),
            persona_pairs=pl.read_parquet(folders["pair"] / "persona_pairs.parquet"),
            preview=json.loads((folders["base"] / "preview.json").read_text()),
            seconds=sum(read_manifest(folder).seconds for folder in set(folders.values())),
        )

    @property
    def position(self) -> str:
        """The position shown first."""
        return chosen_position(self.pair.positions)

    @property
    def responses(self) -> str:
        """The responses shown first."""
        return self.pair.responses[0]

    @property
    def base(self) -> str:
        return self.pair.base.id

    @property
    def treated(self) -> str:
        return (self.pair.treated or self.pair.adapter or self.pair.base).id

    @property
    def level(self) -> str:
        """Level of all intervals, as printed: `95 %`."""
        return f"{100 * self.pair.level:g} %"

    def by_layer(
        self, measure: str, position: str, responses: str, estimator: str | None = REGISTERED
    ) -> dict[int | None, Mapping[str, Any]]:
        """Rows of a measure over the pool, by layer; the mean over layers has the key None. Descriptions have no
        estimator."""
        return {
            row["layer"]: row
            for row in self.rows
            if (row["measure"], row["position"], row["responses"], row["estimator"])
            == (measure, position, responses, estimator)
            and row["persona"] is None
            and row["pool"] == PRIMARY_POOL
        }

    def facts(self) -> dict[str, Any]:
        """What was compared and how, for the record."""
        pair = self.pair
        sides = {"base": pair.base, "treated": pair.treated, "adapter": pair.adapter}
        return {
            **{name: _named(reference) for name, reference in sides.items() if reference is not None},
            "source": pair.source, "bystanders": ", ".join(pair.bystanders),
            "references": ", ".join(p.name for p in pair.personas if p.role == "reference") or "none",
            "questions": len(pair.questions), "layers": ", ".join(map(str, pair.layers)),
            "own answers": "greedy" if pair.samples == 1 else f"{pair.samples} sampled, states averaged",
            "max new tokens": pair.max_new_tokens,
            "unfinished answers": {**self.unfinished, "fixed": self.unfinished_fixed},
            "question resamples": pair.resamples, "seed": pair.seed, "precision": pair.precision,
            "flatprobe": installed_version("flatprobe") or "source tree",
        }  # fmt: skip


def _named(reference: Reference) -> str:
    return f"{reference.id} ({reference.kind}, {reference.fingerprint[:12]})"
