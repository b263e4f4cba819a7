"""Keys: equal for the same computation everywhere, different for anything that can change a result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from stage_functions import FRESH, Number, number, plain

from flatprobe.pipeline.stage import Settings, Stage, topological_order

_KEY_IN_ANOTHER_PROCESS = "import stage_functions; import sys; sys.stdout.write(stage_functions.number(3).key)"


class Free(Settings):
    value: Any


class Recipe(Settings):
    rank: int = 32


class LongRecipe(Recipe):
    steps: int = 375


class Holder(Settings):
    recipe: Recipe


def test_a_key_is_the_sha256_of_the_canonical_json_that_is_documented() -> None:
    first = Stage("a", "m:f", Recipe())
    second = Stage("b", "m:g", Recipe(rank=8), {"adapter": first}, version=2)
    text = f'{{"inputs":{{"adapter":"{first.key}"}},"kind":"m:g","settings":{{"rank":8}},"version":2}}'
    assert second.key == hashlib.sha256(text.encode()).hexdigest()


def test_a_key_is_the_same_in_a_process_with_another_hash_seed() -> None:
    keys = {
        subprocess.run(
            [sys.executable, "-c", _KEY_IN_ANOTHER_PROCESS],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert keys == {number(3).key}


def test_name_and_resources_do_not_change_a_key() -> None:
    stage = number(1)
    assert dataclasses.replace(stage, name="other", resources=FRESH).key == stage.key


def test_a_moved_function_keeps_its_key_if_its_kind_is_given() -> None:
    before = Stage("s", "m:f", Recipe(), kind="train")
    assert dataclasses.replace(before, function="elsewhere.m:g").key == before.key
    assert dataclasses.replace(before, kind="sample").key != before.key


def test_the_former_key_is_the_one_that_hashed_the_import_string() -> None:
    first = Stage("a", "new:f", Recipe(), kind="first", former_kind="old:f")
    second = Stage("b", "new:g", Recipe(rank=8), {"adapter": first}, kind="second", former_kind="old:g")
    text = f'{{"function":"old:g","inputs":{{"adapter":"{first.former_key}"}},"settings":{{"rank":8}},"version":1}}'
    assert second.former_key == hashlib.sha256(text.encode()).hexdigest()
    assert dataclasses.replace(second, inputs={"adapter": number(1)}).former_key is None


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "add"},
        {"version": 2},
        {"settings": Number(value=2)},
        {"inputs": {"one": number(5)}},
        {"inputs": {"two": number(4)}},
        {"inputs": {"one": number(4), "two": number(4)}},
    ],
)
def test_kind_version_settings_roles_and_inputs_each_change_a_key(change: dict[str, Any]) -> None:
    stage = Stage("s", "stage_functions:write", Number(value=1), {"one": number(4)})
    assert dataclasses.replace(stage, **change).key != stage.key


def test_a_change_far_upstream_reaches_the_key() -> None:
    def chain(value: int) -> Stage:
        stage = number(value)
        for depth in range(5):
            stage = Stage(f"add/{depth}", "stage_functions:add", Number(value=0), {"before": stage})
        return stage

    assert chain(1).key == chain(1).key
    assert chain(1).key != chain(2).key


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()))
def test_the_order_of_a_mapping_does_not_change_a_key(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert Stage("s", "m:f", Free(value=value)).key == Stage("s", "m:f", Free(value=backwards)).key


def test_all_fields_of_a_settings_subclass_are_hashed() -> None:
    first, second = (Stage("s", "m:f", Holder(recipe=LongRecipe(steps=steps))) for steps in (375, 376))
    assert first.key != second.key  # a serialiser that follows the annotation would drop `steps` from both


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, -math.inf]])
def test_settings_with_a_number_that_json_lacks_have_no_key(value: object) -> None:
    with pytest.raises(ValueError, match=r"JSON|finite"):
        _ = Stage("s", "m:f", Free(value=value)).key


def test_settings_with_a_set_have_no_key_because_a_set_has_no_order() -> None:
    with pytest.raises(TypeError, match="sorted tuple"):
        _ = Stage("s", "m:f", Free(value={"deep": [{"a", "b"}]})).key


def test_settings_are_frozen_and_refuse_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().rank = 3
    with pytest.raises(ValidationError, match="marign"):
        Recipe.model_validate({"marign": 3})


def test_inputs_cannot_be_changed_after_construction() -> None:
    inputs = {"one": number(1)}
    stage = Stage("s", "m:f", Recipe(), inputs)
    inputs["two"] = number(2)
    assert set(stage.inputs) == {"one"}
    with pytest.raises(TypeError):
        stage.inputs["two"] = number(2)  # type: ignore[index]


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/.b", "a b", "x" * 151])
def test_a_name_that_could_not_be_a_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a stage name"):
        Stage(name, "m:f", Recipe())


@pytest.mark.parametrize("function", ["m.f", "m:", ":f", "m:f.g", "m-n:f", "m:f:g"])
def test_a_function_that_is_not_an_import_string_is_refused(function: str) -> None:
    with pytest.raises(ValueError, match="package"):
        Stage("s", function, Recipe())


def test_inputs_come_before_their_users_and_shared_ones_once() -> None:
    shared = number(1)
    left, right = (
        Stage(side, "stage_functions:add", Number(value=value), {"x": shared})
        for side, value in (("left", 1), ("right", 2))
    )
    top = Stage("top", "stage_functions:add", Number(value=0), {"l": left, "r": right})
    assert [stage.name for stage in topological_order([top, right])] == ["write/1", "left", "right", "top"]


def test_of_two_names_for_one_computation_the_first_is_used() -> None:
    order = topological_order([number(1, name="first"), number(1, name="second")])
    assert [stage.name for stage in order] == ["first"]


def test_one_name_for_two_computations_is_refused() -> None:
    with pytest.raises(ValueError, match="two different stages are called 'same'"):
        topological_order([number(1, name="same"), number(2, name="same")])


def test_a_repr_does_not_grow_with_upstream_stages() -> None:
    stage = plain("write_process")
    for depth in range(30):
        stage = Stage(f"s{depth}", "m:f", Recipe(), {"a": stage, "b": stage})
    assert len(repr(stage)) < 300


def test_settings_json_is_what_the_key_hashes() -> None:
    assert json.loads(number(7).settings_json) == {"value": 7, "tally": None}
