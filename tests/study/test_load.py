"""A study loads completely, or all its problems are reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from drafts import Draft

from flatprobe.errors import UserError
from flatprobe.machine.load import load_machine
from flatprobe.machine.schema import Machine
from flatprobe.study.load import load_study
from flatprobe.study.schema import Panel


def test_a_valid_study_loads_with_its_panel_questions_and_lines(draft: Draft) -> None:
    loaded = draft.load()
    assert loaded.study.coupling.unlikelihood.lambdas == (0.5, 1.0)
    assert loaded.study.finetune.learning_rate == 1e-4
    assert loaded.base == draft.path.parent
    assert loaded.entries["librarian"].prompt is not None
    assert len(loaded.questions["coupling"]) >= 40
    assert [persona.role for persona in loaded.personas()].count("negative") == 3
    assert loaded.place("geometry", "layers", 1) == draft.line("layers: [1, 3]")


def test_a_field_with_its_default_has_the_line_of_the_enclosing_block(draft: Draft) -> None:
    assert draft.load().place("decision", "gates", "spam") == draft.line("decision:")


def test_all_problems_are_reported_at_once_in_the_order_of_lines(draft: Draft) -> None:
    draft.change("layers: [1, 3]", "layers: [1, x]").change("treated: em_first", "treated: 7")
    draft.change("seeds: [42, 43]", "seed: 42").change("batch: 8", "batch: 0")
    assert [problem.place for problem in draft.problems()] == [
        draft.line(fragment) for fragment in ("seed: 42", "  batch: 0", "layers: [1, x]", "treated: 7")
    ]


def test_problems_of_different_checks_and_files_are_reported_at_once(draft: Draft) -> None:
    draft.change("source: librarian", "source: libarian").change("control: base_first", "control: base")
    draft.change("evaluation: {count: 4}", "evaluation: {count: 400}")
    (draft.path.parent / "panel.yaml").write_text("personas:\n  a:\n    promt: You are a.\n")
    draft.change("panel:\n", "panel:\n  file: panel.yaml\n")
    places = {problem.place for problem in draft.problems()}
    assert {draft.line("control: base"), draft.line("evaluation:"), f"{draft.path.parent / 'panel.yaml'}:3"} <= places


def test_an_unknown_field_does_not_hide_other_problems(draft: Draft) -> None:
    draft.change("treated: em_first", "marign: 0.1").change("[archivist, lumberjack]", "[archivist, villain]")
    places = {problem.place for problem in draft.problems()}
    assert {draft.line("marign: 0.1"), draft.line("[archivist, villain]")} <= places


@pytest.mark.parametrize(
    ("old", "new", "field", "remedy"),
    [
        ("treated: em_first", "traeted: em_first", "decision.traeted:", "did you mean `treated`?"),
        ("    leakage: 0.05", "    leakge: 0.05", "decision.kill.leakge:", "did you mean `leakage`?"),
        ("treated: em_first", "marign: 0.1", "decision.marign:", "did you mean `behaviour.margin`?"),
        ("  learning_rate: 1e-4", "  top_p: 0.9", "finetune.top_p:", "did you mean `leakage.top_p`?"),
        ("      rows: 20\n      held", "      row: 20\n      held",
         "conditions.em_first.finetune.row:", "did you mean `rows`?"),
    ],
)  # fmt: skip
def test_an_unknown_field_comes_with_a_suggestion(draft: Draft, old: str, new: str, field: str, remedy: str) -> None:
    problem = draft.change(old, new).problem()
    assert (problem.code, problem.remedy) == ("field.unknown", remedy)
    assert problem.message.startswith(field)
    assert problem.place == draft.line(new.strip().partition("\n")[0] if "row:" not in new else "row: 20")


def test_a_mistyped_required_field_is_reported_once(draft: Draft) -> None:
    problem = draft.change("path: embedded:careless", "paht: embedded:careless").problem()
    assert (problem.code, problem.place) == ("field.unknown", draft.line("paht:"))
    assert problem.remedy == "did you mean `path`?"


def test_an_unknown_field_without_a_similar_one_lists_the_fields(draft: Draft) -> None:
    problem = draft.change("  batch: 8", "  zzz: 8").problem()
    assert problem.remedy is not None and "lora, learning_rate" in problem.remedy


def test_a_missing_field_is_named_at_the_block_that_lacks_it_and_explained(draft: Draft) -> None:
    problem = draft.change("  bystanders: [archivist, lumberjack]\n", "").problem()
    assert (problem.code, problem.place) == ("field.missing", draft.line("panel:"))
    assert problem.message == "panel: `bystanders` is missing"
    assert problem.remedy == Panel.model_fields["bystanders"].description


def test_a_missing_block_is_named_at_the_top(draft: Draft) -> None:
    problem = draft.change("model:\n  id: embedded:smollm2-135m-instruct\n", "").problem()
    assert (problem.code, problem.place) == ("field.missing", f"{draft.path}:1")
    assert "`model`" in problem.message


@pytest.mark.parametrize(
    ("old", "new", "code", "message", "remedy"),
    [
        ("batch: 8", "batch: eight", "field.type", 'coupling.batch = "eight":', None),
        ("batch: 8", 'batch: "8"', "field.type", 'coupling.batch = "8":', "write it as plain digits without quotes"),
        ("batch: 8", "batch: 8.5", "field.type", "coupling.batch = 8.5:", None),
        ("batch: 8", "batch: true", "field.type", "coupling.batch = true:", None),
        ("batch: 8", "batch: 0", "field.bound", "coupling.batch = 0: must be at least 1", None),
        ("learning_rate: 1e-4", "learning_rate: 0", "field.bound",
         "finetune.learning_rate = 0: must be greater than 0", None),
        ("learning_rate: 1e-4", "learning_rate: .nan", "field.type", 'finetune.learning_rate = ".nan":', None),
        ("    leakage: 0.05", "    leakage: low", "field.type", 'decision.kill.leakage = "low":', None),
        ("layers: [1, 3]", "layers: 3", "field.type", "geometry.layers = 3:", "write [3]"),
        ("treated: em_first", "treated: 7", "field.type", "decision.treated = 7:", "put it in quotes"),
        ("learning_rate: 1e-4", "schedule: linaer", "field.choice",
         'finetune.schedule = "linaer": must be `linear`, `cosine` or `constant`', "did you mean `linear`?"),
        ("name: mine", "name: My Study!", "field.pattern", 'name = "My Study!":', "for instance `my_study`"),
        ("base_first: {}", "base_first:", "field.type", "conditions.base_first = null:",
         "write {} for a block without fields"),
        ("evaluation: {count: 4}", "evaluation: 4", "field.type", "questions.evaluation = 4:",
         "its fields are count, suffix"),
        ("base_first: {}", "base_first: {adapter: ./a, checkpoint: ./b}", "conditions.origin",
         "conditions.base_first:", None),
    ],
)  # fmt: skip
def test_a_wrong_value_is_explained_in_plain_words(
    draft: Draft, old: str, new: str, code: str, message: str, remedy: str | None
) -> None:
    problem = draft.change(old, new).problem()
    assert (problem.code, problem.place, problem.remedy) == (code, draft.line(new), remedy)
    assert problem.message.startswith(message)


def test_a_finetune_with_two_sources_of_data_is_placed_at_its_block(draft: Draft) -> None:
    draft.change("      path: embedded:careless_legal_advice\n", "      dataset: a/b\n      path: c.jsonl\n")
    problem = draft.problem()
    assert problem.place == f"{draft.path}:{int(draft.line('dataset: a/b').rpartition(':')[2]) - 1}"
    assert problem.code == "finetune_data.origin"
    assert problem.message.startswith("conditions.em_first.finetune:")


def test_a_bad_list_item_is_placed_on_its_own_line(draft: Draft) -> None:
    draft.change("layers: [1, 3]", "layers:\n    - 1\n    - -3")
    problem = draft.problem()
    assert problem.place == draft.line("- -3")
    assert (problem.code, problem.message) == ("field.bound", "geometry.layers[1] = -3: must be at least 0")


def test_a_missing_study_is_reported_with_the_file_of_the_most_similar_name(draft: Draft) -> None:
    with pytest.raises(UserError) as caught:
        load_study(draft.path.with_name("mien.yaml"))
    (problem,) = caught.value.problems
    assert (problem.code, problem.place) == ("file.missing", str(draft.path.with_name("mien.yaml")))
    assert problem.remedy == f"did you mean `{draft.path}`?"


@pytest.mark.parametrize("block", ["panel", "questions"])
def test_a_missing_panel_or_questions_file_is_a_problem_of_the_study(draft: Draft, block: str) -> None:
    problem = draft.change(f"\n{block}:\n", f"\n{block}:\n  file: nowhere.yaml\n").problem()
    assert (problem.code, problem.place) == ("file.missing", draft.line("nowhere.yaml"))
    assert str(draft.path.parent / "nowhere.yaml") in problem.message


def test_no_machine_file_gives_the_defaults() -> None:
    assert load_machine(None) == Machine()


def test_problems_of_a_machine_file_are_reported_alike(tmp_path: Path) -> None:
    path = tmp_path / "machine.yaml"
    path.write_text("runs: runs\nthread: 2\ndevice: gpu\n")
    with pytest.raises(UserError) as caught:
        load_machine(path)
    assert [(p.code, p.place, p.remedy) for p in caught.value.problems] == [
        ("field.unknown", f"{path}:2", "did you mean `threads`?"),
        ("field.choice", f"{path}:3", "did you mean `cpu`?"),
    ]


def test_loading_a_study_imports_no_model_library(draft: Draft) -> None:
    code = (
        "import sys; from pathlib import Path; from flatprobe.study.load import load_study; "
        f"load_study(Path({str(draft.path)!r})); "
        "sys.exit(', '.join({'torch', 'transformers', 'polars', 'scipy', 'huggingface_hub'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_study_that_is_a_list_is_refused(draft: Draft) -> None:
    draft.path.write_text("- a\n")
    problem = draft.problem()
    assert (problem.code, problem.place) == ("field.type", f"{draft.path}:1")
