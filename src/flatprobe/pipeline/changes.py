"""Why a stage is computed again: its differences from the last artifact of the same name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from flatprobe.pipeline.artifact import ArtifactStore
from flatprobe.pipeline.manifest import Damaged, Manifest, read_manifest
from flatprobe.pipeline.stage import Stage

_MAX_DIFFERENCES = 3  # further differences are only counted
_MAX_CHARACTERS = 60  # of one value


def why_computed(stage: Stage, store: ArtifactStore) -> str | None:
    """The differences from the newest artifact of the same name, in one line.

    None if there is no such artifact, or if only inputs differ: each recomputed input is reported by itself.
    """
    earlier = _newest_manifest(stage, store)
    differences = [] if earlier is None else list(_differences(earlier, stage))
    if not differences:
        return None
    rest = len(differences) - _MAX_DIFFERENCES
    return "; ".join(differences[:_MAX_DIFFERENCES]) + (f"; and {rest} more" if rest > 0 else "")


def _newest_manifest(stage: Stage, store: ArtifactStore) -> Manifest | None:
    manifests = []
    for folder in store.folder.glob(f"{stage.file_name}-*"):
        try:
            manifests.append(read_manifest(folder))
        except Damaged:
            continue
    same_name = [manifest for manifest in manifests if manifest.name == stage.name]
    return max(same_name, key=lambda manifest: manifest.started, default=None)


def _differences(earlier: Manifest, stage: Stage) -> Iterator[str]:
    if earlier.kind and earlier.kind != stage.kind:
        yield f"its kind was {earlier.kind}"
    if earlier.version != stage.version:
        yield f"its version was {earlier.version}, now {stage.version}"
    before, now = _flat(earlier.settings), _flat(json.loads(stage.settings_json))
    for field in sorted(before.keys() | now.keys()):
        if field not in before:
            yield f"{field} is new"
        elif field not in now:
            yield f"{field} was removed"
        elif before[field] != now[field]:
            yield f"{field} was {_short(before[field])}, now {_short(now[field])}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted fields; a list is one value."""
    fields: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            fields |= _flat(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"
