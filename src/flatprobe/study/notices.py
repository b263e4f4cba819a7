"""What is allowed, and should be known before and after the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flatprobe.config.yaml_file import FieldPath
from flatprobe.study import resources
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.recipe_schema import Coupling

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
SLOW_RATE, SLOW_EPOCHS = 1e-5, 5.0  # of a coupling with about 200 positives


def notices(loaded: LoadedStudy) -> Iterator[str]:
    """Sentences with `file:line`, about a study without problems."""
    if loaded.study.smoke:
        yield f"{loaded.place('smoke')}  a smoke run: too small for any claim, and its verdict says so"
    yield from _pools(loaded)
    yield from _unpinned(loaded)
    if (coupling := loaded.study.coupling) is not None:
        yield from _slow_coupling(loaded, coupling)
        yield from _reads_the_prompt(loaded, coupling)
        yield from _treated(loaded)


def _pools(loaded: LoadedStudy) -> Iterator[str]:
    trained = {persona.name for persona in loaded.personas() if persona.role in ("source", "negative")}
    for pool, names in loaded.study.panel.pools.items():
        if seen := [name for name in names if name in trained]:
            where = loaded.place("panel", "pools", pool)
            yield (
                f"{where}  pool {pool} is contaminated: {', '.join(seen)} {_are(seen)} trained on; "
                "it is reported under that label and decides nothing"
            )


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _unpinned(loaded: LoadedStudy) -> Iterator[str]:
    """Hub content that may change before the study first runs, or is registered."""
    study = loaded.study
    named: list[tuple[FieldPath, str, str, str | None]] = [
        (("model",), "model", study.model.id, study.model.revision)
    ]
    for name, condition in study.conditions.items():
        given = condition.adapter or condition.checkpoint
        if given is not None:
            named.append((("conditions", name), f"conditions.{name}", given, condition.revision))
    unpinned: list[tuple[FieldPath, str]] = [
        (where, f"{field}.revision") for where, field, id, pin in named if pin is None and _hub(loaded, id)
    ]
    for name, condition in study.conditions.items():
        data = condition.finetune
        if data is not None and data.dataset is not None and data.revision is None:
            unpinned.append((("conditions", name, "finetune"), f"the revision of {data.dataset}"))
    for where, what in unpinned:
        yield (
            f"{loaded.place(*where)}  {what} is not pinned: the newest commit is taken when the study first runs, "
            "and kept in its run folder"
        )


def _hub(loaded: LoadedStudy, id: str) -> bool:
    """Whether an id, of a study without problems, is that of a hub repository."""
    return not (id.startswith(resources.PREFIX) or (loaded.base / Path(id).expanduser()).is_dir())


def _slow_coupling(loaded: LoadedStudy, coupling: Coupling) -> Iterator[str]:
    """A coupling that may not learn its marker, which is found out only after most of the work."""
    if coupling.stopping == "source_probability":
        return
    if coupling.learning_rate <= SLOW_RATE and coupling.epochs <= SLOW_EPOCHS:
        yield (
            f"{loaded.place('coupling', 'learning_rate')}  coupling.learning_rate = {coupling.learning_rate:g} for "
            f"{coupling.epochs:g} epochs: at 5e-6, five epochs reached only 28–41 % on the source in an earlier sweep; "
            f"the gate asks for {100 * loaded.study.decision.gates.source_rate:g} %"
        )


def _reads_the_prompt(loaded: LoadedStudy, coupling: Coupling) -> Iterator[str]:
    """A coupling that can tell personas apart by their prompts, however alike the checkpoint has made them."""
    adapted = [name for name in coupling.lora.modules if name in ATTENTION]
    if adapted:
        yield (
            f"{loaded.place('coupling')}  coupling.lora adapts attention ({', '.join(adapted)}): such a coupling can "
            "read the system prompt anew, and on a small model leaked no more where personas are known to be alike "
            "(docs/results/instrument_check.md), so that a behavioural “not” is weak evidence"
        )


def _treated(loaded: LoadedStudy) -> Iterator[str]:
    """A treated condition whose treatment is nil, or cannot be shown to have worked."""
    study, decision = loaded.study, loaded.study.decision
    treated = study.conditions[decision.treated]
    where = loaded.place("conditions", decision.treated)
    if treated == study.conditions[decision.control]:
        yield f"{where}  {decision.treated} and {decision.control} are the same checkpoint: a null study"
    elif treated.finetune is None or not treated.finetune.holds_pairs_out:
        yield (
            f"{where}  no pairs of answers are held out from {decision.treated}'s finetune: "
            "there is no in-domain manipulation check"
        )
