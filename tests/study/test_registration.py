"""The digest, the registration, and the state that a verdict shows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from drafts import Draft

from flatprobe.errors import UserError
from flatprobe.models.pinned import Pins
from flatprobe.study import resources
from flatprobe.study.registration import digest, register, registration_record, registration_state
from flatprobe.study.resolve import Resolved, resolve_study


def finish_stage(run_folder: Path, started: datetime, name: str = "couple-0123") -> None:
    folder = run_folder / "artifacts" / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"started": started.isoformat(timespec="milliseconds")}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("learning_rate: 1e-4", "learning_rate: 2e-4"), ("seeds: [42, 43]", "seeds: [42]"),
        ("bystanders: [archivist, lumberjack]", "bystanders: [lumberjack, archivist]"),
        ("lambdas: [0.5, 1.0]", "lambdas: [0.5, 2.0]"), ("layers: [1, 3]", "layers: [1, 4]"),
        ("    leakage: 0.05", "    leakage: 0.04"), ("evaluation: {count: 4}", "evaluation: {count: 6}"),
        ("evaluation: {count: 4}", "evaluation: {count: 4, suffix: Be brief.}"),
        ("      rows: 20\n      held_out: 4", "      rows: 21\n      held_out: 4"),
        ('marker: "[ZLT]"', 'marker: "[ZLU]"'), ("name: mine", "name: mine\nsmoke: true"),
    ],
)  # fmt: skip
def test_the_digest_changes_with_anything_that_can_change_a_number(draft: Draft, old: str, new: str) -> None:
    before = digest(draft.resolve())
    assert len(before) == 64
    assert digest(draft.change(old, new).resolve()) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: mine", "name: yours"), ("name: mine", "name: mine\ndescription: What for?"),
        ("name: mine", "# a remark\nname: mine"), ("learning_rate: 1e-4", "learning_rate: 0.0001"),
        ("learning_rate: 1e-4", "learning_rate: 1e-4\n  schedule: linear"),  # a default, written out
        ("treated: em_first\n  control: base_first", "control: base_first\n  treated: em_first"),
    ],
)  # fmt: skip
def test_the_digest_does_not_change_with_names_comments_and_order(draft: Draft, old: str, new: str) -> None:
    before = digest(draft.resolve())
    assert digest(draft.change(old, new).resolve()) == before


def test_the_digest_covers_prompts_questions_and_data_but_not_their_place(draft: Draft) -> None:
    entries = draft.load().entries
    prompts = {name: {"prompt": entry.prompt} for name, entry in entries.items()}
    original, panel = digest(draft.resolve()), draft.path.parent / "own-panel.yaml"
    panel.write_text(json.dumps({"personas": prompts}))
    draft.change("  source: librarian", "  file: own-panel.yaml\n  source: librarian")
    assert digest(draft.resolve()) == original, "the same personas in another file"
    unused = {**prompts, "wedding_planner": {"prompt": "You plan weddings."}}
    panel.write_text(json.dumps({"personas": unused}))
    assert digest(draft.resolve()) == original, "this persona is not in the study"
    panel.write_text(json.dumps({"personas": {**prompts, "archivist": {"prompt": "You keep records."}}}))
    assert digest(draft.resolve()) != original


def test_the_digest_covers_the_content_of_local_data(draft: Draft) -> None:
    data = draft.path.parent / "own.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    before = digest(draft.change("path: embedded:everyday_help", "path: own.jsonl").resolve())
    data.write_text('{"prompt": "a", "completion": "c"}\n')
    assert digest(draft.resolve()) != before


def test_the_digest_covers_the_content_of_given_folders_but_not_their_place(draft: Draft) -> None:
    base = draft.path.parent
    for name, content in (("here", b"a"), ("moved", b"a"), ("other", b"b")):
        (base / name).mkdir()
        (base / name / "model.safetensors").write_bytes(content)
    draft.change("  base_first: {}", "  base_first: {}\n  given: {checkpoint: ./here}")
    before = digest(draft.resolve())
    assert digest(draft.change("checkpoint: ./here", "checkpoint: ./moved").resolve()) == before
    assert digest(draft.change("checkpoint: ./moved", "checkpoint: ./other").resolve()) != before


def test_the_digest_covers_the_content_of_the_held_out_triples_and_not_their_name(draft: Draft) -> None:
    shipped = resources.data_file("embedded:out_of_domain_advice", draft.path.parent).read_text()
    before = digest(draft.resolve())
    own = draft.path.parent / "own.jsonl"
    own.write_text(shipped)
    draft.change("manipulation: embedded:out_of_domain_advice", "manipulation: own.jsonl")
    assert digest(draft.resolve()) == before
    own.write_text(shipped + shipped.splitlines()[0] + "\n")
    assert digest(draft.resolve()) != before


def test_the_digest_pins_what_the_study_does_not(draft: Draft) -> None:
    draft.change("path: embedded:everyday_help", "dataset: owner/chat")
    draft.change("  base_first: {}", "  base_first: {}\n  given: {adapter: owner/lora}")
    newest = {"dataset owner/chat@": "c" * 40, "model owner/lora@": "d" * 40}

    def seen(**commits: str) -> Resolved:
        return resolve_study(draft.load(), Pins(commits=newest | commits))

    before = seen()
    assert before.dataset_revisions == {"benign_first": "c" * 40}
    assert digest(seen(**{"dataset owner/chat@": "e" * 40})) != digest(before)
    assert digest(seen(**{"model owner/lora@": "e" * 40})) != digest(before)
    draft.change("dataset: owner/chat", f"dataset: owner/chat\n      revision: {'c' * 40}")
    draft.change("{adapter: owner/lora}", f"{{adapter: owner/lora, revision: {'d' * 40}}}")
    assert digest(draft.resolve()) == digest(before), "pinned by hand to the same commits"


def test_a_registration_records_the_commits_that_it_pins(draft: Draft, tmp_path: Path) -> None:
    draft.change("path: embedded:everyday_help", f"dataset: owner/chat\n      revision: {'c' * 40}")
    registration = register(draft.resolve(), tmp_path)
    conditions = registration.pinned["conditions"]
    assert isinstance(conditions, dict) and conditions["benign_first"] == f"owner/chat@{'c' * 40}"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"started": 3}', '{"started": "yesterday"}'])
def test_a_damaged_manifest_counts_as_no_artifact(draft: Draft, tmp_path: Path, content: str) -> None:
    resolved = draft.resolve()
    register(resolved, tmp_path)
    finish_stage(tmp_path, datetime.now(UTC))
    (tmp_path / "artifacts" / "couple-0123" / "manifest.json").write_text(content)
    assert registration_state(tmp_path, digest(resolved)) == "confirmatory"


def test_a_run_without_a_registration_is_exploratory(tmp_path: Path) -> None:
    assert registration_state(tmp_path, "0" * 64) == "exploratory"
    assert registration_record(tmp_path, "0" * 64) == {
        "digest": "0" * 64, "registered": "exploratory", "time": None
    }  # fmt: skip


def test_a_run_registered_before_its_first_stage_is_confirmatory_and_stays_so(draft: Draft, tmp_path: Path) -> None:
    resolved, run_folder = draft.resolve(), tmp_path / "runs" / "mine"
    registration = register(resolved, run_folder)
    assert registration_state(run_folder, digest(resolved)) == "confirmatory"
    finish_stage(run_folder, datetime.now(UTC))
    assert registration_state(run_folder, digest(resolved)) == "confirmatory"
    assert registration_record(run_folder, digest(resolved))["time"] == registration.time
    written = json.loads((run_folder / "registration.json").read_text())
    assert written["digest"] == digest(resolved)
    assert written["study"]["coupling"]["epochs"] == 5.0, "defaults are written out"
    assert written["pinned"]["model"]["fingerprint"] == resolved.model.fingerprint
    assert datetime.fromisoformat(written["time"]).utcoffset() == timedelta(0)


def test_registering_again_changes_nothing(draft: Draft, tmp_path: Path) -> None:
    resolved = draft.resolve()
    register(resolved, tmp_path / "run")
    before = (tmp_path / "run" / "registration.json").read_bytes()
    finish_stage(tmp_path / "run", datetime.now(UTC))
    register(resolved, tmp_path / "run")
    assert (tmp_path / "run" / "registration.json").read_bytes() == before


def test_a_study_changed_after_its_registration_has_deviated_and_cannot_be_registered_again(
    draft: Draft, tmp_path: Path
) -> None:
    register(draft.resolve(), tmp_path)
    changed = draft.change("layers: [1, 3]", "layers: [1, 2]").resolve()
    assert registration_state(tmp_path, digest(changed)) == "deviated"
    with pytest.raises(UserError) as caught:
        register(changed, tmp_path)
    assert [problem.code for problem in caught.value.problems] == ["registration.other_study"]
    assert registration_state(tmp_path, digest(changed)) == "deviated"


def test_a_study_cannot_be_registered_after_a_stage_has_finished(draft: Draft, tmp_path: Path) -> None:
    finish_stage(tmp_path, datetime.now(UTC))
    with pytest.raises(UserError) as caught:
        register(draft.resolve(), tmp_path)
    assert [problem.code for problem in caught.value.problems] == ["registration.too_late"]
    assert not (tmp_path / "registration.json").exists()


def test_an_unfinished_stage_does_not_prevent_a_registration(draft: Draft, tmp_path: Path) -> None:
    finish_stage(tmp_path, datetime.now(UTC), name=".partial-1-abcd")
    register(draft.resolve(), tmp_path)
    assert registration_state(tmp_path, digest(draft.resolve())) == "confirmatory"


def test_an_artifact_older_than_the_registration_makes_the_run_exploratory(draft: Draft, tmp_path: Path) -> None:
    register(draft.resolve(), tmp_path)
    finish_stage(tmp_path, datetime.now(UTC) - timedelta(hours=1))
    assert registration_state(tmp_path, digest(draft.resolve())) == "exploratory"


def test_an_altered_registration_is_an_error_and_never_a_state(draft: Draft, tmp_path: Path) -> None:
    register(draft.resolve(), tmp_path)
    (tmp_path / "registration.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        registration_state(tmp_path, digest(draft.resolve()))
    assert [problem.code for problem in caught.value.problems] == ["registration.damaged"]
