"""Finished stages as plain folders: `<run folder>/artifacts/<name>-<first 12 digits of the key>/`.

An artifact is complete or absent. A stage writes into a `.partial-…` folder, its manifest last; then the folder is
renamed, which is atomic. Files that let a stage resume lie in `.resume-<first 12 digits of the key>/` until the stage
is finished.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from flatprobe.pipeline.manifest import Damaged, Manifest, read_manifest
from flatprobe.pipeline.stage import Stage

PARTIAL = ".partial-"
RESUME = ".resume-"


@dataclass(frozen=True)
class Artifact:
    """The output folder of a finished stage."""

    folder: Path
    manifest: Manifest

    @property
    def facts(self) -> JsonValue:
        """Content of the `facts.json` that the stage wrote, or None."""
        return self.manifest.facts


class ArtifactStore:
    """The artifacts of one run folder. Methods that change the disk need the run lock."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "artifacts"

    def path(self, stage: Stage) -> Path:
        """The folder of a stage's artifact; need not exist."""
        return self.folder / f"{stage.file_name}-{stage.key[:12]}"

    def find(self, stage: Stage) -> Artifact | None:
        """The finished artifact of a stage, also if the stage had another name when it ran; None if there is none.

        Raises:
            Damaged: the artifact does not match its manifest.
        """
        folder = self._find_folder(stage)
        if folder is None:
            return None
        manifest = read_manifest(folder)
        if manifest.key not in (stage.key, stage.former_key):
            raise Damaged(f"its manifest belongs to another computation, {manifest.key}")
        return Artifact(folder, manifest)

    def _find_folder(self, stage: Stage) -> Path | None:
        """The folder of a stage's artifact: under its name, under another name, or under its former key."""
        if (folder := self.path(stage)).exists():
            return folder
        for key in filter(None, (stage.key, stage.former_key)):
            if folders := sorted(self.folder.glob(f"[!.]*-{key[:12]}")):
                return folders[0]
        return None

    def find_current(self, stage: Stage, inputs: Mapping[str, Artifact]) -> Artifact | None:
        """Like `find`, but an artifact computed from an input with other content is Damaged too.

        That happens if an input was computed again with another result. `inputs` may lack roles whose artifacts no
        longer exist; these are not compared.
        """
        artifact = self.find(stage)
        if artifact is not None:
            for role, record in artifact.manifest.inputs.items():
                if role in inputs and inputs[role].manifest.content != record.content:
                    raise Damaged(f"it was computed from another copy of {record.name}, its {role}")
        return artifact

    def new_partial(self) -> Path:
        """A new empty folder that a stage writes into."""
        partial = self.folder / f"{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}"
        partial.mkdir(parents=True)
        return partial

    def resume_folder(self, stage: Stage) -> Path:
        """The folder of files that let a stage resume; need not exist."""
        return self.folder / f"{RESUME}{stage.key[:12]}"

    def commit(self, partial: Path, stage: Stage) -> Artifact:
        """Turn a partial folder into the stage's artifact; a damaged artifact is replaced.

        Raises:
            Damaged: the partial folder has no manifest or does not match it.
        """
        manifest = read_manifest(partial)
        folder = self.path(stage)
        if folder.exists():
            replaced = self.new_partial()  # the next run removes partial folders, if this process ends here
            folder.rename(replaced / "damaged")
            partial.rename(folder)
            self.discard(replaced)
        else:
            partial.rename(folder)
        _sync_folder(self.folder)
        self.discard(self.resume_folder(stage))
        return Artifact(folder, manifest)

    def discard(self, partial: Path) -> None:
        """Remove a partial folder as far as possible; the next run removes the rest."""
        shutil.rmtree(partial, ignore_errors=True)

    def discard_partials(self, planned: Collection[Stage] = ()) -> None:
        """Remove the remains of killed runs, except the resume folders of planned stages."""
        resumable = {self.resume_folder(stage) for stage in planned}
        for folder in [*self.folder.glob(f"{PARTIAL}*"), *self.folder.glob(f"{RESUME}*")]:
            if folder not in resumable:
                self.discard(folder)


def _sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk; only then does a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
