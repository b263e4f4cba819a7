"""Tables of cells as people bring them: what is understood, and what is refused with its line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatprobe.counts.cell_files import CellFile, Where, read_cell_file
from flatprobe.counts.comparison import Comparison, compared, duplicate_problems
from flatprobe.counts.text_table import SHOWN, read_text_table

HEADER = "condition,persona,question_id,hits,total"


def csv_file(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "cells.csv"
    path.write_text("\n".join([header, *lines]), encoding="utf-8")
    return path


def read(path: Path, *where: Where) -> CellFile:
    file, problems = read_cell_file(path, where)
    assert file is not None and problems == []
    return file


def problems(path: Path, where: Sequence[Where] = ()) -> list[str]:
    return [str(problem).removeprefix(f"{path}") for problem in read_cell_file(path, where)[1]]


def test_whole_numbers_that_went_through_floats_are_counts(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,p,01,3.0,10.", "a,p,1,+2,10")
    cells = read(path).cells
    assert cells.select("question_id", "hits", "total").rows() == [("01", 3, 10), ("1", 2, 10)]
    assert cells.schema["hits"] == pl.Int64


def test_a_quoted_field_may_hold_commas_and_lines_and_the_place_stays_right(tmp_path: Path) -> None:
    path = csv_file(tmp_path, '"a","p, q",1,1,2', "", '"a","two\nlines",1,1,2', "a,p,1,3,2")
    assert problems(path) == [":6  3 hits of 2 completions is impossible"]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_any_line_ending_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "cells.csv"
    path.write_bytes(ending.join([HEADER, "a,p,1,1,2", "b,p,1,3,2"]).encode())
    assert problems(path) == [":3  3 hits of 2 completions is impossible"]


def test_parquet_of_any_column_type_reads_as_its_csv_does(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "condition": pl.Series(["a", "b"], dtype=pl.Categorical), "persona": ["p", "p"], "question_id": [1, 2],
            "hits": [1.0, 2.0], "total": pl.Series([4, 4], dtype=pl.UInt8), "coupled": [True, False],
            "rates": [[0.5], [0.5]],
        }
    )  # fmt: skip
    frame.write_parquet(tmp_path / "cells.parquet")
    frame.drop("rates").write_csv(tmp_path / "cells.csv")
    stored, text = read(tmp_path / "cells.parquet"), read(tmp_path / "cells.csv")
    assert stored.cells.drop("flatprobe:line").equals(text.cells.drop("flatprobe:line"))
    assert stored.table.place(2) == f"{tmp_path / 'cells.parquet'} row 2"


def test_a_missing_count_in_parquet_is_named_by_its_row(tmp_path: Path) -> None:
    path = tmp_path / "cells.parquet"
    cell = {"condition": ["a"] * 3, "persona": ["p"] * 3, "question_id": ["1", "2", None]}
    pl.DataFrame({**cell, "hits": [1.0, float("nan"), None], "total": [2, 2, 2]}).write_parquet(path)
    assert problems(path) == [
        " row 2  hits is NaN: not a whole number of completions",
        " row 3  hits is empty: not a whole number of completions", " row 3  question_id is empty",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "kept"), [("1", [2, 3]), ("1.0", [2, 3]), ("0.5", [1]), ("", [5]), ("Off", [4]), ("off", [4])]
)
def test_a_filter_compares_numbers_as_numbers_and_words_without_capitals(
    tmp_path: Path, value: str, kept: list[int]
) -> None:
    lambdas = ("0.5", "1", "1.00", "OFF", "")
    lines = [f"a,p,{number},1,2,{lambda_}" for number, lambda_ in enumerate(lambdas, 1)]
    path = csv_file(tmp_path, *lines, header=f"{HEADER},lambda")
    assert read(path, Where("lambda", value)).cells["question_id"].to_list() == [str(number) for number in kept]


def test_filters_hold_together_and_rows_that_they_drop_are_not_judged(tmp_path: Path) -> None:
    lines = ["a,p,1,1,2,1,7", "a,p,1,1,2,1,8", "a,p,1,9,2,2,7", "a,p,1,9,2,2,8"]
    path = csv_file(tmp_path, *lines, header=f"{HEADER},lambda,seed")
    assert read(path, Where("lambda", "1"), Where("seed", "8")).cells["flatprobe:line"].to_list() == [3]


def test_a_filter_that_keeps_nothing_says_what_there_is(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,p,1,1,2,0.5", "a,p,1,1,2,2", header=f"{HEADER},lambda")
    (problem,) = read_cell_file(path, [Where("lambda", "1")])[1]
    assert (problem.code, problem.place) == ("options.where_empty", "--where lambda=1")
    assert "0.5, 2" in str(problem.remedy)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (HEADER.encode(), "contains no row"),
        (b"\x89PNG\r\n\x1a\n\xff", "is not UTF-8 text"),
        ("ü".encode("utf-16"), "is not UTF-8 text"),
        (HEADER.replace(",", ";").encode() + b"\na;p;1;1;2", "columns are separated by semicolons"),
        (HEADER.replace(",", "\t").encode() + b"\na", "columns are separated by tabs"),
        (b"condition,hits,hits\na,1,2", "the header names `hits` more than once"),
        (HEADER.encode() + b'\n"a"b,p,1,1,2', ":2  is not CSV"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_words(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "cells.csv"
    path.write_bytes(content)
    file, found = read_cell_file(path)
    assert file is None and said in "\n".join(map(str, found))


def test_files_that_are_not_there_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "cells.parquet").write_bytes(b"PAR1")
    said = {"none.csv": "no such file", "folder.csv": "a folder", "cells.tsv": "is not .csv or .parquet",
            "cells.parquet": "is not a Parquet file"}  # fmt: skip
    for name, words in said.items():
        table, (problem,) = read_text_table(tmp_path / name)
        assert table is None and words in problem.message


def test_every_absent_column_is_named_with_what_it_may_be_called(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,p,1,2", header="condition,personna,question,total")
    assert problems(path) == [
        "  there is no column `persona` (did you mean `personna`?)",
        "  there is no column `question_id` (did you mean `question`?)",
        "  there is no column `hits` (there is condition, personna, question, total)",
    ]


def test_a_flood_of_bad_rows_is_counted_after_the_first_ones(tmp_path: Path) -> None:
    found = problems(csv_file(tmp_path, *["a,p,1,x,2"] * 100))
    assert len(found) == SHOWN + 1 and found[-1] == f"  and {100 - SHOWN} more problems like these"


def duplicates(path: Path) -> list[str]:
    file = read(path)
    asked = Comparison("a", "b", ("p",))
    return [str(problem).removeprefix(str(path)) for problem in duplicate_problems(file, compared(file, asked))]


def test_the_columns_that_tell_repeated_cells_apart_are_all_named(tmp_path: Path) -> None:
    lines = [f"a,p,1,1,2,{index},{seed},{lambda_}" for index, (seed, lambda_) in enumerate([(1, 2), (1, 3), (2, 2)])]
    (said,) = duplicates(csv_file(tmp_path, *lines, header=f"{HEADER},end_hits,seed,lambda"))
    assert "lambda is 2, 3; seed is 1, 2" in said and "`--where lambda=2 --where seed=1`" in said


def test_repeated_cells_outside_the_comparison_do_not_matter(tmp_path: Path) -> None:
    assert duplicates(csv_file(tmp_path, "a,q,1,1,2", "a,q,1,1,2", "c,p,1,1,2", "c,p,1,1,2", "a,p,1,1,2")) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 10), st.integers(0, 10), st.text("qp, \"'é;", min_size=1).map(lambda s: f"x{s}x")),
        min_size=1, max_size=20,
    )
)  # fmt: skip
def test_what_is_read_is_what_was_written_and_wrong_rows_are_those_that_are_wrong(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, str]]
) -> None:
    path = tmp_path_factory.mktemp("cells") / "cells.csv"
    frame = pl.DataFrame(
        [("a", name, str(index), hits, total) for index, (hits, total, name) in enumerate(rows)],
        schema=HEADER.split(","), orient="row",
    )  # fmt: skip
    frame.write_csv(path)
    right = frame.filter(pl.col("hits") <= pl.col("total"), pl.col("total") > 0)
    file, found = read_cell_file(path)
    assert len(found) == min(frame.height - right.height, SHOWN + 1)
    assert (file is None) == right.is_empty()
    if file is not None:
        assert file.cells.select(HEADER.split(",")).equals(right)


@pytest.mark.parametrize("module", ["flatprobe.cli.analyse", "flatprobe.cli.score"])
def test_the_commands_start_without_torch_and_without_scipy(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'scipy'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
