"""What the parts share: the model, the study, the clock, and adapters that are put on and taken off."""

from __future__ import annotations

import gc
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from measured import memory
from reckoning import Size
from results import Measured, Unit
from rows import load_shape
from texts import Texts, conversations_of

from flatprobe.errors import UserError
from flatprobe.models.load import Loaded
from flatprobe.study.load import load_study
from flatprobe.study.loaded import LoadedStudy

OUT_OF_MEMORY = (torch.OutOfMemoryError, UserError)  # the latter where sampling does not hold one row


@dataclass(frozen=True)
class Bench:
    """One model on one device, and the study whose stages are timed."""

    options: Namespace
    loaded: Loaded
    study: LoadedStudy
    texts: Texts
    size: Size

    @classmethod
    def of(cls, options: Namespace) -> Bench:
        """Build the model on the device."""
        device = torch.device(options.device)
        shape = load_shape(options.shape, device, torch.bfloat16)
        loaded = replace(shape, conversations=conversations_of(Path(options.tokenizer)))
        assert len(loaded.conversations.tokenizer) <= loaded.model.config.vocab_size, (
            "its ids must fit the shape"
        )
        study = load_study(Path(options.study))
        return cls(options, loaded, study, Texts(loaded.conversations), Size.of(loaded.model))

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.loaded.device.type == "cuda":
            torch.cuda.synchronize()

    def measured(self, part: str, rows: int, run: Callable[[], Iterator[Unit]]) -> Measured:
        """A part's units with its peak of memory; what does not fit into memory is noted and costs nothing else."""
        failed = None
        gc.collect()
        if self.loaded.device.type == "cuda":
            torch.cuda.empty_cache()
        memory(self.loaded.device)
        units: list[Unit] = []
        try:
            units.extend(run())
        except OUT_OF_MEMORY as error:
            failed = str(error).splitlines()[0]
        peak = memory(self.loaded.device, peak=True)
        return Measured(part, rows, tuple(units), peak, failed)

    def repeated(self, run: Callable[[], Unit]) -> Iterator[Unit]:
        """Runs up to the wished number, no new one begun once their time is up."""
        begun = time.perf_counter()
        for _ in range(self.options.repeats):
            yield run()
            if time.perf_counter() - begun > self.options.seconds:
                return

    def timed(self, run: Callable[[], Any]) -> float:
        """Seconds of one call."""
        self.wait()
        start = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - start


@contextmanager
def adapted(wrapped: Any) -> Iterator[Any]:
    """The wrapped model; the adapter is taken off in the end, whatever happened."""
    try:
        yield wrapped
    finally:
        for parameter in wrapped.parameters():
            parameter.grad = None
        wrapped.unload()


def trained_weights(wrapped: Any) -> int:
    """Numbers in the adapter."""
    return sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
