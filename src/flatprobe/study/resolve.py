"""Identifies everything outside a study by its content: models, adapters, datasets and data files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flatprobe.errors import Problem, UserError
from flatprobe.models.pinned import Pins
from flatprobe.models.reference import Located, Reference, dataset_commit, describing_folder, resolve
from flatprobe.study import resources
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.panel import Persona
from flatprobe.study.questions import SET_NAMES, Question, SetName, take
from flatprobe.study.schema import Study


@dataclass(frozen=True)
class Resolved:
    """A study with all that its plan needs."""

    study: Study
    personas: tuple[Persona, ...]
    """The evaluated panel, source first."""
    questions: Mapping[SetName, tuple[Question, ...]]
    """The questions that the study uses, with their suffix."""
    model: Reference
    given: Mapping[str, Reference]
    """Condition to its given adapter or checkpoint."""
    fingerprints: Mapping[str, str]
    """Local or embedded data file, as the study names it, to the sha256 of its content."""
    dataset_revisions: Mapping[str, str]
    """Condition to the commit of its hub dataset. Conditions without a hub dataset are absent."""
    locations: Mapping[str, str]
    """Fingerprint of a local model, adapter or data file to its path on this machine."""

    def description(self, reference: Reference, *, weights: bool = False) -> Path:
        """A folder with the configuration and tokenizer of a model; with `weights`, a complete adapter.

        Downloads from the hub what is not in the cache, and converts the embedded model on first use.
        """
        location = self.locations.get(reference.fingerprint)
        if weights and location is None:
            return reference.path()
        return describing_folder(reference, location)

    def role(self, *roles: str) -> tuple[Persona, ...]:
        return tuple(persona for persona in self.personas if persona.role in roles)


def resolve_study(loaded: LoadedStudy, pins: Pins | None = None) -> Resolved:
    """Identify models, adapters, hub datasets and data files.

    Commits that `pins` holds are not looked up again; new ones are added to it.

    Raises:
        UserError: everything that is missing or cannot be looked up.
    """
    study, problems = loaded.study, list[Problem]()
    pins = pins if pins is not None else Pins()
    located: dict[str, Located] = {}

    def identify(name: str, id: str, revision: str | None, place: str) -> None:
        folder = loaded.base / Path(id).expanduser()
        try:
            located[name] = resolve(str(folder) if folder.is_dir() else id, revision, place, pins)
        except UserError as error:
            problems.extend(error.problems)

    identify("", study.model.id, study.model.revision, loaded.place("model", "id"))
    for name, condition in study.conditions.items():
        if condition.adapter is not None:
            place = loaded.place("conditions", name, "adapter")
            identify(name, condition.adapter, condition.revision, place)
        elif condition.checkpoint is not None:
            place = loaded.place("conditions", name, "checkpoint")
            identify(name, condition.checkpoint, condition.revision, place)
    revisions = _dataset_revisions(loaded, pins, problems)
    if problems:
        raise UserError(problems)
    files = {c.finetune.path for c in study.conditions.values() if c.finetune and c.finetune.path}
    files |= {study.manipulation} if study.manipulation else set()
    paths = {name: resources.data_file(name, loaded.base) for name in sorted(files)}
    fingerprints = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}
    locations = {fingerprints[name]: str(path.resolve()) for name, path in paths.items()}
    locations |= {x.reference.fingerprint: x.location for x in located.values() if x.location is not None}
    return Resolved(
        study=study,
        personas=loaded.personas(),
        questions={name: take(loaded.questions[name], getattr(study.questions, name)) for name in SET_NAMES},
        model=located[""].reference,
        given={name: x.reference for name, x in located.items() if name},
        fingerprints=fingerprints,
        dataset_revisions=revisions,
        locations=locations,
    )


def _dataset_revisions(loaded: LoadedStudy, pins: Pins, problems: list[Problem]) -> dict[str, str]:
    """The commit of every hub dataset. Failed look-ups are added to `problems`."""
    revisions = {}
    for name, condition in loaded.study.conditions.items():
        data = condition.finetune
        if data is None or data.dataset is None:
            continue
        place = loaded.place("conditions", name, "finetune", "dataset")
        try:
            revisions[name] = dataset_commit(data.dataset, data.revision, place, pins)
        except UserError as error:
            problems.extend(error.problems)
    return revisions
