"""What identifies a model or a dataset: a place to load it from and a fingerprint of its content. No torch here.

A local folder is identified by the hash of its files, a hub model by its commit, the embedded model by the hash of
its GGUF file; so a stage's key changes when the model does, and not when a folder moves.
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
from flatprobe.machine import local as machine
from flatprobe.models.embedded import EMBEDDED, converted_folder, gguf_fingerprint
from flatprobe.models.pinned import Memory

Kind = Literal["embedded", "local", "hub"]
DESCRIBING_SUFFIXES = (".json", ".jinja", ".model", ".txt")
HASHED_SUFFIXES = (".safetensors", *DESCRIBING_SUFFIXES)
PICKLED = "pickled weights are never loaded: convert to safetensors"


class Reference(BaseModel):
    """A model or adapter that exists outside the run. Where a local folder lies is the machine's business."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    id: str
    """Hub id or embedded name; the folder's name for a local one."""
    fingerprint: str
    """sha256 of the content, or the hub commit."""

    def path(self) -> Path:
        """A local folder with the files; converts the embedded model or downloads a hub model where needed.

        Raises:
            UserError: a hub model cannot be fetched.
        """
        if self.kind == "embedded":
            return converted_folder()
        if self.kind == "hub":
            return fetch(self.id, self.fingerprint)
        return Path(machine.current().locations[self.fingerprint])


@dataclass(frozen=True)
class Located:
    """A reference, and where a local one lies."""

    reference: Reference
    location: str | None


def resolve(id: str, revision: str | None, place: str, memory: Memory | None = None) -> Located:
    """Identify a model or adapter by id or folder; `memory` spares what it knows, and learns the rest.

    Raises:
        UserError: nothing is there, or the hub cannot be asked.
    """
    if id.startswith("embedded:"):
        if id != EMBEDDED:
            raise UserError.one(
                "reference.TODO", place, f"unknown embedded model {id!r}", f"the embedded model is {EMBEDDED}"
            )
        return Located(Reference(kind="embedded", id=id, fingerprint=gguf_fingerprint()), None)
    memory = memory if memory is not None else Memory()
    folder = Path(id).expanduser()
    if folder.is_dir():
        if not list(folder.glob("*.safetensors")):
            raise UserError.one(
                "reference.TODO",
                place,
                f"no safetensors file in {folder}",
                PICKLED,
            )
        fingerprint = memory.fingerprint(folder, hashed_files(folder), lambda: fingerprint_folder(folder))
        reference = Reference(kind="local", id=folder.name, fingerprint=fingerprint)
        return Located(reference, str(folder.resolve()))
    if id.count("/") != 1 or id.startswith((".", "/", "~")):
        raise UserError.one(
            "reference.TODO",
            place,
            f"no model folder at {id!r}",
            "give an existing folder or a hub id OWNER/NAME",
        )
    commit = memory.commit(
        "model", id, revision, lambda: _ask(id, place, lambda: _model(id, revision, place))
    )
    return Located(Reference(kind="hub", id=id, fingerprint=commit), None)


def dataset_commit(id: str, revision: str | None, place: str, memory: Memory) -> str:
    """The commit of a hub dataset.

    Raises:
        UserError: the hub cannot be asked.
    """
    return memory.commit("dataset", id, revision, lambda: _ask(id, place, lambda: _dataset(id, revision)))


def _model(id: str, revision: str | None, place: str) -> str | None:
    from huggingface_hub import HfApi

    found = HfApi().model_info(id, revision=revision, timeout=20)
    if not any(file.rfilename.endswith(".safetensors") for file in found.siblings or ()):
        raise UserError.one("reference.TODO", place, f"no safetensors file in {id}", PICKLED)
    return found.sha


def _dataset(id: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi

    return HfApi().dataset_info(id, revision=revision, timeout=20).sha


def _ask(id: str, place: str, question: Callable[[], str | None]) -> str:
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported at run time

    try:
        sha = question()
    except (httpx.HTTPError, OSError, ValueError) as error:  # refusals; no network; no valid id
        raise UserError.one(
            "reference.TODO",
            place,
            f"the hub could not be asked about {id!r}: {type(error).__name__}",
            "check the id and the network, or pin `revision` to a full commit that is in the local cache",
        ) from error
    if sha is None:
        raise UserError.one(
            "reference.TODO", place, f"the hub names no commit of {id!r}", "pin `revision` to a full commit"
        )
    return sha


def fetch(id: str, commit: str, suffixes: Sequence[str] = HASHED_SUFFIXES) -> Path:
    """Download a hub model's safetensors, configuration and tokenizer; returns the snapshot folder.

    `suffixes` narrows it down: DESCRIBING_SUFFIXES leaves the weights where they are.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported at run time

    try:
        return Path(
            snapshot_download(id, revision=commit, allow_patterns=[f"*{suffix}" for suffix in suffixes])
        )
    except (httpx.HTTPError, OSError) as error:
        raise UserError.one(
            "reference.TODO",
            f"model {id}",
            f"cannot be fetched at {commit[:12]}: {type(error).__name__}",
            "check the network",
        ) from error


def describing_folder(reference: Reference, location: str | None) -> Path:
    """A folder with a model's configuration and tokenizer; `location` is where a local model lies.

    Downloads from the hub what the cache lacks, without weights, and converts the embedded model on first use.
    """
    if location is not None:
        return Path(location)
    if reference.kind == "hub":
        return fetch(reference.id, reference.fingerprint, DESCRIBING_SUFFIXES)
    return reference.path()


def fingerprint_folder(folder: Path) -> str:
    """sha256 over names and contents of weights, configuration and tokenizer files."""
    total = hashlib.sha256()
    for path in hashed_files(folder):
        with path.open("rb") as file:
            total.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def hashed_files(folder: Path) -> list[Path]:
    """The files that make a model or adapter, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix in HASHED_SUFFIXES and p.is_file())


def read_config(folder: Path, place: str) -> dict[str, Any]:
    """A model folder's config.json.

    Raises:
        UserError: it is missing or no JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError.one(
            "reference.TODO", place, f"no config.json in {folder}", "give a Hugging Face model folder"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError.one(
            "reference.TODO", place, f"{path} is not JSON: {error.msg} (line {error.lineno})"
        ) from error
    return dict(config.get("text_config") or config)
