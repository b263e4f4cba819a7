from __future__ import annotations

import polars as pl
import pytest
from scipy import stats

from flatprobe.analysis.manipulation import Rise, breadth, rises

BASE = [-1.0, -2.0, -3.0]


def frame(condition: str, set_: str, values: list[float]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"condition": condition, "set": set_, "id": f"{set_}_{i}", "log_odds": value}
            for i, value in enumerate(values)
        ]
    )


def test_a_rise_is_paired_by_text_and_its_lower_end_that_of_a_paired_t() -> None:
    treated = [0.5, -1.8, -1.0]
    table = pl.concat(
        [
            frame("em", "in_domain", treated[::-1]).with_columns(id=pl.Series([f"in_domain_{i}" for i in (2, 1, 0)])),
            frame("base", "in_domain", BASE),
            frame("em", "out_of_domain", [9.0, 9.0]),
        ]
    )  # fmt: skip
    found = rises(table, "base", "in_domain", 0.95)
    assert set(found) == {"em"}
    expected = stats.ttest_rel(treated, BASE).confidence_interval(0.95).low
    assert found["em"].low == pytest.approx(float(expected))
    assert (found["em"].mean, found["em"].texts) == (pytest.approx(1.2333, abs=1e-3), 3)
    assert rises(table, "base", "out_of_domain", 0.95) == {}  # the control has no such text


def test_one_text_has_a_rise_and_no_interval_and_seeds_are_averaged_first() -> None:
    table = pl.concat(
        [frame("base", "in_domain", [-1.0]), frame("em", "in_domain", [1.0]), frame("em", "in_domain", [2.0])]
    )
    assert rises(table, "base", "in_domain", 0.95) == {"em": Rise(2.5, None, 1)}


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        (0.1, 0.1, "broad"), (0.1, 0.0, "narrow"), (0.0, 0.5, "none"), (-0.1, None, "none"), (0.1, None, "unknown"),
        (None, 0.1, "unknown"),
    ],
)  # fmt: skip
def test_how_far_a_finetune_reached_follows_from_both_lower_ends(
    inside: float | None, outside: float | None, expected: str
) -> None:
    ends = [{"em": Rise(1.0, low, 5)} for low in (inside, outside)]
    assert breadth(*ends) == {"em": expected}


def test_a_set_that_a_condition_lacks_leaves_it_unknown_unless_it_did_not_rise_in_domain() -> None:
    assert breadth({"em": Rise(1.0, 0.5, 5), "benign": Rise(0.0, -1.0, 5)}, {}) == {
        "em": "unknown", "benign": "none",
    }  # fmt: skip
    assert breadth({}, {"em": Rise(1.0, 0.5, 5)}) == {"em": "unknown"}
