"""`flatprobe simulate`, through the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from flatprobe.cli.app import main
from flatprobe.study.resources import shipped_study

SMALL = ("--studies", "4", "--resamples", "50", "--variance", "parent", "--truth", "0,0.3", "--no-joint", "--jobs", "1")


def run(monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["flatprobe", "simulate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_every_estimator_is_printed_for_every_truth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, SMALL) == 0
    printed = capsys.readouterr().out
    assert printed.count("cell_bootstrap") == 2
    assert "7 personas x 20 questions x 10 completions" in printed
    assert "Joint verdict" not in printed


def test_the_joint_verdict_is_printed_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--studies", "2", "--variance", "none", "--truth", "0", "--personas", "3", "--jobs", "1"]
    assert run(monkeypatch, options) == 0
    printed = capsys.readouterr().out
    assert "Joint verdict" in printed and "behaviour_only" in printed


def test_the_numbers_can_be_had_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "simulation.json"
    assert run(monkeypatch, [*SMALL, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["settings"]["studies"] == 4
    assert found["variance_components"]["parent"]["persona"] == pytest.approx(0.0659, abs=1e-4)
    assert {row["truth"] for row in found["leakage"]} == {0.0, 0.3}
    capsys.readouterr()
    assert run(monkeypatch, [*SMALL, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_a_study_gives_its_design_and_options_win_over_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, [str(shipped_study("demo")), *SMALL, "--completions", "3", "--json", "-"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["completions"] == 3
    assert settings["rule"]["geometry"]["measure"] == "contraction"


def test_everything_wrong_is_refused_by_option_and_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = [
        "--studies", "0", "--personas", "1", "--variance", "wild", "--truth", "much,2", "--resamples", "100",
        "--jobs", "0", "--json", str(tmp_path / "no" / "folder.json"),
    ]  # fmt: skip
    assert run(monkeypatch, options) == 2
    said = capsys.readouterr().err
    for option in ("--studies", "--personas", "--variance", "--truth", "--resamples", "--jobs", "--json"):
        assert f"\n{option}  " in f"\n{said}", option
    assert "nothing was run" in said
