"""Timed parts of the registered study, their JSON file, and their table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flatprobe import console

COLUMNS = ("part", "rows", "runs", "seconds", "tokens", "tokens/s", "TFLOP/s", "of peak", "of copy", "peak GB")
RATES = ("tokens_per_second", "flops_per_second", "moved_per_second")


@dataclass(frozen=True)
class Unit:
    """One timed run of a part: a pass, an optimiser step, or a batch of completions."""

    tokens: float
    seconds: float
    flops: float
    """Of the model as defined: 2 per weight and token, 4 per channel and pair of tokens that attend. A backward pass
    adds as much again for weights and twice as much for attention. Recomputation is not counted."""
    moved: float = 0.0
    """Bytes that cannot stay on the chip: weights once per pass, keys and values once per step. 0: not computed."""


@dataclass(frozen=True)
class Measured:
    """One part with a number of rows per pass."""

    part: str
    rows: int
    units: tuple[Unit, ...] = ()
    peak_bytes: float = 0.0
    """Most memory between the first and last timed run, with the model."""
    failed: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float | None:
        """Median of the runs; None without runs."""
        return self._median("tokens")

    @property
    def flops_per_second(self) -> float | None:
        return self._median("flops")

    @property
    def moved_per_second(self) -> float | None:
        return self._median("moved")

    def _median(self, quantity: str) -> float | None:
        if not self.units:
            return None
        return float(np.median([getattr(unit, quantity) / unit.seconds for unit in self.units]))


@dataclass
class Results:
    """All parts measured so far; `device` holds names, versions and, once measured, the ceilings."""

    device: dict[str, Any]
    parts: list[Measured] = field(default_factory=list)

    def add(self, measured: Measured, path: Path) -> None:
        """Add a part and write the file, so that nothing is lost if a later part fails."""
        self.parts.append(measured)
        self.write(path)

    def write(self, path: Path) -> None:
        rows = [asdict(part) | {name: getattr(part, name) for name in RATES} for part in self.parts]
        partial = path.with_name(f".{path.name}")
        content = {"device": self.device, "found": rows}
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.rename(path)

    @classmethod
    def read(cls, path: Path) -> Results:
        document = json.loads(path.read_text(encoding="utf-8"))
        parts = [
            Measured(
                part=row["part"],
                rows=row["rows"],
                units=tuple(Unit(**unit) for unit in row["units"]),
                peak_bytes=row["peak_bytes"],
                failed=row["failed"],
                notes=row["notes"],
            )
            for row in document["found"]
        ]
        return cls(document["device"], parts)

    def best(self, part: str) -> Measured | None:
        """The fastest measurement of a part, over the numbers of rows."""
        measured = [one for one in self.parts if one.part == part and one.units]
        return max(measured, key=lambda one: one.tokens_per_second or 0.0, default=None)


def show(results: Results) -> None:
    """The device, its ceilings, and the share of them that every part reached."""
    device = results.device
    facts = [f"{name} {value}" for name, value in device.items() if isinstance(value, str | int)]
    console.say(", ".join(facts))
    if "flops" in device:
        console.say(
            f"Ceilings, measured: {device['flops'] / 1e12:.3g} TFLOP/s (square {device['dtype']} matrix product), "
            f"{device['moved'] / 1e9:.3g} GB/s (copy, read and written)."
        )
    console.table(COLUMNS, list(_cells(results)), right=COLUMNS[1:])
    for part in results.parts:
        for note in (part.failed, *(f"{name} {value}" for name, value in part.notes.items())):
            if note:
                console.say(f"{part.part}, {part.rows} rows: {note}")


def _cells(results: Results) -> Iterable[tuple[str, ...]]:
    peak, copied = results.device.get("flops"), results.device.get("moved")
    for part in results.parts:
        if not part.units:
            yield (part.part, str(part.rows), *["–"] * (len(COLUMNS) - 2))
            continue
        flops, moved = part.flops_per_second or 0.0, part.moved_per_second or 0.0
        yield (
            part.part,
            str(part.rows),
            str(len(part.units)),
            f"{np.median([unit.seconds for unit in part.units]):.3g}",
            f"{np.median([unit.tokens for unit in part.units]):,.0f}",
            f"{part.tokens_per_second:,.0f}",
            f"{flops / 1e12:.3g}",
            f"{flops / peak:.1%}" if peak else "–",
            f"{moved / copied:.1%}" if copied and moved else "–",
            f"{part.peak_bytes / 1e9:.2f}",
        )
