"""The manifest of an artifact. It is written last: if it exists, the stage completed."""

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
    """An artifact does not match its manifest; the text says how."""


class FileRecord(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str


class InputRecord(BaseModel):
    """The artifact that a stage read in one role."""

    model_config = ConfigDict(frozen=True)

    name: str
    key: str
    content: str
    """`Manifest.content` of the artifact. It tells copies apart if a computation is not deterministic."""


class Manifest(BaseModel):
    """Record of one computation: function, settings, inputs, output files, time and software."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    name: str
    kind: str = ""
    """Empty in manifests of version 0.1.0, which had no kinds."""
    function: str
    version: int
    settings: dict[str, JsonValue]
    inputs: dict[str, InputRecord]
    files: dict[str, FileRecord]
    """Path inside the artifact, with `/` → the file. Without the manifest."""
    started: str
    """ISO 8601, UTC."""
    seconds: float
    """Wall time of the stage function, including its imports."""
    provenance: Provenance
    facts: JsonValue = None
    """Content of the `facts.json` that the stage wrote, if it wrote one: small facts for people."""

    @property
    def content(self) -> str:
        """SHA-256 over the names and hashes of all files. Equal if two artifacts hold the same bytes."""
        hashes = {path: record.sha256 for path, record in self.files.items()}
        return hashlib.sha256(canonical_json(hashes).encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """Total size of the files."""
        return sum(record.bytes for record in self.files.values())


def describe_files(folder: Path) -> dict[str, FileRecord]:
    """Hash every file under a folder and sync it to disk.

    Raises:
        ValueError: the folder holds a symbolic link, whose target is outside the artifact, or holds no file.
    """
    records = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ValueError(f"the stage wrote a symbolic link, {relative}; an artifact must hold regular files")
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            records[relative] = FileRecord(bytes=path.stat().st_size, sha256=digest)
    if not records:
        raise ValueError("the stage wrote no file into its output folder")
    return records


def read_facts(folder: Path) -> JsonValue:
    """The facts that a stage wrote, or None. Raises ValueError if the file is not JSON."""
    path = folder / FACTS
    if not path.exists():
        return None
    facts: JsonValue = json.loads(path.read_text(encoding="utf-8"))
    return facts


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest and sync it to disk. Raises FileExistsError if the stage wrote such a file itself."""
    with (folder / MANIFEST).open("x", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact whose files all exist with their recorded sizes.

    Hashes are not checked, because large checkpoints would take minutes; `verify_hashes` checks them.

    Raises:
        Damaged: the manifest cannot be read, or a file is missing or has another size.
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
    """Hash every file again. Raises Damaged if a hash differs from the recorded one."""
    for relative, record in manifest.files.items():
        with (folder / relative).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
                raise Damaged(f"{relative} has changed since it was written")
