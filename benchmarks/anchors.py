"""Effects of an anchor: couples a study's control with several anchors and reads every way in which one can fail.

    python benchmarks/anchors.py                                                    # the demo, on the CPU
    python benchmarks/anchors.py --study FILE --anchors none,cross_entropy:0.1,kl:1 --seeds 42,43 --json anchors.json
    python benchmarks/anchors.py --machine machines/one_h100.yaml --runs DIR

Everything else is the study's: its stages are planned and run as by `flatprobe run`, up to the control's completions on
evaluation questions. All anchors share one run folder, so common stages run once, and an interrupted call can be
repeated to continue. All seeds train on the first seed's answers, as in a study with several seeds; initialisation,
order, dropout and sampling differ.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from anchor_outcomes import Outcome, Speeds, outcome, show
from flatprobe.console import say
from flatprobe.machine.load import load_machine
from flatprobe.machine.schema import Machine
from flatprobe.pipeline.runner import run
from flatprobe.pipeline.stage import Stage
from flatprobe.planner.plan import plan
from flatprobe.prepare import runner_settings
from flatprobe.study.load import load_study
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.recipe_schema import Anchor
from flatprobe.study.resolve import resolve_study
from flatprobe.study.resources import shipped_study
from flatprobe.study.schema import Study

ANCHORS = "none,cross_entropy:0.1,cross_entropy:1,kl:0.1,kl:1"


@dataclass(frozen=True)
class CouplingStages:
    """The stages of one coupling."""

    seed: int
    couple: Stage
    leakage: Stage


def main() -> None:
    options = _options()
    loaded = load_study(options.study)
    machine = Machine(device="cpu") if options.machine is None else load_machine(options.machine)
    folder = (options.runs or Path(machine.runs)) / f"anchors-{loaded.study.name}"
    outcomes: list[Outcome] = []
    for anchor in options.anchors:
        outcomes += _outcomes(loaded, anchor, options, machine, folder)
        if options.json is not None:
            options.json.write_text(json.dumps(_content(loaded.study, options, outcomes), indent=1))
    show(outcomes)
    say(f"{loaded.study.name}, {loaded.study.decision.control} only; artifacts in {folder}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=shipped_study("demo"), help="default: the demo")
    parser.add_argument("--anchors", type=_anchors, default=_anchors(ANCHORS), help=f"default: {ANCHORS}")
    parser.add_argument("--seeds", type=_numbers, help="default: the study's")
    parser.add_argument("--lambda", type=float, dest="lambda_", help="default: the study's first")
    parser.add_argument("--machine", type=Path, help="machine file; default: this CPU")
    parser.add_argument("--runs", type=Path, help="parent of the run folder; default: the machine file's")
    parser.add_argument("--json", type=Path, help="file for the numbers, rewritten after each anchor")
    return parser.parse_args()


def _anchors(text: str) -> list[Anchor]:
    """A comma-separated list of `none` or a kind with its weight: `kl:0.5`."""
    anchors = []
    for word in text.split(","):
        kind, _, weight = word.partition(":")
        anchors.append(Anchor.model_validate({"kind": kind, "weight": float(weight or (kind != "none"))}))
    return anchors


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _variant(study: Study, anchor: Anchor, options: argparse.Namespace) -> Study:
    """The study with this anchor, one lambda, and the control as its only condition."""
    assert study.coupling is not None, "a study without a coupling has no anchor"
    control, unlikelihood = study.decision.control, study.coupling.unlikelihood
    lambda_ = unlikelihood.lambdas[0] if options.lambda_ is None else options.lambda_
    coupling = study.coupling.model_copy(
        update={"anchor": anchor, "unlikelihood": unlikelihood.model_copy(update={"lambdas": (lambda_,)})}
    )
    return study.model_copy(
        update={
            "seeds": options.seeds or study.seeds,
            "conditions": {control: study.conditions[control]},
            "decision": study.decision.model_copy(update={"treated": control, "benign": None, "known_answers": ()}),
            "coupling": coupling,
        }
    )


def _outcomes(
    loaded: LoadedStudy, anchor: Anchor, options: argparse.Namespace, machine: Machine, folder: Path
) -> Iterator[Outcome]:
    """Run the stages of one anchor and read their results."""
    study = _variant(loaded.study, anchor, options)
    resolved = resolve_study(replace(loaded, study=study))
    couplings = list(_couplings(plan(resolved, "exploratory").tables))
    speeds = Speeds()
    settings = runner_settings(machine, resolved.locations)
    summary = run([coupling.leakage for coupling in couplings], folder, settings, speeds)
    for coupling in couplings:
        adapter, sampled = (summary.artifacts[s.name].folder for s in (coupling.couple, coupling.leakage))
        yield outcome(
            anchor,
            coupling.seed,
            study.leakage.marker,
            facts=json.loads((adapter / "facts.json").read_text()),
            telemetry=pl.read_parquet(adapter / "telemetry.parquet"),
            completions=pl.read_parquet(sampled / "completions.parquet"),
            seconds_per_step=speeds.seconds_per_step(coupling.couple.name),
        )


def _couplings(tables: Stage) -> Iterator[CouplingStages]:
    """Every coupling that the tables read, with its completions."""
    entries: Sequence[dict[str, Any]] = json.loads(tables.settings_json)["entries"]
    for entry in entries:
        if entry["kind"] == "leakage":
            yield CouplingStages(entry["seed"], tables.inputs[entry["couple"]], tables.inputs[entry["role"]])


def _content(study: Study, options: argparse.Namespace, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "study": study.model_dump(mode="json"),
        "options": {name: str(value) for name, value in vars(options).items() if name != "anchors"},
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


if __name__ == "__main__":
    main()
