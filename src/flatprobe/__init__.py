"""flatprobe: did this finetune make the model's personas more alike?

The names below are the Python API. Each is imported when it is first used, so `import flatprobe` does no work and
imports neither torch nor polars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flatprobe.analysis.results import Results as Results
    from flatprobe.analysis.results import read_results as read_results
    from flatprobe.api import geometry_contrasts as geometry_contrasts
    from flatprobe.api import leakage_contrast as leakage_contrast
    from flatprobe.api import load_study as load_study
    from flatprobe.api import plan as plan
    from flatprobe.api import run as run
    from flatprobe.api import sample as sample
    from flatprobe.api import simulate as simulate
    from flatprobe.compare import compare_checkpoints as compare_checkpoints
    from flatprobe.counts.cell_files import read_cells as read_cells
    from flatprobe.decision.rule import decide as decide
    from flatprobe.errors import UserError as UserError
    from flatprobe.statistics.estimate import Estimate as Estimate
    from flatprobe.statistics.geometry.states import States as States

__version__: str

_MODULES = {
    "Estimate": "flatprobe.statistics.estimate",
    "Results": "flatprobe.analysis.results",
    "States": "flatprobe.statistics.geometry.states",
    "UserError": "flatprobe.errors",
    "compare_checkpoints": "flatprobe.compare",
    "decide": "flatprobe.decision.rule",
    "geometry_contrasts": "flatprobe.api",
    "leakage_contrast": "flatprobe.api",
    "load_study": "flatprobe.api",
    "plan": "flatprobe.api",
    "read_cells": "flatprobe.counts.cell_files",
    "read_results": "flatprobe.analysis.results",
    "run": "flatprobe.api",
    "sample": "flatprobe.api",
    "simulate": "flatprobe.api",
}
"""Public name to the module that defines it."""

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("flatprobe")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*_MODULES, "__version__"]
