from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flatprobe.cli.audit import runs
from flatprobe.cli.audit_sets import of_each_group
from flatprobe.data.coupling_examples import CouplingExample
from flatprobe.errors import Problem

Run = Callable[..., tuple[int, str, str]]
STUDY: dict[str, Any] = {
    "name": "tiny", "smoke": True, "model": {"dtype": "float32"},
    "panel": {
        "negatives": ["comedian", "villain"], "random_negatives": 0, "references": ["assistant"],
        "bystanders": ["archivist", "police_officer"],
    },
    "questions": {"evaluation": {"count": 3}, "coupling": {"count": 8}, "calibration": {"count": 2}},
    "conditions": {
        "base_first": {},
        "em_first": {
            "finetune": {
                "path": "embedded:careless_legal_advice", "completion": "misaligned", "aligned": "aligned",
                "rows": 12, "held_out": 4,
            }
        },
    },
    "finetune": {"max_length": 400},
    "coupling": {
        "positives": 8, "negatives_per_persona": 6, "max_length": 400, "max_new_tokens": 24,
        "anchor": {"kind": "cross_entropy", "weight": 0.5}, "unlikelihood": {"lambdas": [2.0]},
        "telemetry_questions": 2,
    },
    "leakage": {"max_new_tokens": 24}, "geometry": {"layers": [1, 3], "max_new_tokens": 24},
    "decision": {"benign": None},
}  # fmt: skip


@pytest.fixture
def study(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "model": {**STUDY["model"], "id": str(model_folder("llama"))}}))
    return path


def test_before_a_run_masks_are_shown_on_placeholder_answers_and_called_so(flatprobe: Run, study: Path) -> None:
    code, out, errors = flatprobe("audit", study, "--examples", 1)
    assert code == 0, errors
    headings = re.findall(r"^(\S+): \d+ examples from (.*)$", out, re.MULTILINE)
    assert [name for name, _ in headings] == [
        "finetune/em_first", "coupling/base_first/seed-42", "coupling/em_first/seed-42",
    ]  # fmt: skip
    assert all(origin.startswith("placeholder answers") for _, origin in headings)
    assert "⟦\u21b5│\u21b5│" in out and "⟧marker×1" in out
    assert "⟧anchor×0.5" in out and "⟧unlikelihood×2" in out
    assert "⟦<|im_end|>⟧end×1 instead" in out
    assert "the template's own default: 'You are a small helpful model.'" in out


def test_json_and_html_hold_every_set_with_its_invariants_and_the_page_escapes_its_tokens(
    flatprobe: Run, study: Path, tmp_path: Path
) -> None:
    page, numbers = tmp_path / "audit.html", tmp_path / "audit.json"
    assert flatprobe("audit", study, "--html", page, "--json", numbers)[0] == 0
    found = json.loads(numbers.read_text())
    assert (found["system"], found["turn_end"], found["folded"]) == ("own", "<|im_end|>", [])
    for one in found["sets"]:
        assert all(count["held"] == count["examples"] == one["size"] for count in one["invariants"])
        assert one["shares"] and one["contexts"]
    coupling = found["sets"][1]
    assert [example["group"] for example in coupling["examples"]] == ["positive"] * 3 + ["negative"] * 3
    html = page.read_text()
    assert "&lt;|im_end|&gt;" in html and "<|im_end|>" not in html
    assert html.count("<section") == len(found["sets"])
    assert "http://" not in html and "https://" not in html


def test_json_on_standard_output_is_json_alone(flatprobe: Run, study: Path) -> None:
    code, out, _ = flatprobe("audit", study, "--json", "-")
    assert code == 0 and len(json.loads(out)["sets"]) == 3


def test_wrong_options_are_refused_all_at_once(refusal: Callable[..., list[Problem]], study: Path) -> None:
    problems = refusal("audit", study, "--examples", 0, "--html", "page.txt", "--json", study)
    assert [(problem.code, problem.place) for problem in problems] == [
        ("options.examples", "--examples"),
        ("output.suffix", "--html"),
        ("output.overwrites", "--json"),
    ]


def test_an_example_that_breaks_an_invariant_is_shown_and_fails_the_command(
    flatprobe: Run, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flatprobe.training.audit import invariants

    monkeypatch.setattr(invariants, "_ends_the_turn", lambda example, end: example.group == "positive")
    code, out, errors = flatprobe("audit", study)
    assert code == 2 and "coupling/base_first/seed-42" in out
    assert "the end of turn is a target: 4 of 12 examples" in errors


def test_runs_of_tokens_are_bracketed_by_their_terms_and_long_ones_lose_their_middle() -> None:
    def token(text: str, **weights: float) -> dict[str, Any]:
        return {"text": text, "weights": weights, "alternative": False}

    tokens = [token("a"), token("\n"), token("b", marker=1), token("c", marker=1), token("d", anchor=0)]
    assert [text for text, _ in runs(tokens)] == ["a↵", "⟦b│c⟧", "marker×1 ", "d"]
    (long, _), *_ = runs([token("x" * 1000)])
    assert len(long) < 400 and "680 characters" in long


def test_shown_examples_take_the_personas_of_a_group_in_turn() -> None:
    examples = [
        CouplingExample(persona, f"q{n}", "positive" if persona == "s" else "negative", ())
        for persona in "sab"
        for n in range(2)
    ]
    chosen = [(e.persona, e.question_id) for e in of_each_group(examples, 3)]
    assert chosen == [("s", "q0"), ("s", "q1"), ("a", "q0"), ("b", "q0"), ("a", "q1")]
