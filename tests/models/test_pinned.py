"""A study goes on with the commits that it began with, and unchanged folders are not hashed again."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from flatprobe.errors import UserError
from flatprobe.models.pinned import FILE, Memory, read_memory, write_memory
from flatprobe.models.reference import dataset_commit, fingerprint_folder, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_a_new_run_folder_remembers_nothing(tmp_path: Path) -> None:
    assert read_memory(tmp_path / "new") == Memory()
    (tmp_path / "file").write_text("")
    assert read_memory(tmp_path / "file" / "new") == Memory()


@pytest.mark.usefixtures("no_hub")
def test_a_remembered_commit_needs_no_hub(tmp_path: Path) -> None:
    write_memory(Memory(commits={"model o/m@": COMMIT, "dataset o/m@v1": "f" * 40}), tmp_path / "run")
    memory = read_memory(tmp_path / "run")
    assert resolve("o/m", None, "model", memory).reference.fingerprint == COMMIT
    assert dataset_commit("o/m", "v1", "data", memory) == "f" * 40


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("revision", [None, "v2"])
def test_another_revision_or_kind_is_asked_for(revision: str | None) -> None:
    memory = Memory(commits={"model o/m@": COMMIT, "dataset o/m@v1": "f" * 40})
    with pytest.raises(UserError, match="data  the hub could not be asked about 'o/m'"):
        dataset_commit("o/m", revision, "data", memory)


@pytest.mark.parametrize("files", [["pytorch_model.bin"], ["config.json", "model.safetensors"]])
def test_a_hub_model_is_asked_for_once_and_needs_safetensors(
    monkeypatch: pytest.MonkeyPatch, files: list[str]
) -> None:
    asked: list[str] = []

    def model_info(_: object, id: str, **options: object) -> SimpleNamespace:
        asked.append(id)
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in files])

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    memory = Memory()
    if "model.safetensors" in files:
        for _ in range(2):
            assert resolve("o/m", None, "model", memory).reference.fingerprint == COMMIT
        assert asked == ["o/m"] and memory.commits == {"model o/m@": COMMIT}
    else:
        with pytest.raises(UserError, match="model  no safetensors file in o/m .*pickled"):
            resolve("o/m", None, "model", memory)
        assert memory == Memory()


@pytest.mark.usefixtures("no_hub")
def test_a_full_commit_is_its_own_answer_and_is_not_remembered() -> None:
    memory = Memory()
    assert dataset_commit("o/m", COMMIT, "data", memory) == COMMIT
    assert memory == Memory()


def test_an_unchanged_folder_is_not_hashed_again(folder: Path, tmp_path: Path) -> None:
    memory = Memory()
    first = resolve(str(folder), None, "model", memory).reference.fingerprint
    assert first == fingerprint_folder(folder)
    write_memory(memory, tmp_path / "run")
    memory = read_memory(tmp_path / "run")
    memory.folders[str(folder)].fingerprint = "remembered"
    assert resolve(str(folder), None, "model", memory).reference.fingerprint == "remembered"


@pytest.mark.parametrize("change", ["size", "time", "new", "gone"])
def test_a_changed_folder_is_hashed_again(folder: Path, change: str) -> None:
    (folder / "config.json").write_text("{}")
    memory = Memory()
    resolve(str(folder), None, "model", memory)
    memory.folders[str(folder)].fingerprint = "stale"
    weights = folder / "model.safetensors"
    if change == "size":
        weights.write_bytes(b"more weights")
    elif change == "time":
        os.utime(weights, ns=(0, 0))
    elif change == "new":
        (folder / "chat_template.jinja").write_text("")
    else:
        (folder / "config.json").unlink()
    assert resolve(str(folder), None, "model", memory).reference.fingerprint == fingerprint_folder(folder)


def test_a_damaged_memory_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(UserError, match="delete it to take the newest commits"):
        read_memory(tmp_path)


def test_a_run_folder_that_cannot_be_written_is_the_user_s_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_memory(Memory(), tmp_path / "file" / "run")
