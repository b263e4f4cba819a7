"""The GPU-hours of a study: its stages' tokens at the measured rates, against what was proposed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from registered.results import Results
from registered.workload import Lengths, Work, stages_of, work_of

from flatprobe import console
from flatprobe.study.loaded import LoadedStudy

PROPOSED = 7.0  # GPU-hours: 6 for coupling and leakage, half an hour for the geometry, rounded up
HOUR = 3600.0
COLUMNS = ("stages", "number", "of each", "tokens of one", "tokens", "tokens/s", "of", "GPU-h")
ARMS = {
    "own": "geometry", "states": "geometry", "finetune": "finetunes and their check",
    "manipulation": "finetunes and their check",
}  # fmt: skip
"""Kind of stage to the arm of the study that pays for it; all others are "coupling and leakage"."""
RIGHT = ("number", "tokens of one", "tokens", "tokens/s", "GPU-h")


def show_hours(results: Results, loaded: LoadedStudy, lengths: Lengths) -> None:
    """One line per kind of stage: number x what each takes x tokens of one / (tokens/s) / 3,600."""
    stages = stages_of(loaded)
    work = work_of(stages, loaded, lengths)
    console.say()
    console.say(f"GPU-hours of {loaded.path}", style="bold")
    console.say(
        f"Tokens on average: prompt {lengths.prompt:.0f} (the panel's), answer {lengths.answer:g} (assumed), "
        f"finetune row {lengths.finetune_prompt:g} + {lengths.finetune_answer:g} (assumed), "
        f"separator, marker and end of turn {lengths.marker:g}; rows of a negative: {lengths.negative_rows}."
    )
    rows, hours, missing = [], dict[str, float](), set[str]()
    for (kind, part, what, count, each), number in _grouped(work).items():
        best = results.best(part)
        rate = best.tokens_per_second if best else None
        tokens = number * count * each
        if best is None or rate is None:
            missing.add(part)
        else:
            hours[kind] = hours.get(kind, 0.0) + tokens / rate / HOUR
        rows.append((
            kind, str(number), what, f"{each:,.0f}", f"{tokens:,.0f}", f"{rate:,.0f}" if rate else "–",
            f"{part}, {best.rows} rows" if best else f"{part}: not measured",
            f"{tokens / rate / HOUR:.3f}" if rate else "–",
        ))  # fmt: skip
    console.table(COLUMNS, rows, right=RIGHT)
    _show_total(hours, missing)
    _show_rest(stages, work)


def _grouped(work: Sequence[Work]) -> dict[tuple[str, str, str, float, float], int]:
    """How many stages of a kind do the same, in the plan's order."""
    return dict(Counter((one.kind, one.part, one.what, one.count, one.each) for one in work))


def _show_total(hours: dict[str, float], missing: set[str]) -> None:
    arms = defaultdict[str, float](float)
    for kind, spent in hours.items():
        arms[ARMS.get(kind.partition(",")[0], "coupling and leakage")] += spent
    total = sum(hours.values())
    parts = " + ".join(f"{name} {spent:.2f}" for name, spent in arms.items())
    if missing:
        console.say(f"Total without {', '.join(sorted(missing))}, not measured: {total:.2f} GPU-h ({parts}).")
    else:
        share = f"{total / PROPOSED:.0%} of the proposal's {PROPOSED:g}"
        console.say(f"Total: {parts} = {total:.2f} GPU-h, {share} (which count no finetune).")


def _show_rest(stages: Sequence[object], work: Sequence[Work]) -> None:
    """What the total leaves out."""
    counted = {one.kind.partition(",")[0] for one in work}
    names = Counter(str(getattr(stage, "name", "")).partition("/")[0] for stage in stages)
    rest = ", ".join(f"{name} ({number})" for name, number in names.items() if name not in counted)
    console.say(
        f"Not counted: {rest}; loading of weights; the parity checks. Passes without gradients (telemetry, "
        "binding, manipulation) are taken at the geometry pass's rate, though that one shares prefixes and stops "
        "at its last layer. Sampling is measured with all rows busy: rows that wait for a stage's longest answers "
        "cost more."
    )
