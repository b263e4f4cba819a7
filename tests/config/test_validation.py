"""Validation names each mistake by a code; a block's own rule may give its code."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import model_validator
from pydantic_core import PydanticCustomError

from flatprobe.config.blocks import Block, Count
from flatprobe.config.validation import examine, validate
from flatprobe.config.yaml_file import Document, read_document
from flatprobe.errors import UserError


class Inner(Block):
    low: Count = 1
    high: Count = 2

    @model_validator(mode="after")
    def _in_order(self) -> Inner:
        if self.low > self.high:
            raise PydanticCustomError("inner.order", "`low` must not exceed `high`")
        return self


class Outer(Block):
    inner: Inner = Inner()


@pytest.fixture
def document(tmp_path: Path) -> Document:
    path = tmp_path / "a.yaml"
    path.write_text("inner:\n  low: 3\n")
    return read_document(path)


def test_a_block_s_own_rule_gives_the_code_and_the_block_the_line(document: Document) -> None:
    with pytest.raises(UserError) as caught:
        validate(document, Outer)
    (problem,) = caught.value.problems
    assert (problem.code, problem.place) == ("inner.order", f"{document.path}:1")
    assert problem.message == "inner: `low` must not exceed `high`"


def test_unknown_fields_are_problems_and_the_rest_is_still_examined(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text("inner:\n  low: 2\n  hihg: 5\n")
    model, problems = examine(read_document(path), Outer)
    assert model == Outer(inner=Inner(low=2))
    assert [(problem.code, problem.place) for problem in problems] == [("field.unknown", f"{path}:3")]
