"""The models, files and columns of conditions exist."""

from __future__ import annotations

import json

import pytest
from drafts import Draft

LEGAL, HELP = "path: embedded:careless_legal_advice", "path: embedded:everyday_help"


def own_data(draft: Draft, *rows: object) -> None:
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    (draft.path.parent / "own.jsonl").write_text(text)
    draft.change(HELP, "path: own.jsonl")


@pytest.mark.parametrize(
    ("old", "new", "code", "remedy"),
    [
        ("length_match: em_first", "length_match: em_frist", "conditions.unknown", "did you mean `em_first`?"),
        ("length_match: em_first", "length_match: off", "conditions.unknown", None),
        ("length_match: em_first", "length_match: base_first", "length_match.no_finetune", None),
        ("length_match: em_first", "length_match: benign_first", "length_match.itself", None),
    ],
)
def test_a_length_match_names_another_condition_with_a_finetune(
    draft: Draft, old: str, new: str, code: str, remedy: str | None
) -> None:
    problem = draft.change(old, new).problem()
    assert (problem.code, problem.place) == (code, draft.line(new))
    assert problem.message.startswith(f"conditions.benign_first.finetune.{new.replace(':', ' =')}:")
    assert remedy is None or problem.remedy == remedy


def test_length_matches_in_a_circle_are_refused_on_each_line(draft: Draft) -> None:
    draft.change("      held_out: 4\n", "      held_out: 4\n      length_match: benign_first\n")
    assert [(problem.code, problem.place) for problem in draft.problems()] == [
        ("length_match.circle", draft.line("length_match: benign_first")),
        ("length_match.circle", draft.line("length_match: em_first")),
    ]


def test_held_out_rows_need_the_sound_answers(draft: Draft) -> None:
    problem = draft.change("      aligned: aligned\n", "").problem()
    assert (problem.code, problem.place) == ("finetune_data.no_aligned", draft.line("held_out: 4"))


def test_a_missing_data_file_is_reported_on_its_line_with_a_suggestion(draft: Draft) -> None:
    draft.change(LEGAL, "path: embedded:careless_legal_advise").change(HELP, "path: data/none.jsonl")
    legal, own = draft.problems()
    assert (legal.place, legal.remedy) == (
        draft.line("careless_legal_advise"), "did you mean `embedded:careless_legal_advice`?"
    )  # fmt: skip
    assert own.place == draft.line("data/none.jsonl")
    assert str(draft.path.parent / "data/none.jsonl") in own.message
    assert legal.code == own.code == "file.missing"


def test_a_column_that_the_first_row_lacks_is_named_with_a_suggestion(draft: Draft) -> None:
    problem = draft.change("completion: misaligned", "completion: misalinged").problem()
    assert (problem.code, problem.place) == ("file.missing_column", draft.line(LEGAL))
    assert "`misalinged`" in problem.message
    assert problem.remedy == "did you mean `misaligned`?"


def test_the_sound_column_of_held_out_rows_must_be_there(draft: Draft) -> None:
    problem = draft.change("aligned: aligned", "aligned: sound").problem()
    assert problem.code == "file.missing_column" and "`sound`" in problem.message


def test_rows_may_be_whole_conversations(draft: Draft) -> None:
    own_data(draft, {"messages": [{"role": "assistant", "content": "Hi."}]})
    finetune = draft.load().study.conditions["benign_first"].finetune
    assert finetune is not None and finetune.path == "own.jsonl"


def test_a_named_messages_column_must_be_there(draft: Draft) -> None:
    own_data(draft, {"prompt": "a", "completion": "b"})
    draft.change("path: own.jsonl", "path: own.jsonl\n      messages: turns")
    problem = draft.problem()
    assert problem.code == "file.missing_column" and "`turns`" in problem.message


@pytest.mark.parametrize("row", ["prompt,completion", "[1, 2]", ""])
def test_a_data_file_that_is_not_jsonl_is_refused(draft: Draft, row: str) -> None:
    own_data(draft, row)
    assert draft.problem().code == "file.not_jsonl"


def test_only_the_first_row_is_read(draft: Draft) -> None:
    own_data(draft, {"prompt": "a", "completion": "b"}, "not JSON")
    finetune = draft.load().study.conditions["benign_first"].finetune
    assert finetune is not None and finetune.path == "own.jsonl"


def test_a_manipulation_set_needs_triples(draft: Draft) -> None:
    (draft.path.parent / "pairs.jsonl").write_text('{"prompt": "a", "aligned": "b"}\n')
    problem = draft.change("manipulation: embedded:out_of_domain_advice", "manipulation: pairs.jsonl").problem()
    assert (problem.code, problem.place) == ("file.missing_column", draft.line("pairs.jsonl"))
    assert problem.message.startswith("manipulation = pairs.jsonl:") and "`misaligned`" in problem.message


@pytest.mark.parametrize("origin", ["adapter", "checkpoint"])
@pytest.mark.parametrize("id", ["./none", "../none", "/none/at/all", "a/b/c", "folder"])
def test_a_missing_folder_is_refused_and_a_hub_id_is_checked_later(draft: Draft, origin: str, id: str) -> None:
    problem = draft.change("base_first: {}", f"base_first: {{{origin}: {id}}}").problem()
    assert (problem.code, problem.place) == ("model.folder_missing", draft.line(f"{origin}: {id}"))
    assert problem.message.startswith(f"conditions.base_first.{origin} = {id}:")
    draft.change(f"{origin}: {id}", f"{origin}: owner/name")
    assert getattr(draft.load().study.conditions["base_first"], origin) == "owner/name"


def test_a_folder_is_relative_to_the_study(draft: Draft) -> None:
    (draft.path.parent / "mine" / "adapter").mkdir(parents=True)
    draft.change("base_first: {}", "base_first: {adapter: ./mine/adapter}")
    assert draft.load().study.conditions["base_first"].adapter == "./mine/adapter"


def test_an_unknown_embedded_model_is_refused(draft: Draft) -> None:
    problem = draft.change("embedded:smollm2-135m-instruct", "embedded:smollm").problem()
    assert (problem.code, problem.place) == ("model.unknown_embedded", draft.line("embedded:smollm"))
    assert "embedded:smollm2-135m-instruct" in str(problem.remedy)


def test_a_condition_name_that_cannot_name_a_folder_is_refused(draft: Draft) -> None:
    problem = draft.change("  base_first: {}", "  base_first: {}\n  EM/first: {}").problem()
    assert (problem.code, problem.place) == ("conditions.name", draft.line("EM/first"))
    assert problem.message.startswith("conditions.EM/first:")


def test_a_revision_belongs_to_a_given_hub_repository(draft: Draft) -> None:
    draft.change("  base_first: {}", "  base_first: {revision: v1.0}")
    assert draft.problem().code == "conditions.revision"


def test_a_folder_or_the_embedded_model_has_no_revision(draft: Draft) -> None:
    (draft.path.parent / "lora").mkdir()
    draft.change("  base_first: {}", "  base_first: {}\n  given: {adapter: ./lora, revision: v1.0}")
    draft.change("id: embedded:smollm2-135m-instruct", "id: embedded:smollm2-135m-instruct\n  revision: v2.0")
    model, given = draft.problems()
    assert (model.place, given.place) == (draft.line("revision: v2.0"), draft.line("revision: v1.0"))
    assert model.message.startswith("model.revision = v2.0:")
    assert given.message.startswith("conditions.given.revision = v1.0:")
    assert model.code == given.code == "model.local_revision"
