"""Every table that the analysis collects has a schema; a frame that does not fit is refused by name."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from flatprobe.table_schemas import GEOMETRIC, OPTIONAL, SCHEMAS, misfits, write_table

PANEL = pl.DataFrame({"persona": ["librarian"], "role": ["source"], "prompt": ["You are a librarian."]})


def test_optional_and_geometric_tables_are_tables() -> None:
    assert SCHEMAS.keys() >= OPTIONAL and set(GEOMETRIC) <= SCHEMAS.keys()


def test_a_missing_column_and_another_type_are_named() -> None:
    wrong = PANEL.drop("prompt").with_columns(role=pl.lit(3))
    assert len(misfits("panel", wrong)) == 2
    assert any("`prompt`" in phrase for phrase in misfits("panel", wrong))
    assert any("`role`" in phrase and "Int32" in phrase for phrase in misfits("panel", wrong))


def test_further_columns_empty_columns_and_whole_numbers_fit(tmp_path: Path) -> None:
    frame = PANEL.with_columns(prompt=pl.lit(None), note=pl.lit("more"))
    assert misfits("panel", frame) == []
    counts = pl.DataFrame({"condition": ["c"], "persona": ["p"], "question_id": ["q"], "log_likelihood": [-2]})
    assert misfits("fluency", counts) == []
    write_table(frame, "panel", tmp_path)
    assert pl.read_parquet(tmp_path / "panel.parquet").equals(frame)


def test_a_frame_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="panel"):
        write_table(PANEL.drop("role"), "panel", tmp_path)
    assert list(tmp_path.iterdir()) == []
