"""The full simulation: size, power and coverage of every estimator, and the rates of each verdict.

    python benchmarks/simulation.py --write docs/simulation.md

takes some minutes on two cores and replaces the text between the page's markers. `flatprobe simulate` runs smaller
or other grids.
"""

from __future__ import annotations

import argparse
import os
import time
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from flatprobe import console
from page_markers import around

if TYPE_CHECKING:
    from flatprobe.simulation.grid import Grid, Simulated

BEGIN, END = "<!-- simulation: begin -->", "<!-- simulation: end -->"


def main() -> None:
    """Simulate, and print the tables or write them into a page."""
    # Imported here: every worker imports this file again before it is limited to one thread.
    from flatprobe.simulation.grid import Grid, simulate

    options = _options()
    page = None if options.write is None else around(options.write, BEGIN, END)
    grid = Grid(studies=options.studies, resamples=options.resamples, seed=options.seed)
    start = time.perf_counter()
    simulated = simulate(grid, options.jobs)
    console.say(f"{time.perf_counter() - start:.0f} s with {options.jobs} processes")
    text = _report(grid, simulated)
    if page is None:
        console.say(text)
    else:
        before, after = page
        options.write.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies per cell of the grid")
    parser.add_argument("--resamples", type=int, default=2000, help="2000 are enough for p < .001")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", type=Path, help="a page with the two markers")
    return parser.parse_args()


def _report(grid: Grid, simulated: Simulated) -> str:
    from flatprobe.simulation.table import joint_table, markdown

    size, margin = grid.size, grid.rule.behaviour.margin
    parts = [
        f"{grid.studies} studies per number, each of {size.personas} bystanders × {size.questions} questions × "
        f"{size.completions} completions with {grid.resamples} resamples; seed {grid.seed}. Monte Carlo standard "
        "errors in brackets. – means that the number does not exist: the test has no interval, or no p-value of "
        "the design can be below the level.\n",
        "### Size: share of null studies rejected\n",
        _table(simulated, 0.0, ("p < .05", "rejected_05"), ("p < .001", "rejected_001")),
        "### Coverage: share of 95 % intervals that contain the truth, difference 0\n",
        _table(simulated, 0.0, ("population", "coverage"), ("own scope", "own_coverage")),
    ]
    for truth in (truth for truth in grid.truths if truth != 0):
        parts += [
            f"### Difference of {100 * truth:g} pp: share of studies rejected\n",
            _table(simulated, truth, ("p < .05", "rejected_05"), ("p < .001", "rejected_001")),
            f"### Difference of {100 * truth:g} pp: intervals that contain it, and superiority to {100 * margin:g} pp "
            "at .05\n",
            _table(simulated, truth, ("population", "coverage"), ("superior", "superior_05")),
        ]
    parts += ["### Joint verdict under the registered rule\n", markdown(joint_table(simulated.joint))]
    return "\n".join(parts)


def _table(simulated: Simulated, truth: float, *columns: tuple[str, str]) -> str:
    from flatprobe.simulation.table import by_variance, markdown

    values = [(name, attrgetter(field)) for name, field in columns]
    return markdown(by_variance(simulated.leakage, truth, values))


if __name__ == "__main__":
    main()
