"""The displays of a run."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from stage_functions import Number, number, plain

from flatprobe.errors import StageFailed
from flatprobe.pipeline import display, progress
from flatprobe.pipeline.display import Display, LiveDisplay, PlainDisplay, display_for_people
from flatprobe.pipeline.progress import Progress, listening, report_progress
from flatprobe.pipeline.runner import run
from flatprobe.pipeline.stage import Stage


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    caught = capsys.readouterr()
    assert caught.out == ""  # standard output is for results
    return [re.sub(r"\d+\.\d s", "N s", line) for line in caught.err.splitlines()]


class Recorder(Display):
    def __init__(self) -> None:
        self.reports: list[Progress] = []

    def progress(self, stage: str, progress: Progress) -> None:
        self.reports.append(progress)


def test_plain_lines_number_each_start_and_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run([number(0), number(1)], tmp_path, display=PlainDisplay())
    assert lines(capsys) == [
        "[1/2] write/0  started",
        "[1/2] write/0  done in N s",
        "[2/2] write/1  started",
        "[2/2] write/1  done in N s",
    ]


def test_consecutive_reused_stages_share_one_line_and_keep_the_numbering(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [number(value) for value in range(10)]
    run(stages[:9], tmp_path)
    run(stages, tmp_path, display=PlainDisplay())
    assert lines(capsys) == [
        "[ 9/10] 9 finished before, reused",
        "[10/10] write/9  started",
        "[10/10] write/9  done in N s",
    ]


def test_a_run_that_reuses_everything_prints_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run([number(1)], tmp_path)
    run([number(1)], tmp_path, display=PlainDisplay())
    assert lines(capsys) == ["[1/1] 1 finished before, reused"]


def test_a_failure_prints_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StageFailed):
        run([plain("fail")], tmp_path, display=PlainDisplay())
    assert lines(capsys)[-1] == "[1/1] fail  failed after N s"


def test_damage_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run([number(1)], tmp_path).artifacts["write/1"].folder / "number.txt").unlink()
    run([number(1)], tmp_path, display=PlainDisplay())
    assert lines(capsys)[0] == "write/1 is computed again: number.txt is missing"


def test_plain_progress_is_printed_at_most_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now))
    plain_display = PlainDisplay()
    plain_display.begin(1)
    plain_display.started("train")
    for now in range(0, 100, 10):
        plain_display.progress("train", Progress(int(now), 100, "epoch [1]"))
    assert lines(capsys) == [
        "[1/1] train  started",
        "[1/1] train  30 of 100  epoch [1]",
        "[1/1] train  60 of 100  epoch [1]",
        "[1/1] train  90 of 100  epoch [1]",
    ]


def test_a_worker_s_first_and_last_progress_reach_the_display(tmp_path: Path) -> None:
    recorder = Recorder()
    run([Stage("count", "stage_functions:report", Number(value=500))], tmp_path, display=recorder)
    assert recorder.reports[0] == Progress(0, 500, "counting")
    assert recorder.reports[-1] == Progress(500, 500, "counting")


def test_reports_are_passed_on_a_few_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    reports: list[int] = []
    with listening(lambda report: reports.append(report.done)):
        for done in range(17):
            now = done / 16
            report_progress(done, 1000)
    assert reports == [0, 4, 8, 12, 16]


def test_a_report_outside_a_worker_has_no_effect() -> None:
    reports: list[Progress] = []
    with listening(reports.append):
        pass
    report_progress(1, 1)
    assert reports == []


def test_the_live_display_prints_names_and_notes_without_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(display_for_people(), LiveDisplay)
    with LiveDisplay() as live:
        live.begin(2)
        live.reused("a")
        live.started("b")
        live.progress("b", Progress(1, 3, "marker [ZLT] [/nothing]"))
        live._bars.refresh()
        live.finished("b", 3.0)
    output = capsys.readouterr().err
    assert "marker [ZLT] [/nothing]" in output
    assert "✓ b  3.0 s" in output


def test_without_a_terminal_lines_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    assert isinstance(display_for_people(), PlainDisplay)
