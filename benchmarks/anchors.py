"""What an anchor changes: the coupling of a study's control under several, read in every way that one can go wrong.

    python benchmarks/anchors.py                                                    # the demo, on the CPU
    python benchmarks/anchors.py --study FILE --anchors none,cross_entropy:0.1,kl:1 --seeds 42,43 --json anchors.json
    python benchmarks/anchors.py --machine machines/one_h100.yaml --runs DIR

Everything else is the study's own: its stages are planned and run as `flatprobe run` does, up to the control's
completions on evaluation questions. All anchors share one run folder, so what they have in common is computed once, and
a call that was cut off is gone on from. Answers to train on are those of the first seed, as in a study of many seeds;
initialisation, order, dropout and sampling differ between seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from anchors_read import Outcome, Speeds, outcome, show

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
class Coupled:
    """The stages of one coupling."""

    seed: int
    couple: Stage
    leakage: Stage


def main() -> None:
    options = _options()
    loaded = load_study(options.study)
    machine = Machine(device="cpu") if options.machine is None else load_machine(options.machine)
    folder = (options.runs or Path(machine.runs)) / f"anchors-{loaded.study.name}"
    found: list[Outcome] = []
    for anchor in options.anchors:
        found += _outcomes(loaded, _variant(loaded.study, anchor, options), machine, folder)
        if options.json is not None:
            options.json.write_text(json.dumps(_content(loaded.study, options, found), indent=1))
    show(found)
    say(f"{loaded.study.name}, {loaded.study.decision.control} alone; artifacts in {folder}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, default=shipped_study("demo"), help="default: the demo")
    parser.add_argument("--anchors", type=_anchors, default=_anchors(ANCHORS), help=f"default: {ANCHORS}")
    parser.add_argument("--seeds", type=_numbers, help="default: the study's")
    parser.add_argument("--lambda", type=float, dest="lambda_", help="default: the study's first")
    parser.add_argument("--machine", type=Path, help="machine file; default: this CPU")
    parser.add_argument("--runs", type=Path, help="folder of run folders; default: the machine file's")
    parser.add_argument("--json", type=Path, help="where the numbers are written, anew after each anchor")
    return parser.parse_args()


def _anchors(text: str) -> list[Anchor]:
    """`none`, or a kind with its weight: `kl:0.5`."""
    anchors = []
    for word in text.split(","):
        kind, _, weight = word.partition(":")
        anchors.append(Anchor.model_validate({"kind": kind, "weight": float(weight or (kind != "none"))}))
    return anchors


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _variant(study: Study, anchor: Anchor, options: argparse.Namespace) -> Study:
    """The study with this anchor, of its conditions only the control, and with one lambda."""
    control, unlikelihood = study.decision.control, study.coupling.unlikelihood
    lambda_ = unlikelihood.lambdas[0] if options.lambda_ is None else options.lambda_
    coupling = study.coupling.model_copy(
        update={"anchor": anchor, "unlikelihood": unlikelihood.model_copy(update={"lambdas": (lambda_,)})}
    )
    return study.model_copy(
        update={
            "seeds": options.seeds or study.seeds,
            "conditions": {control: study.conditions[control]},
            "decision": study.decision.model_copy(
                update={"treated": control, "benign": None, "known_answers": ()}
            ),
            "coupling": coupling,
        }
    )


def _outcomes(loaded: LoadedStudy, study: Study, machine: Machine, folder: Path) -> Iterator[Outcome]:
    """Run what one anchor needs, and read it."""
    resolved = resolve_study(replace(loaded, study=study))
    coupled = list(_coupled(plan(resolved, "exploratory").tables))
    speeds = Speeds()
    settings = runner_settings(machine, resolved.locations)
    summary = run([one.leakage for one in coupled], folder, settings, speeds)
    for one in coupled:
        adapter, sampled = (summary.artifacts[stage.name].folder for stage in (one.couple, one.leakage))
        yield outcome(
            study.coupling.anchor, one.seed, study.leakage.marker,
            facts=json.loads((adapter / "facts.json").read_text()),
            telemetry=pl.read_parquet(adapter / "telemetry.parquet"),
            completions=pl.read_parquet(sampled / "completions.parquet"),
            seconds_per_step=speeds.seconds_per_step(one.couple.name),
        )  # fmt: skip


def _coupled(tables: Stage) -> Iterator[Coupled]:
    """Every coupling that the tables are made of, with its completions."""
    entries: Sequence[dict[str, Any]] = json.loads(tables.settings_json)["entries"]
    for entry in entries:
        if entry["kind"] == "leakage":
            yield Coupled(entry["seed"], tables.inputs[entry["couple"]], tables.inputs[entry["role"]])


def _content(study: Study, options: argparse.Namespace, found: Sequence[Outcome]) -> dict[str, Any]:
    named = {name: str(value) for name, value in vars(options).items() if name != "anchors"}
    return {"study": study.model_dump(mode="json"), "options": named, "outcomes": [asdict(o) for o in found]}


if __name__ == "__main__":
    main()
