"""Finished stages as plain folders: `<run folder>/artifacts/<name>-<first 12 digits of the key>/`.

Nothing is ever half there. A stage writes into a `.partial-…` folder; its manifest is written last; then the
folder is renamed, which a file system does at once or not at all. What a stage keeps for its own next attempt lies
in `.resume-<first 12 digits of the key>/` until the stage is finished.
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
    """A finished stage on the disk."""

    folder: Path
    manifest: Manifest

    @property
    def facts(self) -> JsonValue:
        """What the stage wrote to `facts.json`, or None."""
        return self.manifest.facts


class ArtifactStore:
    """The artifacts of one run folder. Only the holder of the run lock may call what changes the disk."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "artifacts"

    def path(self, stage: Stage) -> Path:
        """Where the artifact of a stage belongs."""
        return self.folder / f"{stage.file_name}-{stage.key[:12]}"

    def find(self, stage: Stage) -> Artifact | None:
        """The finished artifact of a stage, whatever the stage was called when it was made, or None.

        Raises Damaged where there is one that cannot be trusted.
        """
        place = self._place(stage)
        if place is None:
            return None
        manifest = read_manifest(place)
        if manifest.key not in (stage.key, stage.former_key):
            raise Damaged(f"its manifest is of another computation, {manifest.key}")
        return Artifact(place, manifest)

    def _place(self, stage: Stage) -> Path | None:
        """The folder of a stage's artifact: under its name, under another name, or under its former key."""
        if (home := self.path(stage)).exists():
            return home
        for key in filter(None, (stage.key, stage.former_key)):
            if folders := sorted(self.folder.glob(f"[!.]*-{key[:12]}")):
                return folders[0]
        return None

    def find_current(self, stage: Stage, inputs: Mapping[str, Artifact]) -> Artifact | None:
        """Like `find`; raises Damaged, too, where an input was since computed anew and came out otherwise.

        `inputs` may lack roles whose artifacts no longer exist: what was computed from them stays valid.
        """
        artifact = self.find(stage)
        if artifact is not None:
            for role, record in artifact.manifest.inputs.items():
                if role in inputs and inputs[role].manifest.content != record.content:
                    raise Damaged(f"it was computed from another copy of {record.name}, its {role}")
        return artifact

    def begin(self) -> Path:
        """A new empty folder for a stage to write into."""
        partial = self.folder / f"{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}"
        partial.mkdir(parents=True)
        return partial

    def resume(self, stage: Stage) -> Path:
        """Where a stage may keep what its next attempt can use; need not exist."""
        return self.folder / f"{RESUME}{stage.key[:12]}"

    def commit(self, partial: Path, stage: Stage) -> Artifact:
        """Turn a partial folder with its manifest into the artifact, in place of a damaged one if any.

        Raises Damaged where the partial is not whole.
        """
        manifest = read_manifest(partial)
        home = self.path(stage)
        if (
            home.exists()
        ):  # set aside under a partial's name, so that the next run clears it should this one end here
            aside = self.begin()
            home.rename(aside / "damaged")
            partial.rename(home)
            self.discard(aside)
        else:
            partial.rename(home)
        _sync_folder(self.folder)
        self.discard(self.resume(stage))
        return Artifact(home, manifest)

    def discard(self, partial: Path) -> None:
        """Remove a partial folder, or what can be removed of it: the next run removes the rest."""
        shutil.rmtree(partial, ignore_errors=True)

    def discard_partials(self, planned: Collection[Stage] = ()) -> None:
        """Remove what runs that were killed left behind, except for what planned stages can resume from."""
        kept = {self.resume(stage) for stage in planned}
        for folder in [*self.folder.glob(f"{PARTIAL}*"), *self.folder.glob(f"{RESUME}*")]:
            if folder not in kept:
                self.discard(folder)


def _sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder: a rename is safe from a power cut only then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
