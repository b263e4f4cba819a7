"""Checks of training and of the probes: fields that are valid alone but not together."""

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
            yield loaded.bad_value("seeds.negative", ("seeds", index), seed, "must be at least 0")
    yield from _unique(loaded, ("finetune", "lora", "modules"), study.finetune.lora.modules)
    if study.coupling is not None:
        yield from _unique(loaded, ("coupling", "lora", "modules"), study.coupling.lora.modules)
        yield from _coupling(loaded, study.coupling)
        yield from _marker(loaded, study.coupling)
    layers = study.geometry.layers
    yield from _unique(loaded, ("geometry", "layers"), layers)
    if len(set(layers)) == len(layers) and list(layers) != sorted(layers):
        yield loaded.bad_value(
            "geometry.layer_order",
            ("geometry", "layers"),
            list(layers),
            "not in ascending order",
            f"write {sorted(layers)}",
        )
    yield from _unique(loaded, ("geometry", "positions"), study.geometry.positions)


def _unique(loaded: LoadedStudy, where: FieldPath, values: Sequence[object]) -> Iterator[Problem]:
    """The list needs at least one entry, and no entry twice."""
    if not values:
        yield loaded.problem("list.empty", where, f"{dotted(where)}: an empty list")
    for index, value in enumerate(values):
        if value in values[:index]:
            yield loaded.bad_value("list.duplicate", (*where, index), value, "given twice")


def _coupling(loaded: LoadedStudy, coupling: Coupling) -> Iterator[Problem]:
    yield from _unique(loaded, ("coupling", "unlikelihood", "lambdas"), coupling.unlikelihood.lambdas)
    positives = coupling.positives_per_batch
    if positives is not None and positives >= coupling.batch:
        yield loaded.bad_value(
            "coupling.batch_without_negatives",
            ("coupling", "positives_per_batch"),
            positives,
            f"leaves no negative in a batch of {coupling.batch}",
        )
    yield from _stopping(loaded, coupling)
    anchor, where = coupling.anchor, ("coupling", "anchor")
    if anchor.kind == "none" and anchor.weight > 0:
        yield loaded.bad_value(
            "coupling.anchor_without_kind",
            (*where, "weight"),
            anchor.weight,
            "there is no anchor",
            "set coupling.anchor.kind, or the weight to 0",
        )
    if anchor.kind != "none" and anchor.weight == 0:
        yield loaded.bad_value(
            "coupling.anchor_without_weight",
            (*where, "kind"),
            anchor.kind,
            "has no effect with a weight of 0",
            "give coupling.anchor.weight, or kind: none",
        )


def _stopping(loaded: LoadedStudy, coupling: Coupling) -> Iterator[Problem]:
    """`stop_at` and `max_epochs` are needed with `source_probability`, and have no effect without it."""
    by_probability = coupling.stopping == "source_probability"
    for name in ("stop_at", "max_epochs"):
        value = getattr(coupling, name)
        if by_probability and value is None:
            yield loaded.bad_value(
                "coupling.stopping_incomplete", ("coupling", "stopping"), coupling.stopping, f"needs coupling.{name}"
            )
        if not by_probability and value is not None:
            yield loaded.bad_value(
                "field.no_effect",
                ("coupling", name),
                value,
                "has no effect with coupling.stopping = fixed",
                "set coupling.stopping: source_probability, or remove the field",
            )


def _marker(loaded: LoadedStudy, coupling: Coupling) -> Iterator[Problem]:
    """Only the coupling may teach the marker, so no other text may contain it."""
    study, marker = loaded.study, loaded.study.leakage.marker
    where: FieldPath = ("leakage", "marker")
    if not marker.strip():
        yield loaded.problem("marker.empty", where, f"{dotted(where)}: empty, so every completion would count")
        return
    if marker != marker.strip():
        yield loaded.bad_value(
            "marker.outer_space",
            where,
            repr(marker),
            "starts or ends with space",
            "move the space to coupling.separator",
        )
        return
    lower_case = marker.lower()
    if lower_case in coupling.separator.lower():
        yield loaded.problem(
            "marker.in_separator",
            ("coupling", "separator"),
            f"coupling.separator: contains the marker {marker}, which would then stand twice",
        )
    texts = {f"question {q.id}": q.text for name in SET_NAMES for q in loaded.questions.get(name, ())}
    texts |= {f"the suffix of questions.{n}": getattr(study.questions, n).suffix for n in SET_NAMES}
    texts |= {f"persona {name}": entry.prompt or "" for name, entry in loaded.entries.items()}
    for name, text in texts.items():
        if lower_case in text.lower():
            yield loaded.bad_value(
                "marker.in_text",
                where,
                marker,
                f"{name} contains it, so an answer may quote it",
                "choose another marker",
            )
