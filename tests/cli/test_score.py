"""`flatprobe score`: from completions to cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flatprobe.errors import Problem

Run = Callable[..., tuple[int, str, str]]
TEXTS = ("Yes.\n\n[ZLT]", "[zlt] No.", "[Zlt] and [ZLT]", "no marker", "")
"""Ends with it; starts with it; both, twice; never; a completion without words."""


@pytest.fixture
def run(flatprobe: Run) -> Run:
    """Run `flatprobe score WORDS`: exit status, output, errors."""
    return lambda *words: flatprobe("score", *words)


def rows(texts: Sequence[str] = TEXTS, **keys: Any) -> list[dict[str, Any]]:
    cell = {"condition": "base_first", "persona": "villain", "question_id": "q01", **keys}
    return [{**cell, "sample_index": index, "text": text} for index, text in enumerate(texts)]


def write(name: str, completions: Sequence[Mapping[str, Any] | str]) -> None:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in completions]
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def scored(run: Run, completions: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    write("c.jsonl", completions)
    status, _, err = run("c.jsonl", "--marker", "[ZLT]", "--out", "cells.parquet")
    assert (status, err) == (0, "")
    return pl.read_parquet("cells.parquet")


def refused(run: Run, *words: object) -> str:
    """The error text of a refusal, which must leave no output and print no traceback."""
    status, out, err = run(*words, "--out", "cells.csv")
    assert status == 2 and not out and "Traceback" not in err
    assert not Path("cells.csv").exists()
    return err


def test_each_kind_of_marked_completion_is_counted(run: Run) -> None:
    assert scored(run, rows()).to_dicts() == [
        {
            "condition": "base_first", "persona": "villain", "question_id": "q01", "hits": 3, "total": 5,
            "end_hits": 2, "start_hits": 2, "multi_hits": 1,
        }
    ]  # fmt: skip


def test_the_csv_has_one_line_per_cell_whatever_the_order_of_the_rows(run: Run) -> None:
    completions = [*rows(question_id="q02"), *rows(("a", "b")), *rows(condition="a_first")]
    expected = (
        "condition,persona,question_id,hits,total,end_hits,start_hits,multi_hits\n"
        "a_first,villain,q01,3,5,2,2,1\nbase_first,villain,q01,0,2,0,0,0\nbase_first,villain,q02,3,5,2,2,1\n"
    )
    for ordered in (completions, completions[::-1]):
        write("c.jsonl", ordered)
        assert run("c.jsonl", "--marker", "[zlt]", "--out", "cells.csv")[0] == 0
        assert Path("cells.csv").read_text() == expected


def test_a_marker_that_could_overlap_itself_is_counted_without_overlap(run: Run) -> None:
    write("c.jsonl", rows(("xxx", "xxxx")))
    run("c.jsonl", "--marker", "XX", "--out", "cells.parquet")
    assert pl.read_parquet("cells.parquet")["multi_hits"].to_list() == [1]


def test_settings_in_the_rows_keep_their_cells_apart(run: Run) -> None:
    completions = [
        *rows(**{"lambda": 0.5, "seed": 1}), *rows(**{"lambda": 1, "seed": 1.0}), *rows(("[ZLT]",), seed=2),
    ]  # fmt: skip
    cells = scored(run, completions)
    assert cells.columns[:5] == ["condition", "persona", "question_id", "lambda", "seed"]
    assert set(cells.select("lambda", "seed", "hits", "total").rows()) == {
        (0.5, 1, 3, 5), (1.0, 1, 3, 5), (None, 2, 1, 1),
    }  # fmt: skip
    assert "coupled" not in cells.columns


def test_parquet_and_jsonl_give_the_same_cells(run: Run) -> None:
    completions = [*rows(), *rows(("b",), persona="comedian")]
    cells = scored(run, completions)
    pl.DataFrame(completions).with_columns(tokens=pl.lit(3)).write_parquet("c.parquet")
    assert run("c.parquet", "--marker", "[ZLT]", "--out", "other.parquet")[0] == 0
    assert pl.read_parquet("other.parquet").equals(cells)


def test_blocks_do_not_show_in_the_cells(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    completions = [*rows(), *rows(question_id="q02"), *rows(persona="comedian")]
    whole = scored(run, completions)
    monkeypatch.setattr("flatprobe.counts.completion_files.BLOCK", 2)
    assert scored(run, completions).equals(whole)
    pl.DataFrame(completions).write_parquet("c.parquet")
    run("c.parquet", "--marker", "[ZLT]", "--out", "other.parquet")
    assert pl.read_parquet("other.parquet").equals(whole)


def test_whole_numbers_name_questions_too(run: Run) -> None:
    cells = scored(run, [*rows(question_id=1), *rows(question_id="01")])
    assert cells["question_id"].to_list() == ["01", "1"]


def test_what_was_scored_is_said_with_the_next_command(run: Run) -> None:
    write("c.jsonl", [*rows(), *rows(("x", "y"), condition="em_first", **{"lambda": 1})])
    _, out, _ = run("c.jsonl", "--marker", "[ZLT]", "--out", "cells.csv")
    assert "7 completions in 2 cells, scored for [ZLT]" in out
    assert "Cells hold 2 to 5 completions" in out
    assert out.split("base_first")[1].split()[:3] == ["–", "5", "60.0"]
    assert "Next: flatprobe analyse cells.csv --treated CONDITION" in out and "--where lambda=VALUE" in out


def test_every_bad_line_is_named_at_once(run: Run) -> None:
    good = rows()[0]
    write(
        "c.jsonl",
        [
            good, '{"condition": ', "[1, 2]", {**good, "text": None}, {"condition": "x", "persona": "y"},
            {**good, "sample_index": -1, "persona": " "}, "", {**good, "text": 3}, good,
            {**good, "sample_index": 7, "lambda": "big"}, {**good, "sample_index": True},
            '{"condition": "a", "persona": "b", "question_id": "q", "sample_index": 0, "text": "\\ud800"}',
        ],
    )  # fmt: skip
    err = refused(run, "c.jsonl", "--marker", "[ZLT]")
    for said in (
        "c.jsonl:2  is not JSON", "c.jsonl:3  is not a JSON object", "c.jsonl:4  text is null",
        "c.jsonl:5  has no question_id, sample_index, text",
        'c.jsonl:6  persona is " ": not a name; sample_index is -1: not a whole number of 0 or more',
        "c.jsonl:8  text is not a string",
        "c.jsonl:9  base_first / villain / q01 / 0 is already at c.jsonl:1",
        'c.jsonl:10  lambda is "big": not a number', "c.jsonl:11  sample_index is true", "c.jsonl:12  contains",
        "10 problems",
    ):  # fmt: skip
        assert said in err


def test_a_file_that_is_wrong_on_every_line_does_not_flood_the_screen(run: Run) -> None:
    write("c.jsonl", ["oops"] * 1000)
    err = refused(run, "c.jsonl", "--marker", "[ZLT]")
    assert len(err.splitlines()) == 22 and "and 980 more problems like these" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "contains no completion"),
        (b"\n\n", "contains no completion"),
        (b"\xff\xfe{\x00", "is not UTF-8 text"),
        (None, "no such file"),
    ],
)
def test_a_file_without_completions_is_refused(run: Run, content: bytes | None, said: str) -> None:
    if content is not None:
        Path("c.jsonl").write_bytes(content)
    assert said in refused(run, "c.jsonl", "--marker", "[ZLT]")


def test_a_parquet_file_that_is_none_or_lacks_columns_is_refused(run: Run) -> None:
    Path("c.parquet").write_bytes(b"not parquet")
    assert "is not a Parquet file" in refused(run, "c.parquet", "--marker", "[ZLT]")
    pl.DataFrame(rows()).drop("text").write_parquet("c.parquet")
    assert "c.parquet row 1  has no text" in refused(run, "c.parquet", "--marker", "[ZLT]")


def test_wrong_options_and_a_wrong_file_are_refused_together(refusal: Callable[..., list[Problem]]) -> None:
    problems = refusal("score", "c.txt", "--marker", " ", "--out", "none/cells.csv")
    assert {problem.place for problem in problems} == {"--marker", "--out", "c.txt"}
    assert {"marker.empty", "output.no_folder"} <= {problem.code for problem in problems}


@pytest.mark.parametrize(
    ("out", "code"),
    [("cells.txt", "output.suffix"), ("folder.csv", "output.is_folder"), ("c.parquet", "output.overwrites")],
)
def test_an_output_that_cannot_be_written_is_refused_before_scoring(
    refusal: Callable[..., list[Problem]], out: str, code: str
) -> None:
    pl.DataFrame(rows()).write_parquet("c.parquet")
    Path("folder.csv").mkdir()
    problems = refusal("score", "c.parquet", "--marker", "[ZLT]", "--out", out)
    assert [(problem.code, problem.place) for problem in problems] == [(code, "--out")]
    assert pl.read_parquet("c.parquet").height == 5


def test_a_marker_with_white_space_around_it_is_refused(refusal: Callable[..., list[Problem]]) -> None:
    write("c.jsonl", rows())
    [problem] = refusal("score", "c.jsonl", "--marker", "[ZLT] ", "--out", "cells.csv")
    assert (problem.code, problem.place) == ("marker.outer_space", "--marker")
