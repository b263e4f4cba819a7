"""Notices: things that are allowed but matter for the run or its result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flatprobe.config.yaml_file import FieldPath
from flatprobe.study import resources
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.recipe_schema import Coupling

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
SLOW_RATE, SLOW_EPOCHS = 1e-5, 5.0  # too little training for about 200 positives


def notices(loaded: LoadedStudy) -> Iterator[str]:
    """Sentences with `file:line` about a study without problems."""
    if loaded.study.smoke:
        yield f"{loaded.place('smoke')}  a smoke run: too small for any claim; its verdict says so"
    yield from _pools(loaded)
    yield from _unpinned(loaded)
    if (coupling := loaded.study.coupling) is not None:
        yield from _slow_coupling(loaded, coupling)
        yield from _reads_the_prompt(loaded, coupling)
        yield from _treated(loaded)


def _pools(loaded: LoadedStudy) -> Iterator[str]:
    trained = {persona.name for persona in loaded.personas() if persona.role in ("source", "negative")}
    for pool, names in loaded.study.panel.pools.items():
        if shared := [name for name in names if name in trained]:
            verb = "is" if len(shared) == 1 else "are"
            yield (
                f"{loaded.place('panel', 'pools', pool)}  pool {pool} is contaminated: {', '.join(shared)} {verb} "
                "trained on; the report labels the pool so, and it decides nothing"
            )


def _unpinned(loaded: LoadedStudy) -> Iterator[str]:
    """Hub content that may change before the study is first run or registered."""
    study = loaded.study
    models: list[tuple[FieldPath, str, str, str | None]] = [(("model",), "model", study.model.id, study.model.revision)]
    for name, condition in study.conditions.items():
        given = condition.adapter or condition.checkpoint
        if given is not None:
            models.append((("conditions", name), f"conditions.{name}", given, condition.revision))
    unpinned: list[tuple[FieldPath, str]] = [
        (where, f"{field}.revision") for where, field, id, revision in models if revision is None and _hub(loaded, id)
    ]
    for name, condition in study.conditions.items():
        data = condition.finetune
        if data is not None and data.dataset is not None and data.revision is None:
            unpinned.append((("conditions", name, "finetune"), f"the revision of {data.dataset}"))
    for where, what in unpinned:
        yield (
            f"{loaded.place(*where)}  {what} is not pinned: the first run takes the newest commit and records "
            "it in the run folder"
        )


def _hub(loaded: LoadedStudy, id: str) -> bool:
    """Whether an id of a study without problems names a hub repository."""
    return not (id.startswith(resources.PREFIX) or (loaded.base / Path(id).expanduser()).is_dir())


def _slow_coupling(loaded: LoadedStudy, coupling: Coupling) -> Iterator[str]:
    """A coupling that may not learn its marker. The run would show it only after most of its work."""
    if coupling.stopping == "source_probability":
        return
    if coupling.learning_rate <= SLOW_RATE and coupling.epochs <= SLOW_EPOCHS:
        yield (
            f"{loaded.place('coupling', 'learning_rate')}  coupling.learning_rate = {coupling.learning_rate:g} for "
            f"{coupling.epochs:g} epochs may be too little: in an earlier sweep, five epochs at 5e-6 gave a source "
            f"rate of only 28–41 %; the gate needs {100 * loaded.study.decision.gates.source_rate:g} %"
        )


def _reads_the_prompt(loaded: LoadedStudy, coupling: Coupling) -> Iterator[str]:
    """A coupling that can separate personas by their prompts, even if the checkpoint made them alike."""
    adapted = [name for name in coupling.lora.modules if name in ATTENTION]
    if adapted:
        yield (
            f"{loaded.place('coupling')}  coupling.lora adapts attention ({', '.join(adapted)}): such a coupling can "
            "learn to read the system prompt. On a small model it leaked no more even between personas known to be "
            "alike (docs/results/instrument_check.md). So “behaviour does not pass” is weak evidence"
        )


def _treated(loaded: LoadedStudy) -> Iterator[str]:
    """A treated condition that equals the control, or whose finetune cannot be checked for an effect."""
    study, decision = loaded.study, loaded.study.decision
    treated = study.conditions[decision.treated]
    where = loaded.place("conditions", decision.treated)
    if treated == study.conditions[decision.control]:
        yield f"{where}  {decision.treated} and {decision.control} are the same checkpoint: a null study"
    elif treated.finetune is None or not treated.finetune.holds_pairs_out:
        yield (
            f"{where}  the finetune of {decision.treated} holds out no pairs of answers: "
            "there is no in-domain manipulation check"
        )
