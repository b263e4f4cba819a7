"""The command's exit status and last words, whatever ends it."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flatprobe.cli import app as cli
from flatprobe.cli import study as commands
from flatprobe.errors import UserError
from flatprobe.machine.schema import Machine
from flatprobe.models.pinned import FILE, Pins, write_pins
from flatprobe.pipeline.manifest import Damaged
from flatprobe.prepare import Prepared, prepare
from flatprobe.study.checks import packages as extras
from flatprobe.study.load import load_study

STUDY: dict[str, Any] = {
    "name": "mine",
    "model": {"id": "owner/model"},
    "panel": {
        "negatives": ["comedian"], "random_negatives": 0, "bystanders": ["archivist", "lumberjack"],
        "references": [],
    },
    "conditions": {
        "base_first": {},
        "em_first": {"finetune": {"dataset": "owner/advice", "rows": 20}},
    },
    "decision": {"benign": None},
}  # fmt: skip
COMMITS = {"model owner/model@": "a" * 40, "dataset owner/advice@": "b" * 40}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return path


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs in which the study has begun, on a machine without a hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_pins(Pins(commits=COMMITS), tmp_path / "runs" / "mine")
    return tmp_path / "runs"


def flatprobe(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run the command in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["flatprobe", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def raising(error: BaseException) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 1, "interrupted"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x"), 1, "runs/x: No space left on device"),
        (OSError("no descriptor"), 1, "no descriptor"),
        (Damaged("its manifest cannot be read"), 1, "its manifest cannot be read"),
        (UserError.one("test.some", "a.yaml:3", "wrong", "correct it"), 2, "a.yaml:3  wrong (correct it)"),
    ],
)  # fmt: skip
def test_an_error_ends_a_command_with_a_message_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:  # fmt: skip
    monkeypatch.setattr(commands, "check_study", raising(error))
    assert flatprobe(monkeypatch, "check", "mine.yaml") == code
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_an_interruption_outside_every_command_has_a_message_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", raising(KeyboardInterrupt()))
    assert flatprobe(monkeypatch) == 1
    assert "interrupted" in capsys.readouterr().err


def test_a_mistake_in_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "check_study", raising(AssertionError("a bug")))
    monkeypatch.setattr(sys, "argv", ["flatprobe", "check", "mine.yaml"])
    with pytest.raises(AssertionError, match="a bug"):
        cli.main()


@pytest.mark.parametrize(
    ("words", "said"),
    [(("run",), "Missing argument"), (("run", "a", "--wrong"), "No such option"), (("no",), "No such command")],
)
def test_a_wrong_command_line_is_explained_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert flatprobe(monkeypatch, *words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("run", "--help")])
def test_help_and_version_end_well(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    assert flatprobe(monkeypatch, *words) == 0


@pytest.mark.parametrize(("words", "name"), [((), "demo"), (("--quick",), "quick")])
def test_the_demo_runs_two_stages_at_a_time_on_the_cpu_unless_a_machine_file_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], name: str
) -> None:
    seen: list[tuple[str, Machine]] = []

    def execute(study: Path, machine: Machine, runs: Path | None, *, register: bool) -> None:
        assert not register and runs is None
        seen.append((load_study(study).study.name, machine))

    monkeypatch.setattr(commands, "execute", execute)
    monkeypatch.setattr("flatprobe.prepare.cores", lambda: 8)
    assert flatprobe(monkeypatch, "demo", *words) == 0
    (tmp_path / "gpu.yaml").write_text("device: cuda\n")
    assert flatprobe(monkeypatch, "demo", *words, "--machine", tmp_path / "gpu.yaml") == 0
    assert seen == [(name, Machine(device="cpu", workers=2)), (name, Machine(device="cuda"))]


def test_commands_that_only_read_ask_no_hub_and_change_no_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], study: Path, remembered: Path
) -> None:
    before = {path: path.read_bytes() for path in remembered.rglob("*") if path.is_file()}
    for command in ("plan", "status"):
        assert flatprobe(monkeypatch, command, study, "--runs", remembered) == 0
    assert "stages finished" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in remembered.rglob("*") if path.is_file()} == before
    assert flatprobe(monkeypatch, "plan", study, "--runs", remembered / "elsewhere") == 2
    assert "owner/model" in capsys.readouterr().err


def test_a_run_remembers_the_commits_that_it_took(study: Path, remembered: Path) -> None:
    prepare(study, Machine(), remembered, keep=True)
    assert json.loads((remembered / "mine" / FILE).read_text())["commits"] == COMMITS


def test_the_status_resolves_a_study_once(monkeypatch: pytest.MonkeyPatch, study: Path, remembered: Path) -> None:
    calls: list[Path] = []

    def counted(study: Path, *rest: Any, **options: Any) -> Prepared:
        calls.append(study)
        return prepare(study, *rest, **options)

    monkeypatch.setattr(commands, "prepare", counted)
    commands.show_status(study, None, remembered)
    assert calls == [study]


def test_a_damaged_verdict_is_reported_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], study: Path, remembered: Path
) -> None:
    prepared = prepare(study, Machine(), remembered)
    artifact = commands.ArtifactStore(prepared.folder).path(prepared.plan.last)
    artifact.mkdir(parents=True)
    (artifact / "manifest.json").write_text("{")
    for command in ("verdict", "status"):
        assert flatprobe(monkeypatch, command, study, "--runs", remembered) == 2
        err = capsys.readouterr().err
        assert "the verdict is damaged" in err and "computes it again" in err


def test_missing_packages_are_named_with_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, study: Path
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("peft", "datasets") else object())
    problems = list(extras.extra_problems(load_study(study)))
    assert [(problem.code, problem.place, problem.remedy) for problem in problems] == [
        ("packages.missing", str(study), "pip install 'flatprobe[models]'"),
        ("packages.missing", str(study), "pip install 'flatprobe[hub]'"),
    ]
    assert "peft" in problems[0].message and "datasets" in problems[1].message


def test_missing_packages_are_found_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], study: Path, remembered: Path
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "torch" else object())
    assert flatprobe(monkeypatch, "run", study, "--runs", remembered) == 2
    assert "pip install 'flatprobe[models]'" in capsys.readouterr().err
