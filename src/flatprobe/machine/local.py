"""How this machine runs stages. Workers get it beside the settings, so that it enters no key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from flatprobe.machine.schema import EngineName, Machine, OpenaiMachine, VllmMachine

VARIABLE = "FLATPROBE_MACHINE"


class Local(BaseModel):
    """The part of the machine file that stage functions may read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["auto", "cpu", "cuda", "mps"]
    sampling_rows: int
    """Rows decoded together."""
    forward_rows: int
    """Rows in one forward pass without gradients."""
    training_rows: int
    """Examples in one forward pass with gradients."""
    checkpoint_steps: int | None = None
    """Training steps between two saved states; None saves none."""
    report_to: tuple[str, ...] = ()
    """Experiment trackers that log every training."""
    engine: EngineName = "transformers"
    """The sampling engine. `vllm` and `openai` have their settings below."""
    vllm: VllmMachine = VllmMachine()
    openai: OpenaiMachine | None = None
    locations: Mapping[str, str]
    """Fingerprint of a local model, adapter or data file to its path on this machine."""

    @classmethod
    def of(cls, machine: Machine, locations: Mapping[str, str]) -> Self:
        """The machine file's fields for stages, and the paths of the study's local files."""
        fields = {name: getattr(machine, name) for name in cls.model_fields if name != "locations"}
        return cls(**fields, locations=locations)


def to_environment(local: Local) -> dict[str, str]:
    return {VARIABLE: local.model_dump_json()}


def current_machine() -> Local:
    """The machine of this process. Outside a worker (in a test or notebook): the CPU with small batches."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return Local(device="cpu", sampling_rows=16, forward_rows=8, training_rows=16, locations={})
    return Local.model_validate_json(text)
