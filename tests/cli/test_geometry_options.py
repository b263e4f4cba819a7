from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flatprobe.cli.geometry_options import (
    POSITIONS,
    read_asked,
    read_layers,
    read_personas,
    read_positions,
    read_responses,
)
from flatprobe.errors import Problem
from flatprobe.study.load import load_study
from flatprobe.study.pair import automatic_layers, chosen_position
from flatprobe.study.resources import shipped_study
from flatprobe.study.schema import Geometry


def test_automatic_layers_are_the_registered_ones_at_the_same_relative_depth() -> None:
    assert automatic_layers(28) == Geometry().layers
    assert automatic_layers(56) == tuple(2 * layer + 1 for layer in Geometry().layers)
    assert automatic_layers(1) == (0,)
    for depth in range(1, 100):
        layers = automatic_layers(depth)
        assert list(layers) == sorted(set(layers)) and layers[0] >= 0 and layers[-1] < depth


def test_layers_are_numbers_all_or_automatic() -> None:
    problems: list[Problem] = []
    assert read_layers("10, 2,10", 30, problems) == (2, 10)
    assert read_layers("all", 4, problems) == (0, 1, 2, 3)
    assert read_layers("auto", 28, problems) == Geometry().layers
    assert not problems


def test_without_a_panel_the_pool_is_the_registered_studys() -> None:
    problems: list[Problem] = []
    personas = read_personas(None, "librarian", None, problems)
    registered = load_study(shipped_study("demo")).study.panel.bystanders
    assert [p.name for p in personas if p.role == "bystander"] == list(registered)
    assert [(p.name, p.system is None) for p in personas if p.role == "reference"] == [
        ("assistant", False), ("template_default", True),
    ]  # fmt: skip
    assert personas[0].name == "librarian" and personas[0].role == "source"
    assert not problems


def test_a_bystander_that_is_made_the_source_leaves_the_pool() -> None:
    problems: list[Problem] = []
    personas = read_personas(None, "archivist", None, problems)
    assert "archivist" not in [p.name for p in personas if p.role == "bystander"]
    assert not problems


def test_of_a_panel_of_ones_own_everyone_but_source_and_references_is_in_the_pool(tmp_path: Path) -> None:
    path = tmp_path / "panel.yaml"
    prompts = {name: {"prompt": f"You are {name}."} for name in ("ann", "bob", "assistant", "cy")}
    path.write_text(yaml.safe_dump({"personas": prompts}))
    problems: list[Problem] = []
    personas = read_personas(path, "bob", None, problems)
    assert [(p.name, p.role) for p in personas] == [
        ("bob", "source"), ("ann", "bystander"), ("cy", "bystander"), ("assistant", "reference"),
    ]  # fmt: skip
    named = read_personas(path, "bob", "assistant,cy", problems)
    assert [p.name for p in named if p.role == "bystander"] == ["assistant", "cy"]
    assert not [p for p in named if p.role == "reference"]
    assert not problems


@pytest.mark.parametrize(("count", "taken"), [(None, 3), (2, 2)])
def test_questions_come_from_a_text_file_line_by_line(tmp_path: Path, count: int | None, taken: int) -> None:
    path = tmp_path / "asked.txt"
    path.write_text("Why?\n\n  Is it late? \nWhere?\n")
    problems: list[Problem] = []
    asked = read_asked(path, count, "Be brief.", problems)
    assert [(q.id, q.text) for q in asked][:2] == [
        ("line_1", "Why? Be brief."), ("line_3", "Is it late? Be brief."),
    ]  # fmt: skip
    assert len(asked) == taken and not problems


def test_without_a_count_the_registered_number_of_the_packages_questions_is_asked() -> None:
    problems: list[Problem] = []
    assert len(read_asked(None, None, "", problems)) == 20
    assert not problems


def test_positions_keep_their_order_and_responses_start_with_own() -> None:
    problems: list[Problem] = []
    assert read_positions("all_mean, last_prompt_token,all_mean", problems) == (
        "all_mean",
        "last_prompt_token",
    )
    assert read_positions("all", problems) == POSITIONS
    assert read_responses("fixed,own", problems) == ("own", "fixed")
    assert not problems


def test_the_registered_position_is_shown_first_where_it_is_there() -> None:
    assert chosen_position(("all_mean", "last_response_token")) == "last_response_token"
    assert chosen_position(("all_mean", "prompt_mean")) == "all_mean"
