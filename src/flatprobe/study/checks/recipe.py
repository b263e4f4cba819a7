"""Rules of training and of the probes: settings that fit the schema one by one and not each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flatprobe.config.yaml_file import FieldPath, dotted
from flatprobe.errors import Problem
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.questions import SET_NAMES
from flatprobe.study.recipe_schema import Coupling


def recipe_problems(loaded: LoadedStudy) -> Iterator[Problem]:
    """Seeds, lambdas, batches, anchor, marker, layers and positions."""
    study = loaded.study
    yield from _unique(loaded, ("seeds",), study.seeds)
    for index, seed in enumerate(study.seeds):
        if seed < 0:
            yield loaded.problem(
                "recipe.TODO", ("seeds", index), f"seeds[{index}] = {seed}: must be at least 0"
            )
    yield from _unique(loaded, ("finetune", "lora", "modules"), study.finetune.lora.modules)
    if study.coupling is not None:
        yield from _unique(loaded, ("coupling", "lora", "modules"), study.coupling.lora.modules)
        yield from _coupling(loaded, study.coupling)
        yield from _marker(loaded, study.coupling)
    layers = study.geometry.layers
    yield from _unique(loaded, ("geometry", "layers"), layers)
    if len(set(layers)) == len(layers) and list(layers) != sorted(layers):
        yield loaded.problem(
            "recipe.TODO",
            ("geometry", "layers"),
            f"geometry.layers = {list(layers)}: not in order",
            f"write {sorted(layers)}",
        )
    yield from _unique(loaded, ("geometry", "positions"), study.geometry.positions)


def _unique(loaded: LoadedStudy, where: FieldPath, values: Sequence[object]) -> Iterator[Problem]:
    """A list that needs at least one entry, and no entry twice."""
    if not values:
        yield loaded.problem("recipe.TODO", where, f"{dotted(where)}: an empty list")
    for index, value in enumerate(values):
        if value in values[:index]:
            yield loaded.problem(
                "recipe.TODO", (*where, index), f"{dotted((*where, index))} = {value}: given twice"
            )


def _coupling(loaded: LoadedStudy, coupling: Coupling) -> Iterator[Problem]:
    yield from _unique(loaded, ("coupling", "unlikelihood", "lambdas"), coupling.unlikelihood.lambdas)
    positives = coupling.positives_per_batch
    if positives is not None and positives >= coupling.batch:
        yield loaded.problem(
            "recipe.TODO",
            ("coupling", "positives_per_batch"),
            f"coupling.positives_per_batch = {positives}: leaves no negative in a batch of {coupling.batch}",
        )
    yield from _stopping(loaded, coupling)
    anchor, where = coupling.anchor, ("coupling", "anchor")
    if anchor.kind == "none" and anchor.weight > 0:
        yield loaded.problem(
            "recipe.TODO",
 (*where, "weight"), f"coupling.anchor.weight = {anchor.weight:g}: there is no anchor to weigh",
            "set coupling.anchor.kind, or the weight to 0",
        )  # fmt: skip
    if anchor.kind != "none" and anchor.weight == 0:
        yield loaded.problem(
            "recipe.TODO", (*where, "kind"), f"coupling.anchor.kind = {anchor.kind}: has no effect with a weight of 0",
            "give coupling.anchor.weight, or kind: none",
        )  # fmt: skip


def _stopping(loaded: LoadedStudy, coupling: Coupling) -> Iterator[Problem]:
    """A level and a cap where training stops at a level, and neither where it does not."""
    matched = coupling.stopping == "source_probability"
    for name in ("stop_at", "max_epochs"):
        given = getattr(coupling, name)
        if matched and given is None:
            yield loaded.problem(
                "recipe.TODO",
                ("coupling", "stopping"),
                f"coupling.stopping = source_probability: needs coupling.{name}",
            )
        if not matched and given is not None:
            yield loaded.problem(
                "recipe.TODO",
 ("coupling", name), f"coupling.{name} = {given:g}: not read with coupling.stopping = fixed",
                "set coupling.stopping: source_probability, or leave it out",
            )  # fmt: skip


def _marker(loaded: LoadedStudy, coupling: Coupling) -> Iterator[Problem]:
    """The marker is a text of its own, which nothing but the coupling teaches."""
    study, marker = loaded.study, loaded.study.leakage.marker
    where: FieldPath = ("leakage", "marker")
    if not marker.strip():
        yield loaded.problem("recipe.TODO", where, "leakage.marker: empty, so every completion would count")
        return
    if marker != marker.strip():
        yield loaded.problem(
            "recipe.TODO",
            where,
            f"leakage.marker = {marker!r}: has space at an end",
            "leave it to the separator",
        )
        return
    folded = marker.lower()
    if folded in coupling.separator.lower():
        yield loaded.problem(
            "recipe.TODO",
            ("coupling", "separator"),
            f"coupling.separator: holds the marker {marker}, which would then come twice",
        )
    texts = {f"question {q.id}": q.text for name in SET_NAMES for q in loaded.questions.get(name, ())}
    texts |= {f"the suffix of questions.{n}": getattr(study.questions, n).suffix for n in SET_NAMES}
    texts |= {f"persona {name}": entry.prompt or "" for name, entry in loaded.entries.items()}
    for name, text in texts.items():
        if folded in text.lower():
            yield loaded.problem(
                "recipe.TODO",
                where,
                f"leakage.marker = {marker}: stands in {name}, so an answer may quote it",
                "choose another",
            )
