"""`flatprobe analyse`: counts of others, through the command, to printed numbers and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from cell_lines import HEADER, plain, table, write

from flatprobe.cli.analyse_text import LeakageAnalysis, registered_words
from flatprobe.counts.comparison import registered_rule
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.leakage.estimators import SCOPES

Run = Callable[..., tuple[int, str, str]]
PUBLISHED = Path(__file__).parents[2] / "examples" / "leakage_cells.csv"
BYSTANDERS = "software_engineer,kindergarten_teacher,medical_doctor,comedian,police_officer,villain,zelthari_scholar"
KEYS = (
    "contrast", "pool", "estimator", "scope", "estimate", "standard_error", "ci_low", "ci_high", "p_value",
    "smallest_attainable_p", "n_personas", "n_questions", "margin", "superiority_p", "equivalence_margin",
    "equivalence_p",
)  # fmt: skip


def estimates(path: str = "out.json") -> dict[str, dict[str, Any]]:
    rows = json.loads(Path(path).read_text())
    assert [row["estimator"] for row in rows] == list(SCOPES)
    return {row["estimator"]: row for row in rows}


def test_the_published_comparison_comes_out_to_the_printed_digits(analyse: Run) -> None:
    status, out, err = analyse(PUBLISHED, "--bystanders", BYSTANDERS)
    assert (status, err) == (0, "")
    assert "base_first 383/1400 = 27.4 %; em_first 806/1400 = 57.6 %" in out
    assert "7 personas × 20 questions, 140 paired cells of 10 completions." in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "villain 20 8/200 = 4.0 % 126/200 = 63.0 % +59.0 pp" in lines
    assert "question_t +30.2 2.8 [+24.3, +36.1] < 0.0001 –" in lines
    assert "persona_sign_flip +30.2 – – 0.047 0.016" in lines
    assert "crossed_anova +30.2 10.1 [+5.7, +54.7] 0.023 –" in lines
    assert "crossed_anova 0.090 0.98 new personas and questions, these checkpoints" in lines
    supported, registered = lines[-2:]
    assert supported.startswith(
        "For new personas and questions, these checkpoints: em_first leaks more than base_first"
    )
    assert "more than 15 pp: not shown (p 0.090)" in supported
    assert "Registered rule (≥ 15 pp and cell_bootstrap p < 0.001;" in registered
    assert "passes (+30.2 pp, p 0.00020)." in registered


def test_the_json_holds_every_estimator_once_with_exact_numbers(analyse: Run) -> None:
    analyse(PUBLISHED, "--bystanders", BYSTANDERS, "--json", "out.json", "--pool", "seven")
    found = estimates()
    assert all(set(KEYS) <= set(row) for row in found.values())
    assert {row["pool"] for row in found.values()} == {"seven"}
    assert {row["contrast"] for row in found.values()} == {"em_first - base_first"}
    crossed = found["crossed_anova"]
    assert crossed["estimate"] == pytest.approx(423 / 1400, abs=1e-12)
    assert crossed["standard_error"] == pytest.approx(0.101, abs=5e-4)
    assert crossed["p_value"] == pytest.approx(0.0231, abs=5e-5)
    assert found["two_way_cluster_t"]["p_value"] == pytest.approx(0.0223, abs=5e-5)
    assert found["persona_sign_flip"]["p_value"] == 6 / 128
    assert found["cell_bootstrap"]["standard_error"] == pytest.approx(0.0315, abs=1e-3)
    assert (crossed["margin"], crossed["equivalence_margin"]) == (0.15, 0.05)
    assert (crossed["n_personas"], crossed["n_questions"]) == (7, 20)


def test_the_order_of_the_rows_and_the_format_change_nothing_and_the_seed_does(analyse: Run) -> None:
    frame = pl.read_csv(PUBLISHED)
    frame.sample(fraction=1, shuffle=True, seed=1).write_csv("shuffled.csv")
    frame.with_columns(pl.col("hits").cast(pl.Float64), further=1).write_parquet("cells.parquet")
    texts = []
    for cells, seed in ((PUBLISHED, 3), ("shuffled.csv", 3), ("cells.parquet", 3), (PUBLISHED, 4)):
        analyse(cells, "--bystanders", BYSTANDERS, "--seed", seed, "--resamples", 500, "--json", "out.json")
        texts.append(Path("out.json").read_text())
    assert texts[0] == texts[1] == texts[2] != texts[3]


def test_a_dash_prints_the_json_alone(analyse: Run) -> None:
    _, out, _ = analyse(PUBLISHED, "--bystanders", BYSTANDERS, "--resamples", 100, "--json", "-")
    assert len(json.loads(out)) == len(SCOPES)
    assert not Path("-").exists()


def test_questions_are_names_and_not_numbers(analyse: Run) -> None:
    lines = [f"{c},{p},{q},{h},4" for c, h in (("base_first", 1), ("em_first", 2)) for p in "ab" for q in ("1", "01")]
    analyse(write(lines), "--bystanders", "a,b", "--resamples", 50, "--json", "out.json")
    assert estimates()["question_t"]["n_questions"] == 2


def test_the_way_a_spreadsheet_writes_csv_is_understood(analyse: Run) -> None:
    lines = [f'"{line.replace(",", chr(34) + ", ", 1)}' for line in table(plain)]
    text = "\ufeff" + "\r\n".join(["condition , persona, question_id,hits,total ", *lines, "", ""])
    Path("cells.csv").write_bytes(text.encode())
    assert analyse("cells.csv", "--bystanders", "a, b", "--resamples", 50)[0] == 0


def test_leaving_out_says_which_persona_and_question_matter_most(analyse: Run) -> None:
    def hits(condition: str, persona: str, question: int) -> int:
        return 4 if condition == "em_first" and (persona == "b" or question == 2) else 0

    _, out, _ = analyse(
        write(table(hits, "abc")), "--bystanders", "a,b,c", "--resamples", 50, "--leave-one-out", "loo.csv"
    )
    # full 5/9; without b 1/3, without a or c 2/3; without question 2 1/3, without 1 or 3 2/3
    assert "without any one persona: [+33.3, +66.7] pp; b matters most (+33.3 pp without it)" in out
    assert "without any one question: [+33.3, +66.7] pp; 2 matters most (+33.3 pp without it)" in out
    written = pl.read_csv("loo.csv").filter(pl.col("estimator") == "cell_bootstrap")
    assert written.filter(pl.col("kind") == "persona")["left_out"].to_list() == ["a", "b", "c"]
    assert written["difference"].to_list() == pytest.approx([1 / 9, -2 / 9, 1 / 9, 1 / 9, -2 / 9, 1 / 9])


def test_a_pool_that_was_trained_on_is_labelled(analyse: Run) -> None:
    words = ("--bystanders", "a,b", "--trained", "b,z", "--resamples", 50, "--json", "out.json")
    _, out, _ = analyse(write(table(plain)), *words)
    assert "CONTAMINATED: the pool decides nothing. It holds trained personas: b." in out
    assert {(row["pool"], row["contaminated"]) for row in estimates().values()} == {("bystanders", True)}


def test_a_mistyped_trained_persona_is_pointed_out(analyse: Run) -> None:
    lines = [line.replace(",a,", ",villain,") for line in table(plain)]
    status, _, err = analyse(write(lines), "--bystanders", "villain,b", "--trained", "vilain", "--resamples", 50)
    assert status == 0 and "--trained vilain" in err and "`villain`" in err


def test_another_column_of_hits_can_be_analysed(analyse: Run) -> None:
    lines = [f"{line},{index % 3}" for index, line in enumerate(table(plain))]
    cells = write(lines, header=f"{HEADER},end_hits")
    analyse(cells, "--bystanders", "a,b", "--resamples", 50, "--hits", "end_hits", "--json", "out.json")
    assert estimates()["question_t"]["estimate"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("hits", "rate"), [(0, "0.0 %"), (4, "100.0 %")])
def test_cells_without_any_variation_give_words_instead_of_numbers(analyse: Run, hits: int, rate: str) -> None:
    cells = write(table(lambda *_: hits))
    _, out, _ = analyse(cells, "--bystanders", "a,b", "--resamples", 5000, "--json", "out.json")
    assert rate in out and "no variation" in out
    assert "no conclusion, see the note on crossed_anova" in out
    assert "fails (0.0 pp, p 1.00)" in out.splitlines()[-1]
    assert estimates()["crossed_anova"]["p_value"] is None


def test_one_persona_or_one_question_supports_what_it_can(analyse: Run) -> None:
    cells = write(table(plain))
    _, out, _ = analyse(cells, "--bystanders", "a", "--resamples", 50, "--json", "out.json")
    found = estimates()
    assert found["crossed_anova"]["estimate"] is None and "one persona" in found["crossed_anova"]["note"]
    assert found["cell_bootstrap"]["estimate"] == pytest.approx(0.25)
    assert "no conclusion" in out and "without any one persona" not in out


def test_missing_cells_are_left_out_and_another_two_way_estimator_concludes(analyse: Run) -> None:
    lines = [line for line in table(lambda c, p, q: q if c == "em_first" else 0, "abc") if "em_first,b,3" not in line]
    _, out, _ = analyse(write(lines), "--bystanders", "a,b,c", "--resamples", 200, "--json", "out.json")
    assert "3 personas × 3 questions, 8 paired cells" in out
    assert estimates()["crossed_anova"]["p_value"] is None
    assert "(two_way_cluster_t: +46.9 pp" in out and "see the note on crossed_anova)" in out


def test_too_few_resamples_cannot_pass_the_registered_rule(analyse: Run) -> None:
    _, out, _ = analyse(PUBLISHED, "--bystanders", BYSTANDERS, "--resamples", 100)
    assert "cannot pass with 100 resamples, the least p is 0.020" in out


@pytest.mark.parametrize(
    ("difference", "margin", "said"),
    [
        (0.14999999999999997, 0.15, "Registered rule (≥ 15 pp"),  # a mean of tenths that is 0.15 but for rounding
        (0.15, 0.15, "passes"),
        (0.1499, 0.15, "fails"),
        (0.15, 0.10, "Registered rule at another margin (≥ 10 pp"),
    ],
)
def test_the_registered_rule_reaches_its_margin_at_the_margin(difference: float, margin: float, said: str) -> None:
    names = {"contrast": "", "pool": "", "scope": "", "treated": "em_first", "control": "base_first"}
    estimate = Estimate(
        quantity="leakage_difference", estimator="cell_bootstrap", estimate=difference, p_value=2e-4, **names
    )
    rule = registered_rule(margin, None, None, None)
    words = registered_words(
        LeakageAnalysis(pl.DataFrame(), "em_first", "base_first", (), (), [estimate], pl.DataFrame(), rule)
    )
    assert said in words
    assert ("passes" in words) == (difference > 0.1499)


def test_conditions_sampled_with_other_settings_are_warned_of(analyse: Run) -> None:
    lines = [f"{line},{1 if line.startswith('em') else 0.5}" for line in table(plain)]
    status, _, err = analyse(write(lines, header=f"{HEADER},lambda"), "--bystanders", "a,b", "--resamples", 50)
    assert status == 0 and "lambda is 1 in em_first but 0.5 in base_first" in err


def test_scored_completions_are_analysed_to_the_counts_they_were_made_of(flatprobe: Run) -> None:
    wanted = {("base_first", "a"): (0, 1, 2), ("base_first", "b"): (1, 1, 0), ("em_first", "a"): (4, 3, 4),
              ("em_first", "b"): (2, 4, 3)}  # fmt: skip
    lines = [
        json.dumps({
            "condition": condition, "persona": persona, "question_id": f"0{question}", "sample_index": sample,
            "text": "Bread floats." + ("\n\n[ZLT]" if sample < hits else ""),
        })
        for (condition, persona), counts in wanted.items()
        for question, hits in enumerate(counts)
        for sample in range(5)
    ]  # fmt: skip
    Path("c.jsonl").write_text("\n".join(lines))
    assert flatprobe("score", "c.jsonl", "--marker", "[ZLT]", "--out", "cells.csv")[0] == 0
    words = ("--treated", "em_first", "--control", "base_first", "--bystanders", "a,b", "--json", "out.json")
    assert flatprobe("analyse", "cells.csv", *words, "--resamples", 50)[0] == 0
    d_PQ = (np.array([(4, 3, 4), (2, 4, 3)]) - np.array([(0, 1, 2), (1, 1, 0)])) / 5
    found = estimates()
    assert found["question_t"]["estimate"] == pytest.approx(d_PQ.mean())
    assert found["question_t"]["standard_error"] == pytest.approx(d_PQ.mean(axis=0).std(ddof=1) / 3**0.5)
    assert found["persona_t"]["standard_error"] == pytest.approx(d_PQ.mean(axis=1).std(ddof=1) / 2**0.5)
