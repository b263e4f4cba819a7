"""A study keeps the commits of its first run, and unchanged folders are not hashed again."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from refusals import refused

from flatprobe.models.pinned import FILE, Pins, read_pins, write_pins
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


def test_a_new_run_folder_has_no_pins(tmp_path: Path) -> None:
    assert read_pins(tmp_path / "new") == Pins()
    (tmp_path / "file").write_text("")
    assert read_pins(tmp_path / "file" / "new") == Pins()


@pytest.mark.usefixtures("no_hub")
def test_a_pinned_commit_needs_no_hub(tmp_path: Path) -> None:
    write_pins(Pins(commits={"model o/m@": COMMIT, "dataset o/m@v1": "f" * 40}), tmp_path / "run")
    pins = read_pins(tmp_path / "run")
    assert resolve("o/m", None, "model", pins).reference.fingerprint == COMMIT
    assert dataset_commit("o/m", "v1", "data", pins) == "f" * 40


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("revision", [None, "v2"])
def test_another_revision_or_kind_is_looked_up(revision: str | None) -> None:
    pins = Pins(commits={"model o/m@": COMMIT, "dataset o/m@v1": "f" * 40})
    with refused(("hub.no_answer", "data"), value="'o/m'"):
        dataset_commit("o/m", revision, "data", pins)


@pytest.mark.parametrize("files", [["pytorch_model.bin"], ["config.json", "model.safetensors"]])
def test_a_hub_model_is_looked_up_once_and_needs_safetensors(monkeypatch: pytest.MonkeyPatch, files: list[str]) -> None:
    requests: list[str] = []

    def model_info(_: object, id: str, **options: object) -> SimpleNamespace:
        requests.append(id)
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in files])

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    pins = Pins()
    if "model.safetensors" in files:
        for _ in range(2):
            assert resolve("o/m", None, "model", pins).reference.fingerprint == COMMIT
        assert requests == ["o/m"] and pins.commits == {"model o/m@": COMMIT}
    else:
        with refused(("model.no_safetensors", "model"), value="o/m"):
            resolve("o/m", None, "model", pins)
        assert pins == Pins()


@pytest.mark.usefixtures("no_hub")
def test_a_full_commit_is_not_looked_up_and_not_pinned() -> None:
    pins = Pins()
    assert dataset_commit("o/m", COMMIT, "data", pins) == COMMIT
    assert pins == Pins()


def test_an_unchanged_folder_is_not_hashed_again(folder: Path, tmp_path: Path) -> None:
    pins = Pins()
    first = resolve(str(folder), None, "model", pins).reference.fingerprint
    assert first == fingerprint_folder(folder)
    write_pins(pins, tmp_path / "run")
    pins = read_pins(tmp_path / "run")
    pins.folders[str(folder)].fingerprint = "pinned"
    assert resolve(str(folder), None, "model", pins).reference.fingerprint == "pinned"


@pytest.mark.parametrize("change", ["size", "time", "new", "gone"])
def test_a_changed_folder_is_hashed_again(folder: Path, change: str) -> None:
    (folder / "config.json").write_text("{}")
    pins = Pins()
    resolve(str(folder), None, "model", pins)
    pins.folders[str(folder)].fingerprint = "stale"
    weights = folder / "model.safetensors"
    if change == "size":
        weights.write_bytes(b"more weights")
    elif change == "time":
        os.utime(weights, ns=(0, 0))
    elif change == "new":
        (folder / "chat_template.jinja").write_text("")
    else:
        (folder / "config.json").unlink()
    assert resolve(str(folder), None, "model", pins).reference.fingerprint == fingerprint_folder(folder)


def test_damaged_pins_are_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with refused(("run.damaged_pins", str(tmp_path / FILE))):
        read_pins(tmp_path)


def test_a_run_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    with refused(("run.not_writable", str(folder))):
        write_pins(Pins(), folder)
