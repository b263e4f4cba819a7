"""Artifacts are complete or absent, and are refused if they do not match their manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stage_functions import Number, number

from flatprobe.pipeline.artifact import Artifact, ArtifactStore
from flatprobe.pipeline.manifest import Damaged, InputRecord, Manifest, describe_files, verify_hashes, write_manifest
from flatprobe.pipeline.stage import Stage
from flatprobe.provenance import collect_provenance


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def finish(folder: Path, stage: Stage, inputs: dict[str, Artifact] | None = None) -> None:
    manifest = Manifest(
        key=stage.key,
        name=stage.name,
        function=stage.function,
        version=stage.version,
        settings=json.loads(stage.settings_json),
        inputs={
            role: InputRecord(name=artifact.manifest.name, key=artifact.manifest.key, content=artifact.manifest.content)
            for role, artifact in (inputs or {}).items()
        },
        files=describe_files(folder),
        started="2025-01-01T00:00:00+00:00",
        seconds=1.0,
        provenance=collect_provenance(),
    )
    write_manifest(folder, manifest)


def make(store: ArtifactStore, stage: Stage, text: str = "1", inputs: dict[str, Artifact] | None = None) -> Artifact:
    partial = store.new_partial()
    (partial / "deep").mkdir()
    (partial / "deep" / "number.txt").write_text(text)
    finish(partial, stage, inputs)
    return store.commit(partial, stage)


def test_a_committed_artifact_is_found_under_its_name_and_key(store: ArtifactStore) -> None:
    stage = number(1, name="couple/em_first/seed-42")
    artifact = make(store, stage)
    assert artifact.folder.name == f"couple__em_first__seed-42-{stage.key[:12]}"
    assert store.find(stage) == artifact
    assert [path.name for path in store.folder.iterdir()] == [artifact.folder.name]


def test_an_artifact_is_found_after_its_stage_was_renamed(store: ArtifactStore) -> None:
    artifact = make(store, number(1, name="old"))
    assert store.find(number(1, name="new")) == artifact


def test_an_artifact_of_version_0_1_0_is_found_under_its_former_key(store: ArtifactStore) -> None:
    settings = Number(value=1)
    former = Stage("old", "stage_functions:write", settings)
    former.__dict__["key"] = Stage("s", "moved:f", settings, former_kind="stage_functions:write").former_key
    artifact = make(store, former)
    assert store.find(Stage("new", "moved:f", settings, kind="write", former_kind="stage_functions:write")) == artifact
    assert store.find(Stage("new", "moved:f", settings, kind="write")) is None


def test_an_empty_store_finds_nothing(store: ArtifactStore) -> None:
    assert store.find(number(1)) is None


def test_a_partial_without_manifest_cannot_be_committed(store: ArtifactStore) -> None:
    partial = store.new_partial()
    (partial / "number.txt").write_text("1")
    with pytest.raises(Damaged, match="no manifest"):
        store.commit(partial, number(1))
    assert store.find(number(1)) is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "deep" / "number.txt").unlink(), "deep/number.txt is missing"),
        (lambda folder: (folder / "deep" / "number.txt").write_text(""), "0 bytes instead of 1"),
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest"),
        (lambda folder: (folder / "manifest.json").write_text('{"key": "a'), "cannot be read"),
        (
            lambda folder: (folder / "manifest.json").write_text(
                (folder / "manifest.json").read_text().replace(number(1).key, "0" * 64)
            ),
            "another computation",
        ),
    ],
)
def test_a_damaged_artifact_is_refused_with_the_damage(store: ArtifactStore, damage, words: str) -> None:  # type: ignore[no-untyped-def]
    damage(make(store, number(1)).folder)
    with pytest.raises(Damaged, match=words):
        store.find(number(1))


def test_a_damaged_artifact_is_replaced_by_a_complete_one(store: ArtifactStore) -> None:
    stage = number(1)
    (make(store, stage).folder / "deep" / "number.txt").unlink()
    artifact = make(store, stage, text="again")
    assert (artifact.folder / "deep" / "number.txt").read_text() == "again"
    assert [path.name for path in store.folder.iterdir()] == [artifact.folder.name]


def test_a_changed_file_of_equal_size_is_detected_by_its_hash(store: ArtifactStore) -> None:
    artifact = make(store, number(1))
    verify_hashes(artifact.folder, artifact.manifest)
    (artifact.folder / "deep" / "number.txt").write_text("2")
    with pytest.raises(Damaged, match=r"number\.txt has changed"):
        verify_hashes(artifact.folder, artifact.manifest)


def test_an_artifact_computed_from_another_copy_of_an_input_is_not_current(store: ArtifactStore) -> None:
    source = number(1)
    user = Stage("user", "m:f", Number(value=0), {"source": source})
    first = make(store, source, text="1")
    artifact = make(store, user, inputs={"source": first})
    assert store.find_current(user, {"source": first}) == artifact
    assert store.find_current(user, {}) == artifact
    other = make(store, source, text="2")
    with pytest.raises(Damaged, match="another copy of write/1, its source"):
        store.find_current(user, {"source": other})


def test_artifacts_with_equal_files_have_equal_content(store: ArtifactStore) -> None:
    assert make(store, number(1)).manifest.content == make(store, number(2)).manifest.content


def test_partial_folders_of_killed_runs_are_removed_and_artifacts_stay(store: ArtifactStore) -> None:
    artifact = make(store, number(1))
    (store.new_partial() / "half.txt").write_text("half")
    store.discard_partials()
    assert list(store.folder.iterdir()) == [artifact.folder]


def test_a_stage_may_not_write_the_manifest_itself(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(FileExistsError):
        finish(tmp_path, number(1))
