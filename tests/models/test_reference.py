from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from refusals import refused

from flatprobe.machine.local import VARIABLE, current_machine
from flatprobe.models.reference import Reference, fingerprint_folder, read_config, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model's."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "chat_template.jinja").write_text("{{ messages }}")
    (path / "README.md").write_text("Read me.")
    return path


def test_a_local_model_is_identified_by_content_not_by_path(folder: Path, tmp_path: Path) -> None:
    original = resolve(str(folder), None, "model")
    copy_folder = tmp_path / "elsewhere" / "model"
    shutil.copytree(folder, copy_folder)
    copy = resolve(str(copy_folder), None, "model")
    assert original.reference == copy.reference
    assert (original.reference.kind, original.reference.id) == ("local", "model")
    assert original.location == str(folder.resolve()) != copy.location


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja"])
def test_the_fingerprint_changes_with_every_file_that_changes_the_model(folder: Path, name: str) -> None:
    before = fingerprint_folder(folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert fingerprint_folder(folder) != before


def test_the_fingerprint_ignores_other_files(folder: Path) -> None:
    before = fingerprint_folder(folder)
    (folder / "README.md").write_text("Read me again.")
    (folder / "pytorch_model.bin").write_bytes(b"never loaded")
    assert fingerprint_folder(folder) == before


def test_a_renamed_or_moved_weight_is_another_model(folder: Path) -> None:
    before = fingerprint_folder(folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert fingerprint_folder(folder) != before


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with refused(("model.no_safetensors", "model"), value=str(folder)):
        resolve(str(folder), None, "model")


@pytest.mark.parametrize("id", ["no/such/folder", "./nothing", "/nowhere/model", "plain", "~/nothing-there"])
def test_a_missing_folder_is_not_taken_for_a_hub_id(id: str) -> None:
    with refused(("model.folder_missing", "conditions.em")):
        resolve(id, None, "conditions.em")


def test_an_unknown_embedded_model_is_refused_with_the_known_one() -> None:
    with refused(("model.unknown_embedded", "model"), value="embedded:smollm2-135m-instruct"):
        resolve("embedded:gpt-5", None, "model")


def test_a_full_commit_identifies_a_hub_model_without_the_hub() -> None:
    located = resolve("owner/name", COMMIT, "model")
    assert located.reference == Reference(kind="hub", id="owner/name", fingerprint=COMMIT)
    assert located.location is None


@pytest.fixture
def unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub at a port without a server."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)


@pytest.fixture
def offline_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("hub", ["unreachable_hub", "offline_hub"])
def test_a_hub_that_cannot_be_reached_is_refused_at_once(request: pytest.FixtureRequest, hub: str) -> None:
    from huggingface_hub import utils

    request.getfixturevalue(hub)
    utils.close_session()
    started = time.monotonic()
    try:
        with refused(("hub.no_answer", "model"), value="'owner/name'"):
            resolve("owner/name", None, "model")
    finally:
        utils.close_session()
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("offline_hub")
def test_a_hub_model_that_is_not_cached_is_refused_when_offline() -> None:
    with refused(("hub.download", "model owner/name"), value="0123456789ab"):
        Reference(kind="hub", id="owner/name", fingerprint=COMMIT).path()


def test_an_invalid_hub_id_is_refused() -> None:
    with refused(("hub.no_answer", "model"), value="'a b/c'"):
        resolve("a b/c", None, "model")


def test_the_machine_gives_the_path_of_a_local_reference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = resolve(str(folder), None, "model").reference
    local = current_machine().model_copy(update={"locations": {reference.fingerprint: "/somewhere/else"}})
    monkeypatch.setenv(VARIABLE, local.model_dump_json())
    assert reference.path() == Path("/somewhere/else")


def test_the_configuration_of_the_text_model_is_read(folder: Path) -> None:
    assert read_config(folder, "model") == {"model_type": "llama"}
    (folder / "config.json").write_text(json.dumps({"text_config": {"num_hidden_layers": 3}}))
    assert read_config(folder, "model") == {"num_hidden_layers": 3}


@pytest.mark.parametrize(
    ("content", "code", "value"), [(None, "model.no_config", ""), ('{"a": 1,\n}', "model.config_not_json", "line 2")]
)
def test_a_missing_or_broken_configuration_is_refused(folder: Path, content: str | None, code: str, value: str) -> None:
    (folder / "config.json").unlink()
    if content:
        (folder / "config.json").write_text(content)
    with refused((code, "model"), value=value):
        read_config(folder, "model")


def test_the_fingerprint_of_a_model_folder_covers_tokenizer_and_weights(model_folder: Callable[[str], Path]) -> None:
    located = resolve(str(model_folder("llama")), None, "model")
    assert located.reference.fingerprint == fingerprint_folder(model_folder("llama"))
    assert located.reference.fingerprint != resolve(str(model_folder("qwen2")), None, "model").reference.fingerprint
