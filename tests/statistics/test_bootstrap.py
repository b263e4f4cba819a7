from __future__ import annotations

import numpy as np
import pytest

from flatprobe.statistics import bootstrap
from flatprobe.statistics.bootstrap import multinomial_weights, percentile_summary, two_sided_p


def test_the_registered_p_counts_the_smaller_tail_and_is_never_zero() -> None:
    assert two_sided_p(np.array([1.0, 2.0, 3.0])) == 2 * 1 / 4
    assert two_sided_p(np.array([-1.0, 1.0, 2.0, 3.0, 4.0])) == pytest.approx(2 * 2 / 6)
    assert two_sided_p(np.zeros(9)) == 1.0


def test_a_draw_that_equals_the_null_up_to_rounding_counts_on_both_sides() -> None:
    assert two_sided_p(np.array([0.1 + 0.2 - 0.3, 1.0, 1.0, 1.0])) == pytest.approx(2 * 2 / 5)


def test_undefined_draws_count_against_the_interval_instead_of_being_dropped() -> None:
    draws = np.linspace(1, 2, 1000)
    few, many = draws.copy(), draws.copy()
    few[::100], many[::10] = np.nan, np.nan
    whole, cautious, refused = (percentile_summary(values, 1.5, 0.95) for values in (draws, few, many))
    assert whole.low is not None and cautious.low is not None and cautious.low < whole.low
    assert whole.high is not None and cautious.high is not None and cautious.high > whole.high
    assert cautious.p_value > whole.p_value and cautious.undefined == 10
    assert refused.low is None and refused.high is None


def test_weights_come_in_blocks_that_hold_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CHUNK_VALUES", 70)
    blocks = list(multinomial_weights(7, 25, np.random.default_rng(1)))
    assert [len(block) for block in blocks] == [10, 10, 5]
    assert all((block.sum(axis=1) == 7).all() for block in blocks)
