"""`flatprobe plan`: the stages, and what a design can detect, from options to printed numbers and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from flatprobe.errors import Problem
from flatprobe.statistics.leakage.estimators import SCOPES
from flatprobe.statistics.planning.components import PUBLISHED

Run = Callable[..., tuple[int, str, str]]
CELLS = Path(__file__).parents[2] / "examples" / "leakage_cells.csv"
BYSTANDERS = "software_engineer,kindergarten_teacher,medical_doctor,comedian,police_officer,villain,zelthari_scholar"
GIVEN = "persona=0.01,question=0.002,interaction=0.02,completion=0.3"
STUDY: dict[str, Any] = {
    "name": "mine",
    "model": {"id": "embedded:smollm2-135m-instruct"},
    "panel": {
        "negatives": ["comedian"], "random_negatives": 0, "references": ["assistant"],
        "bystanders": ["archivist", "lumberjack", "police_officer"],
    },
    "questions": {"evaluation": {"count": 6}, "coupling": {"count": 8}, "calibration": {"count": 4}},
    "conditions": {
        "base_first": {},
        "em_first": {
            "finetune": {
                "path": "embedded:careless_legal_advice", "completion": "misaligned", "aligned": "aligned",
                "rows": 20, "held_out": 4,
            }
        },
    },
    "coupling": {"telemetry_questions": 4},
    "leakage": {"samples": 5},
    "geometry": {"layers": [1, 3], "resamples": 999},
    "decision": {"benign": None},
}  # fmt: skip


def write(changes: Mapping[str, Any] | None = None) -> Path:
    path = Path("mine.yaml")
    path.write_text(yaml.safe_dump({**STUDY, **(changes or {})}, sort_keys=False))
    return path


@pytest.fixture
def plan(flatprobe: Run) -> Run:
    """Plan the study, which is written anew; words are further options."""
    return lambda *words, **changes: flatprobe("plan", write(changes), *words)


def numbers(ran: tuple[int, str, str]) -> dict[str, Any]:
    """The JSON that `--json -` prints."""
    code, out, err = ran
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def forecast(found: Mapping[str, Any], estimator: str) -> dict[str, Any]:
    rows = [row for row in found["forecasts"] if row["estimator"] == estimator]
    assert len(rows) == 1
    return dict(rows[0])


def finished_run(seeds: int = 1) -> Path:
    """The folder of a run whose cells are the published ones, coupled at lambda 1, with others around them."""
    chosen = pl.read_csv(CELLS).with_columns(coupled=pl.lit(True))
    parts = [
        chosen.with_columns(
            pl.lit(seed, dtype=pl.Int64).alias("seed"), pl.lit(1.0).alias("lambda"),
            (pl.col("hits") - seed * (pl.col("condition") == "em_first")).clip(0).alias("hits"),
        )
        for seed in range(seeds)
    ]  # fmt: skip
    uncoupled = parts[0].with_columns(
        coupled=pl.lit(False), hits=pl.lit(0, dtype=pl.Int64), **{"lambda": pl.lit(None, dtype=pl.Float64)}
    )
    other = parts[0].with_columns(pl.lit(0.5).alias("lambda"))
    analysis = Path("runs") / "earlier" / "analysis"
    (analysis / "tables").mkdir(parents=True)
    pl.concat([uncoupled, other, *parts]).write_parquet(analysis / "tables" / "cells.parquet")
    (analysis / "lambda.json").write_text(json.dumps({"selected": 1.0}))
    return analysis.parent


def test_the_plan_lists_the_stages_and_then_what_the_design_can_detect(plan: Run) -> None:
    code, out, _ = plan()
    assert code == 0
    stages, _, detects = out.partition("What this design can detect")
    assert "of" in stages and "stages finished" in stages and "verdict" in stages
    assert "3 bystanders × 6 questions × 5 completions, 1 seed." in detects
    assert "Source: an earlier experiment (7 personas × 20 questions × 10 completions)" in detects
    assert all(name in detects for name in SCOPES) and all(scope in detects for scope in SCOPES.values())
    assert "The registered leg (estimate ≥ 15 pp and cell_bootstrap p < 0.001) passes:" in detects
    assert "For 80 % power of crossed_anova at 15 pp and p < 0.05" in detects
    assert "Its smallest detectable effect needs states: no finished run in runs/mine." in detects


def test_the_numbers_are_those_of_the_study_and_of_the_options(plan: Run) -> None:
    found = numbers(plan("--json", "-", "--alpha", 0.01, "--power", 0.9, seeds=[1, 2]))
    assert found["design"] == {
        "personas": 3, "questions": 6, "completions": 5, "seeds": 2, "resamples": 10_000,
    }  # fmt: skip
    assert (found["alpha"], found["power"], found["margin"], found["p_below"]) == (0.01, 0.9, 0.15, 0.001)
    assert found["components"]["persona"] == PUBLISHED.persona
    assert found["geometry"]["smallest_attainable_p"] == 2 / 1000
    assert [row["truth"] for row in found["leg"]] == pytest.approx([0, 0.15, 0.225, 0.3])


def test_given_components_are_the_ones_that_count(plan: Run) -> None:
    found = numbers(plan("--json", "-", "--components", GIVEN))
    assert found["source"] == "given with --components"
    assert forecast(found, "question_t")["standard_error"] == pytest.approx((0.002 / 6 + (0.02 + 0.3 / 5) / 18) ** 0.5)
    assert {need["estimator"] for need in found["needs"]} == {"crossed_anova"}
    with_seed = numbers(plan("--json", "-", "--components", f"{GIVEN},seed=0.001", seeds=[1, 2, 3]))
    assert forecast(with_seed, "seed_t")["standard_error"] == pytest.approx(((0.001 + 0.06 / 18) / 3) ** 0.5)
    assert {need["estimator"] for need in with_seed["needs"]} == {"crossed_anova", "crossed_anova_seed"}


def test_components_of_a_file_of_cells_are_its_own(plan: Run) -> None:
    code, out, err = plan("--from-cells", CELLS, "--bystanders", BYSTANDERS)
    assert code == 0, err
    assert f"Source: {CELLS}, em_first − base_first over 7 personas × 20 questions." in out
    found = numbers(plan("--json", "-", "--from-cells", CELLS, "--bystanders", BYSTANDERS))
    for name in ("persona", "question", "interaction", "completion"):
        assert found["components"][name] == pytest.approx(getattr(PUBLISHED, name))


def test_components_of_a_run_are_those_of_its_coupled_cells_at_the_selected_lambda(plan: Run, flatprobe: Run) -> None:
    run = finished_run()
    for place in (run, run / "analysis" / "tables" / "cells.parquet"):
        found = numbers(plan("--json", "-", "--from-cells", place, "--bystanders", BYSTANDERS))
        assert found["components"]["persona"] == pytest.approx(PUBLISHED.persona)
        assert found["components"]["seed"] is None


def test_several_seeds_of_a_run_give_the_variance_between_them(plan: Run) -> None:
    found = numbers(plan("--json", "-", "--from-cells", finished_run(3), "--bystanders", BYSTANDERS))
    assert found["source"].endswith("7 personas × 20 questions × 3 seeds")
    assert found["components"]["seed"] > 0
    assert "seed_t" in {row["estimator"] for row in found["forecasts"]}


def test_the_smallest_geometric_effect_comes_from_an_earlier_run(plan: Run) -> None:
    run = finished_run()
    row = {
        "quantity": "cosine_difference", "contrast": "em_first - base_first", "estimator": "question_bootstrap",
        "position": "last_response_token", "responses": "own", "layer": None, "seed": None,
        "standard_error": 0.01, "n_questions": 24,
    }  # fmt: skip
    (run / "analysis" / "estimates.json").write_text(json.dumps([{**row, "layer": 3}, row]))
    words = ("--from-cells", run, "--bystanders", BYSTANDERS)
    found = numbers(plan("--json", "-", *words))["geometry"]
    assert found["standard_error"] == pytest.approx(0.02)  # 6 questions instead of 24
    assert found["mde"] == pytest.approx((1.959964 + 0.841621) * 0.02, rel=1e-5)
    assert "MDE 0.056 with 80 % power; the leg needs 0.05." in plan(*words)[1]
    (run / "analysis" / "estimates.json").write_text("[{")
    code, _, err = plan(*words)
    assert code == 2 and "does not hold a run's estimates" in err


def test_every_mistake_is_reported_at_once(plan: Run) -> None:
    code, out, err = plan(
        "--components", "persna=0.1,question=-1,interaction=x,completion=0.7,question=0.1,",
        "--alpha", 1.5, "--power", 0, "--treated", "x", "--where", "lambda", "--json", "no/folder/x.json",
        leakage={"samples": 0},
    )  # fmt: skip
    assert code == 2 and out == ""
    for place, value in (
        ("--components", "persna"), ("--components", "question = -1"), ("--components", "interaction = `x`"),
        ("--components", "completion = 0.7"), ("--components", "`question`"), ("--components", "``"),
        ("--components", "persona not given"), ("--alpha", "1.5"), ("--power", "0.0"), ("--treated", ""),
        ("--where", "lambda"), ("--json", "no/folder"), ("mine.yaml:", "leakage.samples"),
    ):  # fmt: skip
        assert any(line.startswith(place) and value in line for line in err.splitlines()), (place, value)
    assert "nothing was run" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "place", "value"),
    [
        (
            ("--components", "persona=nan,question=0,interaction=0,completion=0"), "--components", "persona = nan",
        ),
        (("--components", GIVEN, "--from-cells", CELLS), "--components", "--from-cells"),
        (("--power", 0.04), "--power", "0.04"),
        (("--from-cells", "missing.csv"), "missing.csv", ""),
        (("--from-cells", "."), ".", "cells.parquet"),
        (("--from-cells", CELLS), "--bystanders", "archivist"),
        (("--from-cells", CELLS, "--bystanders", "villain"), str(CELLS), "1 x 20"),
        (
            ("--from-cells", CELLS, "--bystanders", BYSTANDERS, "--treated", "em_frist"), "--treated", "`em_first`",
        ),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_by_name(
    refusal: Callable[..., list[Problem]], words: tuple[object, ...], place: str, value: str
) -> None:
    problems = refusal("plan", write(), *words)
    assert any(problem.place == place and value in str(problem) for problem in problems)


def test_duplicate_cells_are_refused_with_the_filter_that_solves_it(plan: Run) -> None:
    cells = pl.read_csv(CELLS)
    pl.concat([cells.with_columns(pl.lit(value).alias("lambda")) for value in (0.5, 1.0)]).write_csv("both.csv")
    words = ("--from-cells", "both.csv", "--bystanders", BYSTANDERS)
    code, _, err = plan(*words)
    assert code == 2 and "--where lambda=0.5" in err
    assert plan(*words, "--where", "lambda=0.5")[0] == 0


def test_the_json_file_holds_what_is_printed_to_standard_output(plan: Run) -> None:
    code, out, _ = plan("--json", "plan.json")
    assert code == 0 and "What this design can detect" in out
    assert json.loads(Path("plan.json").read_text()) == numbers(plan("--json", "-"))


def test_a_leg_that_cannot_pass_is_reported(plan: Run) -> None:
    code, out, _ = plan(decision={"benign": None, "behaviour": {"resamples": 1000}})
    assert code == 0
    assert "p < 0.001) cannot pass: the smallest attainable p is 0.002." in out


@pytest.mark.parametrize("p_below", [0.0, 1.0])
def test_an_extreme_registered_p_is_planned_as_what_it_is(plan: Run, p_below: float) -> None:
    leg = {"p_below": p_below, "estimator": "crossed_anova", "margin": 1.0}
    found = numbers(plan("--json", "-", decision={"benign": None, "behaviour": leg}))
    assert [row["truth"] for row in found["leg"]] == [0.0, 1.0]  # larger differences of rates do not exist
    assert found["leg"][1]["in_population"] == pytest.approx(p_below / 2)


def test_planning_needs_no_model_library(plan: Run) -> None:
    import subprocess
    import sys

    write()
    script = "import sys; from flatprobe.cli import app as cli; sys.argv = ['flatprobe', 'plan', 'mine.yaml']\n"
    script += "try: cli.main()\nexcept SystemExit: assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)


def test_what_the_design_can_detect_is_printed_even_if_the_hub_does_not_answer(
    plan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    code, out, err = plan(model={"id": "owner/name"})
    assert code == 2
    assert "What this design can detect" in out and "crossed_anova" in out
    assert "'owner/name'" in err and "stages finished" not in out
