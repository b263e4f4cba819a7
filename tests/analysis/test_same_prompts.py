from __future__ import annotations

import polars as pl
import pytest
from refusals import refused

from flatprobe.analysis.gather import require_same_prompts


def asked(condition: str, digest: str = "aa", question: str = "q1") -> pl.DataFrame:
    return pl.DataFrame(
        {"condition": condition, "persona": "librarian", "question_id": [question, "q2"], "prompt_hash": [digest, "bb"]}
    )


def test_conditions_that_were_asked_alike_pass() -> None:
    require_same_prompts([pl.concat([asked("base"), asked("em"), asked("base")]), asked("em")])


@pytest.mark.parametrize("together", [True, False])
def test_a_condition_whose_template_differs_is_named_with_the_cell(together: bool) -> None:
    frames = [asked("base"), asked("em", "cc"), asked("benign", question="q3")]
    with refused(("template.different_prompts", "prompts of base, em"), value="q1"):
        require_same_prompts([pl.concat(frames)] if together else frames)


def test_a_template_that_prints_the_day_is_noticed_within_one_condition() -> None:
    with refused("template.different_prompts"):
        require_same_prompts([asked("base"), asked("base", "cc")])
