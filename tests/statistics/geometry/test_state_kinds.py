"""Kinds of states and their one text form."""

from __future__ import annotations

import pytest

from flatprobe.statistics.geometry.states import StateKind


def test_a_kind_of_states_survives_its_text_form() -> None:
    kind = StateKind("fixed", "last_response_token")
    assert str(kind) == "fixed.last_response_token" and StateKind.parse(str(kind)) == kind


@pytest.mark.parametrize("text", ["own", "own.", "last_response_token", "other.response_mean"])
def test_another_text_is_no_kind_of_states(text: str) -> None:
    with pytest.raises(ValueError, match="no kind of states"):
        StateKind.parse(text)
