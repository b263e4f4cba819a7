"""Checks that the packages a study needs beyond the core are installed, without importing them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from flatprobe.errors import Problem
from flatprobe.study.loaded import LoadedStudy

EXTRAS = {"models": ("torch", "transformers", "peft", "accelerate"), "hub": ("datasets",)}
"""Extra of the distribution to the modules that it installs."""


def extra_problems(loaded: LoadedStudy) -> Iterator[Problem]:
    """One problem per missing extra, with the command that installs it."""
    finetunes = [condition.finetune for condition in loaded.study.conditions.values()]
    needed = ["models"]
    if any(data is not None and data.dataset is not None for data in finetunes):
        needed.append("hub")
    for extra in needed:
        if missing := [name for name in EXTRAS[extra] if find_spec(name) is None]:
            yield Problem(
                "packages.missing",
                str(loaded.path),
                f"the run needs {', '.join(missing)}, not installed here",
                f"pip install 'flatprobe[{extra}]'",
            )
