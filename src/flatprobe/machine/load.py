"""Reads a machine file. Every problem is reported at once, each with file and line."""

from __future__ import annotations

from pathlib import Path

from flatprobe.config.validation import validate
from flatprobe.config.yaml_file import read_document
from flatprobe.machine.schema import Machine


def load_machine(path: Path | None) -> Machine:
    """Read a machine file; None gives the defaults.

    Raises:
        UserError: everything that is wrong with the file.
    """
    return Machine() if path is None else validate(read_document(path), Machine)
