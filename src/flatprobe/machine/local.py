"""How this machine runs stages: handed to workers beside the settings, because it must not enter any key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from flatprobe.machine.schema import EngineName, Machine, OpenaiMachine, VllmMachine

VARIABLE = "FLATPROBE_MACHINE"


class Local(BaseModel):
    """What stage functions may know of the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["auto", "cpu", "cuda", "mps"]
    sampling_rows: int
    """Rows decoded together."""
    forward_rows: int
    """Rows in one forward pass without gradients."""
    training_rows: int
    """Examples in one forward pass with gradients."""
    checkpoint_steps: int | None = None
    """Steps between two states of an unfinished training; None keeps none."""
    report_to: tuple[str, ...] = ()
    """Experiment trackers that are told of trainings."""
    engine: EngineName = "transformers"
    """What samples; `vllm` and `openai` have their options below."""
    vllm: VllmMachine = VllmMachine()
    openai: OpenaiMachine | None = None
    locations: Mapping[str, str]
    """Fingerprint of a local model, adapter or data file to where it lies here."""

    @classmethod
    def of(cls, machine: Machine, locations: Mapping[str, str]) -> Self:
        """What a machine file says to stages, and where the study's local files lie."""
        told = {name: getattr(machine, name) for name in cls.model_fields if name != "locations"}
        return cls(**told, locations=locations)


def to_environment(local: Local) -> dict[str, str]:
    return {VARIABLE: local.model_dump_json()}


def current() -> Local:
    """The machine of this process; outside a worker (a test, a notebook) the CPU with small batches."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return Local(device="cpu", sampling_rows=16, forward_rows=8, training_rows=16, locations={})
    return Local.model_validate_json(text)
