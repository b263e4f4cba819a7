"""What identifies a model: a place to load it from and a fingerprint of its content. No torch here.

A local folder is identified by the hash of its files, a hub model by its commit, the embedded model by the hash of
its GGUF file; so a stage's key changes when the model does, and not when a folder moves.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from flatprobe import machine
from flatprobe.errors import UserError
from flatprobe.models.embedded import EMBEDDED, converted_folder, gguf_fingerprint

Kind = Literal["embedded", "local", "hub"]
HASHED_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")


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


def resolve(id: str, revision: str | None, place: str) -> Located:
    """Identify a model or adapter by id or folder.

    Raises:
        UserError: nothing is there, or the hub cannot be asked.
    """
    if id.startswith("embedded:"):
        if id != EMBEDDED:
            raise UserError.one(place, f"unknown embedded model {id!r}", f"the embedded model is {EMBEDDED}")
        return Located(Reference(kind="embedded", id=id, fingerprint=gguf_fingerprint()), None)
    folder = Path(id).expanduser()
    if folder.is_dir():
        if not list(folder.glob("*.safetensors")):
            raise UserError.one(
                place,
                f"no safetensors file in {folder}",
                "pickled weights are never loaded: convert to safetensors",
            )
        reference = Reference(kind="local", id=folder.name, fingerprint=fingerprint_folder(folder))
        return Located(reference, str(folder.resolve()))
    if id.count("/") != 1 or id.startswith((".", "/", "~")):
        raise UserError.one(
            place, f"no model folder at {id!r}", "give an existing folder or a hub id OWNER/NAME"
        )
    return Located(Reference(kind="hub", id=id, fingerprint=_commit(id, revision, place)), None)


def _commit(id: str, revision: str | None, place: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported at run time

    if revision is not None and len(revision) == 40:
        return revision  # a full commit needs no asking, so a cached model works offline
    try:
        sha = HfApi().model_info(id, revision=revision, timeout=20).sha
    except (httpx.HTTPError, OSError, ValueError) as error:  # refusals; no network; no valid id
        raise UserError.one(
            place,
            f"the hub could not be asked about {id!r}: {type(error).__name__}",
            "check the id and the network, or pin `revision` to a full commit that is in the local cache",
        ) from error
    return str(sha)


def fetch(id: str, commit: str) -> Path:
    """Download a hub model's safetensors, configuration and tokenizer; returns the snapshot folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported at run time

    try:
        return Path(
            snapshot_download(
                id, revision=commit, allow_patterns=[f"*{suffix}" for suffix in HASHED_SUFFIXES]
            )
        )
    except (httpx.HTTPError, OSError) as error:
        raise UserError.one(
            f"model {id}", f"cannot be fetched at {commit[:12]}: {type(error).__name__}", "check the network"
        ) from error


def fingerprint_folder(folder: Path) -> str:
    """sha256 over names and contents of weights, configuration and tokenizer files."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in HASHED_SUFFIXES and p.is_file()):
        with path.open("rb") as file:
            total.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


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
            place, f"no config.json in {folder}", "give a Hugging Face model folder"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError.one(place, f"{path} is not JSON: {error.msg} (line {error.lineno})") from error
    return dict(config.get("text_config") or config)
