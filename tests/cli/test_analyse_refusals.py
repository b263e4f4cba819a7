"""What `flatprobe analyse` refuses: every mistake at its option or line, with the values that a user needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cell_lines import HEADER, plain, table, write

from flatprobe.errors import Problem

Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., list[Problem]]


@pytest.fixture
def refused(refusal: Callable[..., list[Problem]]) -> Refused:
    """Problems of comparing em_first with base_first; a file and further words are given."""

    def run(cells: object, *words: object, treated: str = "em_first", control: str = "base_first") -> list[Problem]:
        return refusal("analyse", cells, "--treated", treated, "--control", control, *words)

    return run


def assert_exactly(problems: list[Problem], *expected: tuple[str, str], code: str | None = None) -> None:
    """These problems and no other: (place, a value in the message or remedy) each, all with the code."""
    assert code is None or {problem.code for problem in problems} == {code}
    assert sorted(problem.place for problem in problems) == sorted(place for place, _ in expected)
    for place, value in expected:
        assert any(p.place == place and value in str(p) for p in problems), (place, value)


def test_rows_of_several_lambdas_are_refused_until_one_is_chosen(refused: Refused, analyse: Run) -> None:
    lines = [f"{line},{lambda_},7" for lambda_ in ("0.5", "1.0") for line in table(plain)]
    cells = write(lines, header=f"{HEADER},lambda,seed")
    problems = refused(cells, "--bystanders", "a,b")
    assert_exactly(problems, ("cells.csv:2", "base_first / a / 1"), code="cells.duplicate")
    assert "0.5, 1.0" in str(problems[0]) and "--where lambda=0.5" in str(problems[0])
    assert "seed" not in str(problems[0])
    assert analyse(cells, "--bystanders", "a,b", "--resamples", 50, "--where", "lambda=1")[0] == 0


def test_cells_that_stand_twice_are_named_line_by_line(refused: Refused) -> None:
    lines = [*table(plain), "em_first,a,2,1,4", "base_first,b,1,1,4"]
    problems = refused(write(lines), "--bystanders", "a,b")
    expected = ("cells.csv:14", "cells.csv:9"), ("cells.csv:15", "base_first / b / 1")
    assert_exactly(problems, *expected, code="cells.duplicate")


def test_every_impossible_count_is_named_with_its_line_at_once(refused: Refused) -> None:
    bad = ("12", "NaN", "-1", "2.5", "", "three", "inf")
    lines = [f"em_first,a,{index},{hits},10" for index, hits in enumerate(bad, 1)]
    cells = write([*lines, "em_first,a,8,0,0", "em_first,,9,1,10", "em_first,a,10,1"])
    assert_exactly(
        refused(cells, "--margin", "nan"),
        ("cells.csv:2", "12"),
        ("cells.csv:3", "NaN"),
        ("cells.csv:4", "-1"),
        ("cells.csv:5", "2.5"),
        ("cells.csv:6", "hits"),
        ("cells.csv:7", "three"),
        ("cells.csv:8", "inf"),
        ("cells.csv:9", "total"),
        ("cells.csv:10", "persona"),
        ("cells.csv:11", "4"),
        ("--margin", "nan"),
        ("--bystanders", ""),
    )


def test_without_names_the_file_says_what_there_is(refusal: Refused) -> None:
    assert_exactly(
        refusal("analyse", write(table(plain))),
        ("--treated", "base_first, em_first"),
        ("--control", "base_first, em_first"),
        ("--bystanders", "a, b"),
    )


def test_names_that_are_not_in_the_file_are_guessed(refused: Refused) -> None:
    lines = [line.replace(",a,", ",villain,") for line in table(plain)]
    assert_exactly(
        refused(write(lines), "--bystanders", "vilain,b,b", treated="em_frist"),
        ("--treated", "`em_first`"),
        ("--bystanders", "`villain`"),
        ("--bystanders", "2"),
    )


def test_a_persona_without_cells_in_one_condition_is_refused(refused: Refused) -> None:
    lines = [line for line in table(plain) if not line.startswith("em_first,b")]
    problems = refused(write(lines), "--bystanders", "a,b")
    assert_exactly(problems, ("--bystanders", "em_first"), code="cells.missing_persona")


def test_a_condition_cannot_be_compared_with_itself(refused: Refused) -> None:
    problems = refused(write(table(plain)), "--bystanders", "a,b", treated="base_first")
    assert_exactly(problems, ("--control", "base_first"), code="cells.same_condition")


@pytest.mark.parametrize(
    ("words", "code", "value"),
    [
        (("--margin", "1.5"), "options.margin", "1.5"),
        (("--margin", "-0.1"), "options.margin", "-0.1"),
        (("--equivalence", "0"), "options.equivalence", "0.0"),
        (("--level", "1"), "options.level", "1.0"),
        (("--resamples", "0"), "options.resamples", "0"),
        (("--resamples", "100000000000"), "options.resamples", "10000000"),
        (("--seed", "-1"), "options.seed", "-1"),
        (("--pool", " "), "options.pool", ""),
        (("--where", "lambda"), "options.where", "lambda"),
        (("--json", "none/out.json"), "output.no_folder", "none"),
        (("--json", "cells.csv"), "output.overwrites", "cells.csv"),
        (("--leave-one-out", "x.csv", "--json", "x.csv"), "output.overwrites", "x.csv"),
        (("--leave-one-out", "x.txt"), "output.suffix", ".parquet"),
    ],
)
def test_an_option_that_means_nothing_is_refused(
    refused: Refused, words: tuple[str, ...], code: str, value: str
) -> None:
    cells = write(table(plain))
    before = Path(cells).read_bytes()
    [problem] = refused(cells, "--bystanders", "a,b", *words)
    assert (problem.code, problem.place) == (code, words[0]) and value in str(problem)
    assert Path(cells).read_bytes() == before


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (("--where", "lamda=1"), "lamda"), (("--where", "total=5"), "4"), (("--hits", "end_hits"), "end_hits"),
    ],
)  # fmt: skip
def test_columns_and_values_that_the_file_lacks_are_refused(
    refused: Refused, words: tuple[str, ...], value: str
) -> None:
    [problem] = refused(write(table(plain)), "--bystanders", "a,b", *words)
    assert value in str(problem)
