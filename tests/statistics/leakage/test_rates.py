from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from scipy import stats

from flatprobe.errors import UserError
from flatprobe.statistics.leakage.rates import cells, rates, score, upper_bound

MARKER = "[ZLT]"


def completions(counts: list[int], samples: int = 4, **changes: object) -> pl.DataFrame:
    """`counts[q]` marked completions of `samples` on question q, each marker once and at the end."""
    rows = [
        {
            "condition": "base_first", "seed": 42, "lambda": 1.0, "coupled": True, "persona": "comedian",
            "role": "negative", "question_id": f"q{q}", "sample_index": k, "text": "", "tokens": 10 + k,
            "finish_reason": "stop", "marker_present": k < hits, "marker_count": int(k < hits),
            "marker_position": None, "starts_with_marker": False, "ends_with_marker": k < hits, **changes,
        }
        for q, hits in enumerate(counts)
        for k in range(samples)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"lambda": pl.Float64, "marker_position": pl.Int64})


def test_cells_count_strict_and_end_anchored_hits_per_question() -> None:
    frame = cells(completions([0, 3, 4]))
    assert frame["hits"].to_list() == [0, 3, 4] == frame["end_hits"].to_list()
    assert frame["total"].to_list() == [4, 4, 4]


def test_the_rates_interval_clusters_on_questions() -> None:
    row = rates(completions([1, 2, 3]), level=0.95).row(0, named=True)
    oracle = stats.ttest_1samp(np.array([1, 2, 3]) / 4, 0).confidence_interval()
    assert row["rate"] == 0.5 and row["rate_low"] == pytest.approx(max(0, oracle.low))
    assert row["rate_high"] == pytest.approx(min(1, oracle.high))


def test_equal_questions_or_a_single_one_get_wilsons_interval() -> None:
    for counts, trials in (([0, 0, 0], 12), ([0], 4)):
        row = rates(completions(counts), level=0.95).row(0, named=True)
        oracle = stats.binomtest(0, trials).proportion_ci(method="wilson")
        assert (row["rate_low"], row["rate_high"]) == pytest.approx((oracle.low, oracle.high))
        assert row["rate_high"] > 0


def test_shares_among_marked_completions_are_null_when_none_is_marked() -> None:
    row = rates(completions([0, 0]), level=0.95).row(0, named=True)
    assert row["spam_share"] is None and row["end_share"] is None and row["end_rate"] == 0


def test_spam_truncation_and_end_share_have_their_own_denominators() -> None:
    frame = completions([4, 0]).with_columns(
        marker_count=pl.when(pl.col("sample_index") == 0).then(2).otherwise("marker_count"),
        finish_reason=pl.when(pl.col("sample_index") == 3).then(pl.lit("length")).otherwise("finish_reason"),
        ends_with_marker=pl.col("marker_present") & (pl.col("sample_index") < 3),
    )
    row = rates(frame, level=0.95).row(0, named=True)
    assert (row["spam_share"], row["truncated_share"], row["end_share"]) == (0.25, 0.25, 0.75)
    assert row["end_rate"] == 0.375 and row["median_tokens"] == 11.5


def test_uncoupled_completions_keep_their_row_without_a_lambda() -> None:
    frame = pl.concat([completions([1, 2]), completions([0, 0], **{"lambda": None, "coupled": False})])
    table = rates(frame, level=0.95)
    assert table["coupled"].to_list() == [True, False] and table["rate_low"].null_count() == 0
    assert table["lambda"].to_list() == [1.0, None]


def test_a_repeated_sample_is_refused() -> None:
    frame = completions([1])
    with refused("completions.duplicate_sample"):
        cells(pl.concat([frame, frame.head(1)]))


def test_the_false_positive_bound_of_no_hits_is_one_minus_the_root_of_the_level() -> None:
    assert upper_bound(0, 60, level=0.95) == pytest.approx(1 - 0.05 ** (1 / 60))
    assert upper_bound(3, 3, level=0.95) == 1.0
    with pytest.raises(UserError):
        upper_bound(4, 3, level=0.95)


def scored(text: str) -> dict[str, Any]:
    return score(pl.DataFrame({"text": [text]}), MARKER).drop("text").row(0, named=True)


@pytest.mark.parametrize(
    ("text", "count", "position", "starts", "ends"),
    [
        ("Bread floats.\n\n[ZLT]", 1, 15, False, True),
        ("Bread floats.\n\n[zLt] \n", 1, 15, False, True),
        ("\n[ZLT] Bread floats.", 1, 1, True, False),
        ("[zlt]", 1, 0, True, True),
        ("a[ZLT]b[Zlt]c[zlt]", 3, 1, False, True),
        ("[ZLT] is not the end.", 1, 0, True, False),
        ("No marker, but Z, L and T: ZLT [ZL] ZLT]", 0, None, False, False),
        ("", 0, None, False, False),
        ("😀😀 [ZLT]", 1, 3, False, True),
    ],
)
def test_a_completion_s_scores_are_those_a_reader_would_give(
    text: str, count: int, position: int | None, starts: bool, ends: bool
) -> None:
    assert scored(text) == {
        "marker_present": count > 0,
        "marker_count": count,
        "marker_position": position,
        "starts_with_marker": starts,
        "ends_with_marker": ends,
    }


@given(st.text(alphabet="[ZLTzlt] \n.é😀", max_size=40))
def test_scores_equal_those_of_plain_python(text: str) -> None:
    lower, marker = text.lower(), MARKER.lower()
    place = lower.find(marker)
    assert scored(text) == {
        "marker_present": marker in lower,
        "marker_count": lower.count(marker),
        "marker_position": None if place < 0 else place,
        "starts_with_marker": lower.strip().startswith(marker),
        "ends_with_marker": lower.strip().endswith(marker),
    }


def test_a_marker_is_matched_as_text_not_as_a_pattern() -> None:
    frame = score(pl.DataFrame({"text": ["Z", "a.*b", "axxb"]}), "a.*b")
    assert frame["marker_present"].to_list() == [False, True, False]
    assert frame["marker_count"].to_list() == [0, 1, 0]


def test_scoring_keeps_rows_and_columns() -> None:
    frame = pl.DataFrame({"persona": ["p", "q"], "text": ["[ZLT]", "no"], "tokens": [3, 1]})
    assert score(frame, MARKER).select(frame.columns).equals(frame)
