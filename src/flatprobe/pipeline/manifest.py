"""The manifest of an artifact: written last, so that its existence means that the stage completed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from flatprobe.errors import FlatprobeError
from flatprobe.pipeline.stage import canonical_json
from flatprobe.provenance import Provenance

MANIFEST = "manifest.json"
FACTS = "facts.json"


class Damaged(FlatprobeError):
    """An artifact is not what its manifest says; the text says in what way."""


class FileRecord(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str


class InputRecord(BaseModel):
    """What a stage was given in one role."""

    model_config = ConfigDict(frozen=True)

    name: str
    key: str
    content: str
    """`Manifest.content` of the artifact that was read: which copy, where a computation is not repeatable."""


class Manifest(BaseModel):
    """What was computed, from what, with what, and what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    name: str
    kind: str = ""
    """Empty in manifests from before kinds had names."""
    function: str
    version: int
    settings: dict[str, JsonValue]
    inputs: dict[str, InputRecord]
    files: dict[str, FileRecord]
    """Path inside the artifact, with `/` → the file; all but the manifest itself."""
    started: str
    """ISO 8601, UTC."""
    seconds: float
    """Wall time of the stage function, its imports included."""
    provenance: Provenance
    facts: JsonValue = None
    """Small facts for people: the content of the `facts.json` that the stage may have written."""

    @property
    def content(self) -> str:
        """SHA-256 over names and hashes of all files: equal for two artifacts that hold the same bytes."""
        hashes = {path: record.sha256 for path, record in self.files.items()}
        return hashlib.sha256(canonical_json(hashes).encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(record.bytes for record in self.files.values())


def describe_files(folder: Path) -> dict[str, FileRecord]:
    """Hash every file under a folder and see it onto the disk.

    Raises ValueError for a symbolic link, as the artifact would then not hold what it says, and where there
    is no file: a stage that leaves nothing has not done its work.
    """
    records = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ValueError(f"the stage left a symbolic link, {relative}; an artifact holds its own files")
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            records[relative] = FileRecord(bytes=path.stat().st_size, sha256=digest)
    if not records:
        raise ValueError("the stage left no file in its output folder")
    return records


def read_facts(folder: Path) -> JsonValue:
    """The facts that a stage left, or None. Raises ValueError where the file is no JSON."""
    path = folder / FACTS
    if not path.exists():
        return None
    facts: JsonValue = json.loads(path.read_text(encoding="utf-8"))
    return facts


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest and wait until the disk has it. FileExistsError where the stage wrote one itself."""
    with (folder / MANIFEST).open("x", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact whose files all exist with their recorded sizes.

    Raises Damaged otherwise. Hashes are not computed again here, as checkpoints of many gigabytes would take
    minutes; `verify_hashes` does so.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise Damaged("it has no manifest") from None
    except (ValidationError, OSError) as error:
        raise Damaged(f"its manifest cannot be read: {error}") from error
    for relative, record in manifest.files.items():
        path = folder / relative
        if not path.is_file():
            raise Damaged(f"{relative} is missing")
        if (size := path.stat().st_size) != record.bytes:
            raise Damaged(f"{relative} has {size} bytes instead of {record.bytes}")
    return manifest


def verify_hashes(folder: Path, manifest: Manifest) -> None:
    """Read every file again. Raises Damaged where one has other content than was recorded."""
    for relative, record in manifest.files.items():
        with (folder / relative).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
                raise Damaged(f"{relative} has changed since it was written")
