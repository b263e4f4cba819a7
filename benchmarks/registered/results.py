"""What is measured of a stage, the file that it is kept in, and the table of all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flatprobe import console

COLUMNS = (
    "part",
    "rows",
    "runs",
    "seconds",
    "tokens",
    "tokens/s",
    "TFLOP/s",
    "of peak",
    "of copy",
    "peak GB",
)


@dataclass(frozen=True)
class Unit:
    """One timed run of a part: a pass, an optimiser step, or a batch of completions."""

    tokens: float
    seconds: float
    flops: float
    """Of the model as written: 2 a weight and token, 4 a channel and pair of tokens that see one another; where
    gradients go back, as much again for weights and twice as much for attention. Recomputation is not counted."""
    moved: float = 0.0
    """Bytes that cannot stay on the chip: weights once a pass, keys and values once a step. 0: not reckoned."""


@dataclass(frozen=True)
class Measured:
    """One part with so many rows in a pass."""

    part: str
    rows: int
    units: tuple[Unit, ...] = ()
    peak_bytes: float = 0.0
    """Most memory from the first timed run to the last, the model included."""
    failed: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float | None:
        """Median of the runs; None where there is none."""
        return self._median("tokens")

    @property
    def flops_per_second(self) -> float | None:
        return self._median("flops")

    @property
    def moved_per_second(self) -> float | None:
        return self._median("moved")

    def _median(self, what: str) -> float | None:
        if not self.units:
            return None
        return float(np.median([getattr(unit, what) / unit.seconds for unit in self.units]))


@dataclass
class Results:
    """All that is measured so far; `device` holds names, versions and, once measured, the ceilings."""

    device: dict[str, Any]
    found: list[Measured] = field(default_factory=list)

    def add(self, measured: Measured, path: Path) -> None:
        """Keep one more and write all to the file, so that what comes next may fail."""
        self.found.append(measured)
        self.write(path)

    def write(self, path: Path) -> None:
        rows = [
            asdict(one)
            | {
                name: getattr(one, name)
                for name in ("tokens_per_second", "flops_per_second", "moved_per_second")
            }
            for one in self.found
        ]
        partial = path.with_name(f".{path.name}")
        partial.write_text(
            json.dumps({"device": self.device, "found": rows}, indent=1) + "\n", encoding="utf-8"
        )
        partial.rename(path)

    @classmethod
    def read(cls, path: Path) -> Results:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = [
            Measured(
                row["part"], row["rows"], tuple(Unit(**unit) for unit in row["units"]), row["peak_bytes"],
                row["failed"], row["notes"],
            )
            for row in document["found"]
        ]  # fmt: skip
        return cls(document["device"], found)

    def best(self, part: str) -> Measured | None:
        """The fastest of a part, over the rows that were tried."""
        done = [one for one in self.found if one.part == part and one.units]
        return max(done, key=lambda one: one.tokens_per_second or 0.0, default=None)


def show(results: Results) -> None:
    """The device, its ceilings, and what every part reached of them."""
    device = results.device
    console.say(
        ", ".join(f"{name} {value}" for name, value in device.items() if isinstance(value, str | int))
    )
    if "flops" in device:
        console.say(
            f"Ceilings, measured: {device['flops'] / 1e12:.3g} TFLOP/s (square {device['dtype']} matrix product), "
            f"{device['moved'] / 1e9:.3g} GB/s (copy, read and written)."
        )
    console.table(COLUMNS, list(_cells(results)), right=COLUMNS[1:])
    for one in results.found:
        for note in (one.failed, *(f"{name} {value}" for name, value in one.notes.items())):
            if note:
                console.say(f"{one.part}, {one.rows} rows: {note}")


def _cells(results: Results) -> Iterable[tuple[str, ...]]:
    peak, copied = results.device.get("flops"), results.device.get("moved")
    for one in results.found:
        if not one.units:
            yield (one.part, str(one.rows), *["–"] * (len(COLUMNS) - 2))
            continue
        flops, moved = one.flops_per_second or 0.0, one.moved_per_second or 0.0
        yield (
            one.part,
            str(one.rows),
            str(len(one.units)),
            f"{np.median([unit.seconds for unit in one.units]):.3g}",
            f"{np.median([unit.tokens for unit in one.units]):,.0f}",
            f"{one.tokens_per_second:,.0f}",
            f"{flops / 1e12:.3g}",
            f"{flops / peak:.1%}" if peak else "–",
            f"{moved / copied:.1%}" if copied and moved else "–",
            f"{one.peak_bytes / 1e9:.2f}",
        )
