"""What is allowed, and should be known before and after the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flatprobe.study import resources
from flatprobe.study.loaded import LoadedStudy


def notices(loaded: LoadedStudy) -> Iterator[str]:
    """Sentences with `file:line`, about a study without problems."""
    if loaded.study.smoke:
        yield f"{loaded.place('smoke')}  a smoke run: too small for any claim, and its verdict says so"
    yield from _pools(loaded)
    yield from _unpinned(loaded)
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
    """Hub content that may change under the study."""
    model = loaded.study.model
    local = model.id.startswith(resources.PREFIX) or (loaded.base / Path(model.id).expanduser()).is_dir()
    if not local and model.revision is None:
        yield f"{loaded.place('model')}  model.revision is not pinned: the newest commit is taken when it runs"
    for name, condition in loaded.study.conditions.items():
        data = condition.finetune
        if data is not None and data.dataset is not None and data.revision is None:
            where = loaded.place("conditions", name, "finetune")
            yield f"{where}  the revision of {data.dataset} is not pinned: the digest does not cover its content"


def _treated(loaded: LoadedStudy) -> Iterator[str]:
    """A treated condition whose treatment is nil, or cannot be shown to have worked."""
    study, decision = loaded.study, loaded.study.decision
    treated = study.conditions[decision.treated]
    where = loaded.place("conditions", decision.treated)
    if treated == study.conditions[decision.control]:
        yield f"{where}  {decision.treated} and {decision.control} are the same checkpoint: a null study"
    elif treated.finetune is None or treated.finetune.held_out == 0:
        yield (
            f"{where}  no rows of {decision.treated}'s finetune are held out: "
            "there is no in-domain manipulation check"
        )
