"""Running a command in this process, in an empty folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from flatprobe import console
from flatprobe.cli import app as cli
from flatprobe.errors import Problem

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def flatprobe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`flatprobe("score", "c.jsonl")` gives exit status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flatprobe", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture
def refusal(flatprobe: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Problem]]:
    """`refusal("score", …)`: the problems for which the command is refused; it prints no result then."""
    reported: list[Problem] = []
    fail = console.fail

    def note(problems: Sequence[Problem] | str, closing: str | None = None) -> None:
        assert not isinstance(problems, str), problems
        reported[:] = problems
        fail(problems, closing)

    def run(*words: object) -> list[Problem]:
        monkeypatch.setattr(console, "fail", note)
        status, out, err = flatprobe(*words)
        assert status == 2 and not out and "Traceback" not in err
        return list(reported)

    return run


@pytest.fixture
def analyse(flatprobe: Run) -> Run:
    """Compare em_first with base_first; a file and further words are given."""

    def run(
        cells: object, *words: object, treated: str = "em_first", control: str = "base_first"
    ) -> tuple[int, str, str]:
        return flatprobe("analyse", cells, "--treated", treated, "--control", control, *words)

    return run
