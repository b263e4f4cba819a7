"""The pins of a run folder: commits of hub repositories and hashes of local folders.

If a study names no commit, the newest one at the first run is pinned. So a finished study stays finished when the hub
has a newer commit or cannot be reached. A local folder is hashed again only if a file's size or modification time
changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from flatprobe.errors import UserError

FILE = "resolved.json"


class FolderRecord(BaseModel):
    """Hash of a local folder, and the state of its files at that time."""

    model_config = ConfigDict(extra="forbid")

    files: dict[str, tuple[int, int]]
    """File name → size in bytes and modification time in nanoseconds, of the hashed files."""
    fingerprint: str


class Pins(BaseModel):
    """Pinned commits and hashes. Resolving a study adds missing ones; only `write_pins` saves them."""

    model_config = ConfigDict(extra="forbid")

    commits: dict[str, str] = {}
    """`model OWNER/NAME@REVISION` or `dataset …` → commit. Without a revision, nothing follows the @."""
    folders: dict[str, FolderRecord] = {}
    """Absolute path of a local model or adapter → its record."""

    def commit(self, kind: str, id: str, revision: str | None, look_up: Callable[[], str]) -> str:
        """The commit of a hub repository, looked up once. A `revision` that is a full commit is returned."""
        if revision is not None and len(revision) == 40:
            return revision
        name = f"{kind} {id}@{revision or ''}"
        if name not in self.commits:
            self.commits[name] = look_up()
        return self.commits[name]

    def fingerprint(self, folder: Path, files: list[Path], compute: Callable[[], str]) -> str:
        """The hash of a folder; computed again if a hashed file was added, removed or changed."""
        stats = {path.name: path.stat() for path in files}
        states = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
        record = self.folders.get(str(folder.resolve()))
        if record is None or record.files != states:
            record = FolderRecord(files=states, fingerprint=compute())
            self.folders[str(folder.resolve())] = record
        return record.fingerprint


def read_pins(run_folder: Path) -> Pins:
    """The pins of a run folder; empty if the folder is new.

    Raises:
        UserError: the file is damaged.
    """
    path = run_folder / FILE
    try:
        return Pins.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Pins()
    except ValidationError as error:
        raise UserError.one(
            "run.damaged_pins",
            str(path),
            "the file is damaged, so the commits of the study's models and data are unknown",
            "restore it from a copy, or delete it to take the newest commits",
        ) from error


def write_pins(pins: Pins, run_folder: Path) -> None:
    """Write the pins atomically.

    Raises:
        UserError: the run folder cannot be written.
    """
    text = pins.model_dump_json(indent=1) + "\n"
    path = run_folder / FILE
    partial = run_folder / f".{FILE}-{os.getpid()}"
    try:
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        run_folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        raise UserError.one(
            "run.not_writable",
            str(run_folder),
            f"the run folder cannot be written: {error.strerror or error}",
            "choose another folder",
        ) from error
