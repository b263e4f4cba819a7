"""Small stages. Some add a line per call to a tally outside the run folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from flatprobe.errors import Problem, UserError
from flatprobe.pipeline import resume
from flatprobe.pipeline.progress import report_progress
from flatprobe.pipeline.stage import Resources, Settings, Stage

Inputs = Mapping[str, Path]
FRESH = Resources(process="fresh")


class Number(Settings):
    value: int
    tally: Path | None = None


class Gate(Settings):
    """`wait` writes its process id to `entered` and ends once `opened` exists."""

    entered: Path
    opened: Path
    tally: Path


class Meeting(Settings):
    """`meet` writes its name into the folder and ends once `parties` names are there."""

    name: str
    folder: Path
    parties: int


class Nothing(Settings):
    pass


def _count(tally: Path | None, name: str) -> None:
    if tally is not None:
        with tally.open("a") as file:
            file.write(f"{name}\n")


def write(settings: Number, inputs: Inputs, output: Path) -> None:
    _count(settings.tally, f"write {settings.value}")
    (output / "number.txt").write_text(str(settings.value))
    (output / "facts.json").write_text(json.dumps({"value": settings.value}))


def add(settings: Number, inputs: Inputs, output: Path) -> None:
    _count(settings.tally, f"add {settings.value}")
    numbers = [int((folder / "number.txt").read_text()) for folder in inputs.values()]
    (output / "number.txt").write_text(str(sum(numbers) + settings.value))


def write_the_time(settings: Number, inputs: Inputs, output: Path) -> None:
    (output / "number.txt").write_text(str(time.time_ns()))


def wait(settings: Gate, inputs: Inputs, output: Path) -> None:
    _count(settings.tally, "wait")
    (output / "half.txt").write_text("half of the work")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    settings.entered.with_suffix(".new").write_text(json.dumps([os.getpid(), child.pid]))
    settings.entered.with_suffix(".new").rename(settings.entered)
    while not settings.opened.exists():
        time.sleep(0.02)
    child.kill()
    child.wait()
    (output / "number.txt").write_text("5")


def meet(settings: Meeting, inputs: Inputs, output: Path) -> None:
    (settings.folder / settings.name).touch()
    while len(list(settings.folder.iterdir())) < settings.parties:
        time.sleep(0.02)
    facts = {"pid": os.getpid(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
    (output / "facts.json").write_text(json.dumps(facts))


def meet_and_refuse(settings: Meeting, inputs: Inputs, output: Path) -> None:
    meet(settings, inputs, output)
    refuse(Nothing(), inputs, output)


def fail_once_met(settings: Meeting, inputs: Inputs, output: Path) -> None:
    while not (settings.folder / settings.name).exists():
        time.sleep(0.02)
    raise ArithmeticError("no number")


def count_on(settings: Gate, inputs: Inputs, output: Path) -> None:
    """Count to six in the resume folder; at three, wait for the gate."""
    folder = resume.folder()
    assert folder is not None
    for number in range(6):
        if (folder / str(number)).exists():
            continue
        if number == 3 and not settings.opened.exists():
            settings.entered.write_text(json.dumps([os.getpid(), os.getpid()]))
            while not settings.opened.exists():
                time.sleep(0.02)
        _count(settings.tally, str(number))
        (folder / str(number)).touch()
    (output / "number.txt").write_text("6")


def write_process(settings: Nothing, inputs: Inputs, output: Path) -> None:
    facts = {"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS"), "extra": os.environ.get("EXTRA")}
    (output / "facts.json").write_text(json.dumps(facts))


def write_torch_threads(settings: Nothing, inputs: Inputs, output: Path) -> None:
    import torch

    (output / "facts.json").write_text(json.dumps({"threads": torch.get_num_threads()}))


def fail(settings: Nothing, inputs: Inputs, output: Path) -> None:
    sys.stdout.write("said by python\n")
    subprocess.run(["echo", "said by a child"], check=True)
    raise ArithmeticError("the loss is not a number")


def refuse(settings: Nothing, inputs: Inputs, output: Path) -> None:
    raise UserError(
        [
            Problem("test.some", "mine.yaml:3", "no such model", "look at its name"),
            Problem("test.some", "mine.yaml:9", "no"),
        ]
    )


def die(settings: Nothing, inputs: Inputs, output: Path) -> None:
    sys.stdout.write("last words\n")
    os.kill(os.getpid(), signal.SIGKILL)


def leave_nothing(settings: Nothing, inputs: Inputs, output: Path) -> None:
    pass


def leave_a_link(settings: Nothing, inputs: Inputs, output: Path) -> None:
    (output / "link").symlink_to("/etc/hosts")


def exit_quietly(settings: Nothing, inputs: Inputs, output: Path) -> None:
    sys.exit(0)


def report(settings: Number, inputs: Inputs, output: Path) -> None:
    for done in range(settings.value + 1):
        report_progress(done, settings.value, "counting")
    (output / "number.txt").write_text("1")


def number(value: int, tally: Path | None = None, name: str | None = None) -> Stage:
    return Stage(name or f"write/{value}", "stage_functions:write", Number(value=value, tally=tally))


def plain(function: str, resources: Resources | None = None, name: str | None = None) -> Stage:
    return Stage(name or function, f"stage_functions:{function}", Nothing(), resources=resources or Resources())
