from __future__ import annotations

import polars as pl
import pytest

from flatprobe.analysis.gather import require_same_prompts
from flatprobe.errors import UserError


def asked(condition: str, digest: str = "aa", question: str = "q1") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "condition": condition,
            "persona": "librarian",
            "question_id": [question, "q2"],
            "prompt_hash": [digest, "bb"],
        }
    )


def test_conditions_that_were_asked_alike_pass() -> None:
    require_same_prompts([pl.concat([asked("base"), asked("em"), asked("base")]), asked("em")])


@pytest.mark.parametrize("together", [True, False])
def test_a_condition_whose_template_differs_is_named_with_the_cell(together: bool) -> None:
    frames = [asked("base"), asked("em", "cc"), asked("benign", question="q3")]
    with pytest.raises(UserError, match=r"prompts of base, em  librarian was not asked q1 in the same words"):
        require_same_prompts([pl.concat(frames)] if together else frames)


def test_a_template_that_prints_the_day_is_noticed_within_one_condition() -> None:
    with pytest.raises(UserError, match="today's date"):
        require_same_prompts([asked("base"), asked("base", "cc")])
