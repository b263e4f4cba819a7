from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from cell_tables import pair, table
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from flatprobe.errors import UserError
from flatprobe.statistics.leakage.cells import PairedCells, pair_cells

CELLS = table([[1, 2, 3], [4, 5, 6]], [[0, 0, 1], [2, 2, 2]])


def broken(column: str, value: object) -> pl.DataFrame:
    """`CELLS` with one value of its first row replaced, in a column of floats or text."""
    kind = pl.Float64 if column in ("hits", "total") else pl.String
    values = CELLS[column].cast(kind).to_list()
    return CELLS.with_columns(pl.Series(column, [value, *values[1:]], dtype=kind))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("hits", float("nan"), "hits = nan, total = 10: counts are whole numbers"),
        ("total", float("nan"), "counts are whole numbers"),
        ("hits", float("inf"), "counts are whole numbers"),
        ("hits", 3.5, "hits = 3.5, total = 10: counts are whole numbers"),
        ("hits", None, "hits = None"),
        ("hits", -1.0, "-1.0 hits of 10 completions is impossible"),
        ("hits", 11.0, "11.0 hits of 10 completions is impossible"),
        ("total", 0.0, "1 hits of 0.0 completions is impossible"),
        ("persona", None, "1 row without a persona"),
        ("question_id", None, "1 row without a question_id"),
        ("condition", None, "1 row without a condition"),
    ],
)
def test_a_row_that_is_not_a_cell_is_refused_by_name(column: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        pair_cells(broken(column, value), "em_first", "base_first", ["a", "b"])
    assert message in str(caught.value)


def test_whole_counts_written_as_floats_are_counts() -> None:
    floats = CELLS.with_columns(pl.col("hits", "total").cast(pl.Float64))
    assert pair(floats).differences.tolist() == pair(CELLS).differences.tolist()


def test_counts_that_are_words_are_refused() -> None:
    words = CELLS.with_columns(pl.col("hits").cast(pl.String))
    with refused(("cells.column_type", "leakage cells: hits")):
        pair(words)


def test_question_ids_may_be_numbers_but_not_nan() -> None:
    numbers = CELLS.with_columns(question_id=pl.col("question_id").str.slice(1).cast(pl.Float64))
    assert pair(numbers).questions == ("0.0", "1.0", "2.0")
    with refused("cells.missing_key"):
        pair(numbers.with_columns(question_id=pl.col("question_id").replace({2.0: float("nan")})))


def test_rows_of_other_conditions_and_personas_may_be_anything() -> None:
    other = broken("hits", float("nan")).with_columns(condition=pl.lit("c3"))
    reference = broken("hits", 99.0).with_columns(persona=pl.lit("assistant"))
    cells = pl.concat([CELLS.with_columns(pl.col("hits").cast(pl.Float64)), other, reference])
    paired = pair_cells(cells, "em_first", "base_first", ["a", "b"])
    assert paired.differences.tolist() == pair(CELLS).differences.tolist()


def test_a_persona_whose_questions_the_conditions_do_not_share_is_refused() -> None:
    treated = (pl.col("condition") == "em_first") & (pl.col("persona") == "a")
    apart = CELLS.with_columns(
        question_id=pl.when(treated).then(pl.lit("x") + pl.col("question_id")).otherwise("question_id")
    )
    with refused("cells.no_common_question"):
        pair(apart)


def test_a_question_of_one_condition_only_counts_as_missing_and_is_not_averaged() -> None:
    gone = (pl.col("condition") == "em_first") & (pl.col("question_id") == "q01")
    paired = pair(CELLS.filter(~gone))
    assert paired.missing == 2
    assert paired.differences == pytest.approx([0.1, 0.2, 0.2, 0.4])
    d_PQ, n_PQ = paired.table()
    assert d_PQ == pytest.approx(np.array([[0.1, 0.2], [0.2, 0.4]])) and n_PQ is not None and n_PQ.all()


@given(
    present=st.lists(st.booleans(), min_size=12, max_size=12).filter(any),
    left_out=st.tuples(st.integers(0, 2), st.integers(0, 3)),
)
@settings(max_examples=60, deadline=None)
def test_leaving_out_a_persona_or_question_is_the_same_as_never_having_had_it(
    present: list[bool], left_out: tuple[int, int]
) -> None:
    places = np.flatnonzero(present)
    missing = 12 - len(places)
    paired = PairedCells(
        personas=("a", "b", "c"),
        questions=("p", "q", "r", "s"),
        hits_treated=places + 1,
        total_treated=np.full(len(places), 20),
        hits_control=np.zeros(len(places), dtype=np.int64),
        total_control=np.full(len(places), 20),
        missing=missing,
        places=places if missing else None,
    )
    names = paired.personas[left_out[0]], paired.questions[left_out[1]]
    rest = paired.without(persona=names[0], question=names[1])
    kept = [place for place in places.tolist() if place // 4 != left_out[0] and place % 4 != left_out[1]]
    assert rest.hits_treated.tolist() == [place + 1 for place in kept]
    assert rest.missing == 6 - len(kept)
    again = np.arange(6) if rest.places is None else rest.places
    pairs = [(rest.personas[at // 3], rest.questions[at % 3]) for at in again[: len(kept)].tolist()]
    assert pairs == [("abc"[place // 4], "pqrs"[place % 4]) for place in kept]


def test_cells_that_do_not_fill_their_table_are_a_defect() -> None:
    one = np.ones(1, dtype=np.int64)
    with pytest.raises(ValueError, match="table of 2"):
        PairedCells(("a",), ("p", "q"), one, one, one, one, missing=0)
