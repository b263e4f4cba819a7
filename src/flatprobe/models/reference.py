"""References to models and datasets: an id, and a fingerprint of the content. Imports no torch.

The fingerprint of a local folder is the hash of its files, of a hub model its commit, of the embedded model the hash of
its GGUF file. So a stage's key changes with the model's content, not with a folder's path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from flatprobe.errors import UserError
from flatprobe.machine.local import current_machine
from flatprobe.models.embedded import EMBEDDED, converted_folder, gguf_fingerprint
from flatprobe.models.pinned import Pins

ReferenceKind = Literal["embedded", "local", "hub"]
DESCRIBING_SUFFIXES = (".json", ".jinja", ".model", ".txt")
HASHED_SUFFIXES = (".safetensors", *DESCRIBING_SUFFIXES)
PICKLED = "pickled weights are never loaded: convert to safetensors"


class Reference(BaseModel):
    """A model or adapter outside the run. The path of a local folder is not part of it; the machine knows it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ReferenceKind
    id: str
    """Hub id, name of the embedded model, or name of the local folder."""
    fingerprint: str
    """SHA-256 of the content, or the hub commit."""

    def path(self) -> Path:
        """The folder with the files; converts the embedded model or downloads a hub model if needed.

        Raises:
            UserError: a hub model cannot be fetched.
        """
        if self.kind == "embedded":
            return converted_folder()
        if self.kind == "hub":
            return fetch(self.id, self.fingerprint)
        return Path(current_machine().locations[self.fingerprint])


@dataclass(frozen=True)
class Located:
    """A reference and the path of its folder."""

    reference: Reference
    location: str | None
    """Absolute path of a local folder; None for hub and embedded models."""


def resolve(id: str, revision: str | None, place: str, pins: Pins | None = None) -> Located:
    """Identify a model or adapter by id or folder. Pinned commits and hashes are used, missing ones are added.

    Args:
        place: where the user named it, for messages.

    Raises:
        UserError: there is no such model, it has no safetensors file, or the hub cannot be reached.
    """
    if id.startswith("embedded:"):
        if id != EMBEDDED:
            raise UserError.one(
                "model.unknown_embedded", place, f"unknown embedded model {id!r}", f"the embedded model is {EMBEDDED}"
            )
        return Located(Reference(kind="embedded", id=id, fingerprint=gguf_fingerprint()), None)
    pins = pins if pins is not None else Pins()
    folder = Path(id).expanduser()
    if folder.is_dir():
        if not list(folder.glob("*.safetensors")):
            raise UserError.one("model.no_safetensors", place, f"no safetensors file in {folder}", PICKLED)
        fingerprint = pins.fingerprint(folder, hashed_files(folder), lambda: fingerprint_folder(folder))
        reference = Reference(kind="local", id=folder.name, fingerprint=fingerprint)
        return Located(reference, str(folder.resolve()))
    if id.count("/") != 1 or id.startswith((".", "/", "~")):
        raise UserError.one(
            "model.folder_missing",
            place,
            f"no model folder at {id!r}",
            "give an existing folder or a hub id OWNER/NAME",
        )
    commit = pins.commit("model", id, revision, lambda: _look_up(id, place, lambda: _model_commit(id, revision, place)))
    return Located(Reference(kind="hub", id=id, fingerprint=commit), None)


def dataset_commit(id: str, revision: str | None, place: str, pins: Pins) -> str:
    """The commit of a hub dataset. A pinned one is used, a missing one is added.

    Raises:
        UserError: the hub cannot be reached.
    """
    return pins.commit("dataset", id, revision, lambda: _look_up(id, place, lambda: _dataset_commit(id, revision)))


def _model_commit(id: str, revision: str | None, place: str) -> str | None:
    from huggingface_hub import HfApi

    model = HfApi().model_info(id, revision=revision, timeout=20)
    if not any(file.rfilename.endswith(".safetensors") for file in model.siblings or ()):
        raise UserError.one("model.no_safetensors", place, f"no safetensors file in {id}", PICKLED)
    return model.sha


def _dataset_commit(id: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi

    return HfApi().dataset_info(id, revision=revision, timeout=20).sha


def _look_up(id: str, place: str, request: Callable[[], str | None]) -> str:
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported at run time

    try:
        commit = request()
    except (httpx.HTTPError, OSError, ValueError) as error:  # refused; no network; invalid id
        raise UserError.one(
            "hub.no_answer",
            place,
            f"the hub gave no answer about {id!r}: {type(error).__name__}",
            "check the id and the network, or pin `revision` to a full commit that is in the local cache",
        ) from error
    if commit is None:
        raise UserError.one(
            "hub.no_commit", place, f"the hub gives no commit of {id!r}", "pin `revision` to a full commit"
        )
    return commit


def fetch(id: str, commit: str, suffixes: Sequence[str] = HASHED_SUFFIXES) -> Path:
    """Download a hub model's files with these suffixes; returns the folder in the hub's cache.

    Raises:
        UserError: the download failed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported at run time

    try:
        return Path(snapshot_download(id, revision=commit, allow_patterns=[f"*{suffix}" for suffix in suffixes]))
    except (httpx.HTTPError, OSError) as error:
        raise UserError.one(
            "hub.download",
            f"model {id}",
            f"commit {commit[:12]} cannot be downloaded: {type(error).__name__}",
            "check the network",
        ) from error


def describing_folder(reference: Reference, location: str | None) -> Path:
    """A folder with a model's configuration and tokenizer; `location` is the path of a local model.

    Downloads missing files from the hub, but no weights. Converts the embedded model on first use.
    """
    if location is not None:
        return Path(location)
    if reference.kind == "hub":
        return fetch(reference.id, reference.fingerprint, DESCRIBING_SUFFIXES)
    return reference.path()


def fingerprint_folder(folder: Path) -> str:
    """SHA-256 over names and contents of weights, configuration and tokenizer files, in hexadecimal digits."""
    total = hashlib.sha256()
    for path in hashed_files(folder):
        with path.open("rb") as file:
            total.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def hashed_files(folder: Path) -> list[Path]:
    """The files whose content identifies a model or adapter, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix in HASHED_SUFFIXES and p.is_file())


def read_config(folder: Path, place: str) -> dict[str, Any]:
    """The text model's configuration in a folder's config.json.

    Raises:
        UserError: the file is missing or not JSON.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError.one(
            "model.no_config", place, f"no config.json in {folder}", "give a Hugging Face model folder"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError.one(
            "model.config_not_json", place, f"{path} is not JSON: {error.msg} (line {error.lineno})"
        ) from error
    return dict(config.get("text_config") or config)
