"""The options of `flatprobe geometry`; what it refuses is tested with `compare_checkpoints`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flatprobe.cli.geometry as room
from flatprobe.study.schema import Geometry

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(flatprobe: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What the command passes on to `compare_checkpoints` for some options."""

    def passed_on(*words: object) -> dict[str, Any]:
        given: dict[str, Any] = {}

        def compare(*checkpoints: str, **options: Any) -> Any:
            given.update(options, checkpoints=checkpoints)
            raise KeyboardInterrupt

        monkeypatch.setattr(room, "compare_checkpoints", compare)
        flatprobe("geometry", *words)
        return given

    return passed_on


def test_lists_are_separated_by_commas_or_given_several_times(call: Callable[..., dict[str, Any]]) -> None:
    given = call(
        "one", "two", "--bystanders", "a, b,a", "--bystanders", "c", "--positions", "all_mean,prompt_mean",
        "--responses", "fixed", "--layers", "10, 2,10",
    )  # fmt: skip
    assert given["checkpoints"] == ("one", "two")
    assert given["bystanders"] == ("a", "b", "c")
    assert given["positions"] == ("all_mean", "prompt_mean")
    assert given["responses"] == ("fixed",)
    assert given["layers"] == [10, 2]


def test_what_is_left_out_is_left_to_the_defaults(call: Callable[..., dict[str, Any]]) -> None:
    given = call("one", "two")
    assert given["bystanders"] is None and given["layers"] == "auto"
    assert given["positions"] == Geometry().positions and given["responses"] == ("own", "fixed")
    assert call("one", "two", "--positions", "all", "--layers", "all")["layers"] == "all"


@pytest.mark.parametrize("layers", ["first", ",", "1,x"])
def test_layers_that_are_no_numbers_are_a_problem(call: Callable[..., dict[str, Any]], layers: str) -> None:
    [problem] = call("one", "two", "--layers", layers)["problems"]
    assert (problem.code, problem.place) == ("geometry.layers", "--layers")


def test_the_command_refuses_everything_at_once_and_makes_no_folder(flatprobe: Run, tmp_path: Path) -> None:
    status, out, err = flatprobe(
        "geometry", "nowhere", "--level", 1.5, "--seed", -1, "--layers", "first", "--json", "missing/rows.json"
    )
    assert status == 2 and not out and "Traceback" not in err
    for place in ("BASE", "TREATED", "--level", "--seed", "--layers", "--json"):
        assert f"{place}  " in err
    assert "nothing was run" in err and not (tmp_path / "runs").exists()
