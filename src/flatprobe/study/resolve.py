"""A loaded study with everything outside it identified: models, adapters, data files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flatprobe.errors import Problem, UserError
from flatprobe.models.reference import Located, Reference, resolve
from flatprobe.study import resources
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.panel import Persona
from flatprobe.study.questions import SET_NAMES, Question, SetName, take
from flatprobe.study.schema import Study


@dataclass(frozen=True)
class Resolved:
    """What a plan is made of."""

    study: Study
    personas: tuple[Persona, ...]
    """The evaluated panel, source first."""
    questions: Mapping[SetName, tuple[Question, ...]]
    """The questions taken, with their suffix."""
    model: Reference
    given: Mapping[str, Reference]
    """Condition to its given adapter or checkpoint."""
    fingerprints: Mapping[str, str]
    """Local data file, as the study names it, to the sha256 of its content."""
    locations: Mapping[str, str]
    """Fingerprint to where a local thing lies on this machine."""

    def local_path(self) -> Path:
        """The model's folder on this machine, fetching or converting it where needed."""
        location = self.locations.get(self.model.fingerprint)
        return Path(location) if location is not None else self.model.path()

    def role(self, *roles: str) -> tuple[Persona, ...]:
        return tuple(persona for persona in self.personas if persona.role in roles)


def resolve_study(loaded: LoadedStudy) -> Resolved:
    """Identify models, adapters and data files.

    Raises:
        UserError: what cannot be found or asked for, all at once.
    """
    study, problems = loaded.study, list[Problem]()
    located: dict[str, Located] = {}

    def identify(name: str, id: str, revision: str | None, place: str) -> None:
        folder = loaded.base / Path(id).expanduser()
        try:
            located[name] = resolve(str(folder) if folder.is_dir() else id, revision, place)
        except UserError as error:
            problems.extend(error.problems)

    identify("", study.model.id, study.model.revision, loaded.place("model", "id"))
    for name, condition in study.conditions.items():
        if condition.adapter is not None:
            identify(name, condition.adapter, None, loaded.place("conditions", name, "adapter"))
        elif condition.checkpoint is not None:
            identify(name, condition.checkpoint, None, loaded.place("conditions", name, "checkpoint"))
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
        locations=locations,
    )
