"""What a run folder remembers of the world outside, so that a study means the same each time it is looked at.

The commit that an unpinned hub repository had when the study first ran stays the study's own: neither a newer commit
nor a missing network turns a finished study into an unfinished one. A local folder is hashed again only when a file's
size or time of change differs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from flatprobe.errors import UserError

FILE = "resolved.json"


class FolderRecord(BaseModel):
    """A local folder as it was when it was hashed."""

    model_config = ConfigDict(extra="forbid")

    files: dict[str, tuple[int, int]]
    """Name to bytes and time of change in nanoseconds, of the files that are hashed."""
    fingerprint: str


class Memory(BaseModel):
    """Filled while a study is resolved; a command that only reads leaves the file as it is."""

    model_config = ConfigDict(extra="forbid")

    commits: dict[str, str] = {}
    """`model OWNER/NAME@REVISION` or `dataset …` to the commit; the revision of the newest is empty."""
    folders: dict[str, FolderRecord] = {}
    """Absolute path of a local model or adapter."""

    def commit(self, kind: str, id: str, revision: str | None, ask: Callable[[], str]) -> str:
        """The commit of a hub repository, asked for once. A full commit is its own answer."""
        if revision is not None and len(revision) == 40:
            return revision
        name = f"{kind} {id}@{revision or ''}"
        if name not in self.commits:
            self.commits[name] = ask()
        return self.commits[name]

    def fingerprint(self, folder: Path, files: list[Path], compute: Callable[[], str]) -> str:
        """The hash of a folder, computed where one of its hashed files is new, gone or changed."""
        states = {path.name: path.stat() for path in files}
        seen = {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()}
        record = self.folders.get(str(folder.resolve()))
        if record is None or record.files != seen:
            record = FolderRecord(files=seen, fingerprint=compute())
            self.folders[str(folder.resolve())] = record
        return record.fingerprint


def read_memory(run_folder: Path) -> Memory:
    """What a run folder remembers; nothing where it is new.

    Raises:
        UserError: the file is damaged.
    """
    path = run_folder / FILE
    try:
        return Memory.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Memory()
    except ValidationError as error:
        raise UserError.one(
            "pinned.TODO",
            str(path),
            "not what flatprobe wrote there: the commits that the study ran with are unknown",
            "restore it from a copy, or delete it to take the newest commits",
        ) from error


def write_memory(memory: Memory, run_folder: Path) -> None:
    """Keep it, at once or not at all.

    Raises:
        UserError: the run folder cannot be written.
    """
    text = memory.model_dump_json(indent=1) + "\n"
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
            "pinned.TODO",
            str(run_folder),
            f"the run folder cannot be written: {error.strerror or error}",
            "choose another folder",
        ) from error
