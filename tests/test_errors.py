"""Errors survive pickling, and the console prints them unchanged."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from flatprobe.console import fail, say, table, warn
from flatprobe.errors import FlatprobeError, Interrupted, Problem, StageFailed, UserError

_BAD_LAYER = Problem(
    "geometry.layer_range",
    "studies/mine.yaml:31",
    "geometry.layers[2] = 36: there are 28 decoder blocks",
    "use 0 to 27",
)


@pytest.mark.parametrize(
    "error",
    [UserError([_BAD_LAYER, Problem("test.some", "b", "c")]), StageFailed("couple/a", "it died", Path("logs/a.log")),
     Interrupted("couple/a"), Interrupted()],
)  # fmt: skip
def test_an_error_survives_pickling_unchanged(error: FlatprobeError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert again.exit_code == error.exit_code


def test_exit_statuses_separate_user_mistakes_from_failures() -> None:
    assert [kind.exit_code for kind in (FlatprobeError, UserError, StageFailed, Interrupted)] == [1, 2, 1, 1]


def test_a_user_error_without_problems_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        UserError([])


def test_a_problem_reads_place_message_remedy() -> None:
    assert str(UserError.one("test.some", "place", "message", "remedy")) == "place  message (remedy)"
    assert str(UserError.one("test.some", "place", "message")) == "place  message"


def test_problems_are_printed_unchanged_one_per_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    long = Problem("test.some", "b", "x" * 300)
    fail([_BAD_LAYER, long], closing="2 problems in 1 file; nothing was run.")
    caught = capsys.readouterr()
    assert caught.out == ""
    assert caught.err.splitlines() == [str(_BAD_LAYER), str(long), "2 problems in 1 file; nothing was run."]


def test_results_go_to_standard_output_and_warnings_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    say("[bold]layers[2] :smile:")
    warn("slow")
    caught = capsys.readouterr()
    assert caught.out == "[bold]layers[2] :smile:\n"
    assert caught.err == "warning: slow\n"


def test_no_color_is_respected_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    fail("bad")
    assert "\x1b[31m" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    fail("bad")
    assert "\x1b[31m" not in capsys.readouterr().err


def test_a_table_in_a_pipe_is_not_squeezed_and_aligns_numbers_right(capsys: pytest.CaptureFixture[str]) -> None:
    table(["stage", "seconds"], [["x" * 200, 5], ["[b]", 12]], right=["seconds"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[1] == "x" * 200 + "        5"
    assert rows[2].split() == ["[b]", "12"]


def test_a_table_refuses_a_row_that_is_too_short() -> None:
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        table(["a", "b"], [["1"]])
