"""Whether a finetune took is asked of every contrast's own treated arm: planted studies in which both legs pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flatprobe.analysis.decide import decide_study
from flatprobe.planner.contracts import DecideSettings
from flatprobe.statistics.estimate import Estimate
from flatprobe.study.decision_schema import Decision, KnownAnswer

CONDITIONS = ("base", "persona", "source", "em", "again")
CONTRASTS = (
    ("persona", "base"), ("source", "base"), ("source", "em"), ("source", "persona"), ("em", "base"), ("again", "em"),
)  # fmt: skip
FOUND = {"geometry": "found", "leakage": "found"}
BLOCKED = {"geometry": "blocked", "leakage": "blocked"}


def estimates(treated: str, control: str) -> list[Estimate]:
    """A geometric effect and a rise of leakage that pass."""
    about: dict[str, Any] = {
        "contrast": f"{treated} - {control}", "treated": treated, "control": control, "pool": "bystanders",
        "scope": "planted",
    }  # fmt: skip
    leakage = {"quantity": "leakage_difference", "estimate": 0.3, "ci_low": 0.2, "ci_high": 0.4}
    return [
        Estimate(
            quantity="cosine_difference", estimator="question_bootstrap", estimate=0.2, ci_low=0.1, ci_high=0.3,
            position="last_response_token", responses="own", **about,
        ),
        Estimate(estimator="cell_bootstrap", p_value=1e-5, **leakage, **about),
        Estimate(estimator="crossed_anova", p_value=1e-2, **leakage, **about),
    ]  # fmt: skip


def plant(folder: Path, rises: dict[str, dict[str, float]]) -> None:
    """What a verdict is made of; `rises`: by condition that texts are held out from, each condition's log-odds."""
    tables, found = folder / "tables", folder / "estimates"
    (tables / "tables").mkdir(parents=True)
    found.mkdir()
    (tables / "selection.json").write_text(json.dumps({"selected": 1.0}))
    (tables / "facts-by-stage.json").write_text("[]")
    pl.DataFrame({"persona": ["librarian"]}).write_parquet(tables / "tables" / "lengths.parquet")
    pl.DataFrame({"text": ["Why?"]}).write_parquet(tables / "tables" / "questions.parquet")
    arms = {"condition": CONDITIONS, "persona": "librarian", "seed": 42, "coupled": True, "lambda": 1.0}
    counts = {"total": 10, "hits": 9, "rate": 0.9, "end_rate": 0.9}
    shares = {"end_share": 1.0, "spam_share": 0.0, "truncated_share": 0.0}
    pl.DataFrame(arms | counts | shares).write_parquet(tables / "tables" / "rates.parquet")
    log_odds = [
        {"condition": name, "set": "in_domain", "held_out_from": owner, "id": f"held_out_{i}",
         "prompt": f"Why, {i}?", "log_odds": odds.get(name, 0.0) + 0.01 * i * (1 + CONDITIONS.index(name))}
        for owner, odds in rises.items() for name in CONDITIONS for i in range(4)
    ]  # fmt: skip
    pl.DataFrame(log_odds).write_parquet(tables / "tables" / "manipulation.parquet")
    rows = [one.to_json() for contrast in CONTRASTS for one in estimates(*contrast)]
    (found / "estimates.json").write_text(json.dumps(rows))
    read = {"position": "last_response_token", "responses": "own", "headroom": 0.5, "reliability": 0.95}
    pl.DataFrame({"condition": CONDITIONS, "layer": 6} | read).write_parquet(found / "geometry.parquet")


def verdict_of(folder: Path, rises: dict[str, dict[str, float]], **held_out_from: str) -> dict[str, Any]:
    plant(folder, rises)
    known = tuple(KnownAnswer(treated=t, control=c, geometry="found", leakage="found") for t, c in CONTRASTS)
    settings = DecideSettings(
        rule=Decision(treated="persona", control="base", benign=None, known_answers=known), source="librarian",
        bystanders=("archivist",), registered="exploratory", smoke=False, finetuned=(), held_out_from=held_out_from,
    )  # fmt: skip
    decide_study(settings, {"tables": folder / "tables", "estimates": folder / "estimates"}, folder)
    verdict: dict[str, Any] = json.loads((folder / "verdict.json").read_text())
    return verdict


def legs_of(verdict: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {f"{one['treated']} - {one['control']}": one["legs"] for one in verdict["known_answers"]}


def gated(verdict: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(gate["arm"], gate["passed"]) for gate in verdict["gates"] if gate["name"] == "manipulation"]


def test_a_known_answer_is_blocked_where_its_own_finetune_did_not_take(tmp_path: Path) -> None:
    rises = {"persona": {"persona": 1.0, "source": 1.0, "em": 1.0}, "source": {"persona": 1.0}}
    verdict = verdict_of(tmp_path, rises, persona="persona", source="source")
    legs = legs_of(verdict)
    assert gated(verdict) == [("persona", True)] and verdict["verdict"] == "flattened"
    assert legs["persona - base"] == FOUND
    assert legs["source - base"] == legs["source - em"] == BLOCKED
    (source,) = [one for one in verdict["known_answers"] if (one["treated"], one["control"]) == ("source", "base")]
    assert not source["as_expected"] and any("manipulation" in reason for reason in source["reasons"])
    assert verdict["numbers"]["manipulation"]["source"] == "none"


def test_a_finetune_of_another_known_answer_may_take_where_the_studys_did_not(tmp_path: Path) -> None:
    rises = {"persona": {"source": 1.0}, "source": {"source": 1.0}}
    verdict = verdict_of(tmp_path, rises, persona="persona", source="source")
    legs = legs_of(verdict)
    assert gated(verdict) == [("persona", False)] and verdict["verdict"] == "inconclusive"
    assert legs["persona - base"] == BLOCKED
    assert legs["source - base"] == legs["source - em"] == FOUND


@pytest.mark.parametrize(("in_em", "legs"), [(0.0, FOUND), (2.0, BLOCKED)])
def test_a_known_answers_own_control_is_what_its_arm_must_rise_above(
    tmp_path: Path, in_em: float, legs: dict[str, str]
) -> None:
    rises = {"persona": {"persona": 1.0}, "source": {"source": 1.0, "em": in_em}}
    found = legs_of(verdict_of(tmp_path, rises, persona="persona", source="source"))
    assert found["source - base"] == FOUND and found["source - em"] == legs


def test_a_finetune_that_holds_nothing_out_is_not_gated_on_the_treated_ones_texts(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, {"persona": {"persona": 1.0}}, persona="persona")
    found = legs_of(verdict)
    assert found.pop("persona - base") == FOUND
    assert all(legs == FOUND for legs in found.values()) and len(found) == 5
    assert verdict["numbers"]["manipulation"] == {
        "persona": "unknown", "source": "none", "em": "none", "again": "none",
    }  # fmt: skip


def test_two_trainings_on_the_same_rows_each_find_them_and_need_not_rise_over_each_other(tmp_path: Path) -> None:
    rises = {"persona": {"persona": 1.0}, "em": {"em": 1.0, "again": 1.0}}
    verdict = verdict_of(tmp_path, rises, persona="persona", em="em", again="em")
    found = legs_of(verdict)
    assert found["em - base"] == found["again - em"] == FOUND
    assert verdict["numbers"]["manipulation"]["again"] == "unknown"  # a rise in domain, and nothing out of it
    failed = legs_of(verdict_of(tmp_path / "failed", rises | {"em": {}}, persona="persona", em="em", again="em"))
    assert failed["em - base"] == BLOCKED and failed["again - em"] == FOUND
