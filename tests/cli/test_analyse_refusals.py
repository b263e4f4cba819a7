"""What `flatprobe analyse` refuses, in words that say where and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cell_lines import HEADER, plain, table, write

Run = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str], *said: str) -> str:
    status, out, err = result
    assert status == 2 and not out and "Traceback" not in err
    for words in said:
        assert words in err
    return err


def test_rows_of_several_lambdas_are_refused_until_one_is_chosen(analyse: Run) -> None:
    lines = [f"{line},{lambda_},7" for lambda_ in ("0.5", "1.0") for line in table(plain)]
    cells = write(lines, header=f"{HEADER},lambda,seed")
    err = refused(
        analyse(cells, "--bystanders", "a,b"), "cells.csv:2  base_first / a / 1 and other cells appear"
    )
    assert "lambda is 0.5, 1.0" in err and "`--where lambda=0.5`" in err and "seed" not in err
    assert analyse(cells, "--bystanders", "a,b", "--resamples", 50, "--where", "lambda=1")[0] == 0


def test_cells_that_stand_twice_are_named_line_by_line(analyse: Run) -> None:
    lines = [*table(plain), "em_first,a,2,1,4", "base_first,b,1,1,4"]
    refused(
        analyse(write(lines), "--bystanders", "a,b"),
        "cells.csv:14  em_first / a / 2 is already at cells.csv:9", "cells.csv:15  base_first / b / 1",
        "2 problems",
    )  # fmt: skip


def test_every_impossible_count_is_named_with_its_line_at_once(analyse: Run) -> None:
    bad = ("12", "NaN", "-1", "2.5", "", "three", "inf")
    lines = [f"em_first,a,{index},{hits},10" for index, hits in enumerate(bad, 1)]
    err = refused(
        analyse(write([*lines, "em_first,a,8,0,0", "em_first,,9,1,10", "em_first,a,10,1"]), "--margin", "nan"),
        "cells.csv:2  12 hits of 10 completions is impossible", "cells.csv:3  hits is NaN: not a whole number",
        "cells.csv:4  hits is -1", "cells.csv:5  hits is 2.5", "cells.csv:6  hits is empty",
        "cells.csv:7  hits is three",
        "cells.csv:8  hits is inf", "cells.csv:9  total is 0", "cells.csv:10  persona is empty",
        "cells.csv:11  4 fields under 5 columns", "--margin  nan is not in [0, 1]",
        "--bystanders  name the personas to pool",
    )  # fmt: skip
    assert "nothing was run" in err


def test_without_names_the_file_says_what_there_is(flatprobe: Run) -> None:
    refused(
        flatprobe("analyse", write(table(plain))),
        "--treated  name a condition (the file has base_first, em_first)", "--control  name a condition",
        "--bystanders  name the personas to pool (choose from those never trained on: a, b)", "3 problems",
    )  # fmt: skip


def test_names_that_are_not_in_the_file_are_guessed(analyse: Run) -> None:
    lines = [line.replace(",a,", ",villain,") for line in table(plain)]
    refused(
        analyse(write(lines), "--bystanders", "vilain,b,b", treated="em_frist"),
        "--treated  cells.csv has no condition `em_frist` (did you mean `em_first`?)",
        "--bystanders  cells.csv has no persona `vilain` (did you mean `villain`?)",
        "--bystanders  `b` is named 2 times",
    )  # fmt: skip


def test_a_persona_without_cells_in_one_condition_is_refused(analyse: Run) -> None:
    lines = [line for line in table(plain) if not line.startswith("em_first,b")]
    refused(
        analyse(write(lines), "--bystanders", "a,b"), "cells.csv has no cell of b in em_first", "1 problem;"
    )


def test_a_condition_cannot_be_compared_with_itself(analyse: Run) -> None:
    refused(analyse(write(table(plain)), "--bystanders", "a,b", treated="base_first"), "compared with itself")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--margin", "1.5"), "--margin  1.5 is not in [0, 1] (15 pp are 0.15)"),
        (("--margin", "-0.1"), "--margin  -0.1"),
        (("--equivalence", "0"), "--equivalence  0.0"),
        (("--level", "1"), "--level  1.0"),
        (("--resamples", "0"), "--resamples  0"),
        (("--resamples", "100000000000"), "do not fit into memory"),
        (("--seed", "-1"), "--seed  -1 is negative"),
        (("--pool", " "), "--pool"),
        (("--where", "lambda"), "--where  `lambda`"),
        (("--where", "lamda=1"), "--where lamda=1  cells.csv has no column `lamda`"),
        (("--where", "total=5"), "selects no row of cells.csv (its values are 4)"),
        (("--hits", "end_hits"), "there is no column `end_hits`"),
        (("--json", "none/out.json"), "--json  there is no folder none"),
        (("--json", "cells.csv"), "--json  cells.csv is read or written"),
        (("--json", "x.csv", "--leave-one-out", "x.csv"), "--leave-one-out  x.csv is read or written"),
        (("--leave-one-out", "x.txt"), "is not .csv or .parquet"),
    ],
)
def test_an_option_that_means_nothing_is_refused(analyse: Run, words: tuple[str, ...], said: str) -> None:
    cells = write(table(plain))
    before = Path(cells).read_bytes()
    refused(analyse(cells, "--bystanders", "a,b", *words), said, "1 problem")
    assert Path(cells).read_bytes() == before
