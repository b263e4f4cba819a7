"""Recorded steps: with a stand-in for graphs on a CPU, and with real ones under `-m gpu`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flatprobe.generation.engine import Completion, SamplingSettings, sample
from flatprobe.generation.transformers_engine import token_steps
from flatprobe.generation.transformers_engine.engine import TransformersEngine
from flatprobe.generation.transformers_engine.slots import Slots
from flatprobe.generation.transformers_engine.token_steps import rounded_columns, rounded_rows
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded, load_checkpoint

WARM = SamplingSettings(max_new_tokens=100, temperature=1.0, top_p=1.0, seed="warm")
Compute = Callable[[], torch.Tensor]


def engine(loaded: Loaded, rows: int) -> TransformersEngine:
    made = TransformersEngine(loaded, rows)
    made.ends = frozenset(range(0, len(loaded.conversations.tokenizer), 40))  # answers of all lengths end
    return made


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Results of recorded steps; a replay computes anew."""
    results: list[torch.Tensor] = []

    def record(compute: Compute, pool: Any) -> tuple[Compute, Any]:
        results.append(compute())
        return compute, None

    monkeypatch.setattr(token_steps, "can_record", lambda device: True)
    monkeypatch.setattr(token_steps, "record", record)
    return results


def test_completions_are_the_same_with_rows_and_columns_rounded_up(
    loaded: Loaded, prompts: list[Prompt], recorded: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows end, are reused and moved; columns grow."""
    ours = sample(engine(loaded, 12), prompts, WARM, 4)
    widths = {len(tokens) for tokens in recorded}
    assert {12, 6} <= widths <= {12, 6, 3, 1}
    assert len(recorded) > len(widths)  # more than one number of columns
    monkeypatch.setattr(token_steps, "can_record", lambda device: False)
    assert sample(engine(loaded, 12), prompts, WARM, 4) == ours
    lengths = {len(completion.tokens) for samples in ours for completion in samples}
    assert len(lengths) > 10


def test_a_step_that_cannot_be_recorded_runs_kernel_by_kernel_and_is_logged_once(
    load: Callable[[str], Loaded],
    prompts: list[Prompt],
    recorded: list[torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = sample(engine(load("llama"), 12), prompts, WARM, 4)

    def fail(compute: Compute, pool: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nlong story")

    monkeypatch.setattr(token_steps, "record", fail)
    capsys.readouterr()
    assert sample(engine(load("llama"), 12), prompts, WARM, 4) == expected
    log = capsys.readouterr().err
    assert log.count("could not be recorded as a CUDA graph (operation not permitted when stream is capturing)") == 1


def test_running_out_of_memory_while_recording_halves_the_rows(
    load: Callable[[str], Loaded], prompts: list[Prompt], recorded: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sample(engine(load("llama"), 12), prompts, WARM, 4)
    record = token_steps.record

    def short(compute: Compute, pool: Any) -> Any:
        if len(compute()) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return record(compute, pool)

    monkeypatch.setattr(token_steps, "record", short)
    halved = engine(load("llama"), 12)
    assert sample(halved, prompts, WARM, 4) == expected
    assert halved.facts()["out_of_memory_at_rows"] == [12]


class HostAccess(TorchDispatchMode):
    """Collects operations that create, upload or read tensors of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if any(leaf.device.type != "meta" for leaf in leaves):
            self.operations.append(str(func))
        return result


@torch.no_grad()
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_step_never_accesses_the_host(loaded: Loaded, top_p: float) -> None:
    """Otherwise it could not be recorded. On the meta device, reading a tensor raises."""
    slots = Slots(loaded.model.to("meta"), 8, 1)
    stepping = token_steps.TokenSteps(slots, replace(WARM, top_p=top_p))
    slots.reserve(64)
    state = torch.zeros(3, 8, dtype=torch.long, device="meta")
    stepping._draw(state)  # allocates keys and values
    with HostAccess() as watch:
        assert stepping._draw(state).shape == (8,)
        assert watch.operations == []
        torch.where(state > 0, state, torch.tensor(0))
        assert len(watch.operations) > 0  # the watch works


def test_sizes_are_rounded_up_to_a_few_values_close_by() -> None:
    assert [rounded_rows(n, 100) for n in (100, 51, 50, 26, 25, 3, 1)] == [100, 100, 50, 50, 25, 3, 1]
    assert [rounded_columns(n) for n in (1, 64, 65, 256, 257, 513, 1100)] == [64, 64, 128, 256, 320, 640, 1280]
    assert all(n <= rounded_columns(n) <= n + max(63, n // 4) for n in range(1, 5000))
    assert len({rounded_columns(n) for n in range(1, 2200)}) <= 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "mistral"])
@pytest.mark.parametrize(("rows", "samples"), [(12, 4), (256, 64)])
def test_replayed_graphs_draw_the_same_tokens_as_single_kernels(
    model_folder: Callable[[str], Path],
    prompts: list[Prompt],
    family: str,
    rows: int,
    samples: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In float32 rounding, which depends on shapes, decides hardly any draw."""
    loaded = load_checkpoint(model_folder(family), "float32", torch.device("cuda"))
    replayed, real = [0], token_steps.record

    def counted(compute: Compute, pool: Any) -> Any:
        replay, pool = real(compute, pool)
        return (lambda: (replayed.__setitem__(0, replayed[0] + 1), replay())[1]), pool

    monkeypatch.setattr(token_steps, "record", counted)
    graphs = sample(engine(loaded, rows), prompts, WARM, samples)
    assert replayed[0] > 50
    assert "could not be recorded" not in capsys.readouterr().err
    monkeypatch.setattr(token_steps, "can_record", lambda device: False)
    assert alike(sample(engine(loaded, rows), prompts, WARM, samples), graphs) >= 0.98
    on_cpu = load_checkpoint(model_folder(family), "float32", torch.device("cpu"))
    assert alike(sample(engine(on_cpu, rows), prompts, WARM, samples), graphs) >= 0.98


def alike(some: list[list[Completion]], others: list[list[Completion]]) -> float:
    """Share of equal completions."""
    pairs = zip(chain.from_iterable(some), chain.from_iterable(others), strict=True)
    return float(np.mean([a == b for a, b in pairs]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_bfloat16_with_an_unmerged_adapter_is_recorded_too(
    model_folder: Callable[[str], Path], prompts: list[Prompt], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from adapter_files import adapter

    cpu = load_checkpoint(model_folder("qwen2"), "float32", torch.device("cpu"))
    folder = adapter(cpu.model, tmp_path / "adapter", 0.3)
    loaded = load_checkpoint(model_folder("qwen2"), "bfloat16", torch.device("cuda"))
    made = engine(loaded, 64)
    base = sample(made, prompts, WARM, 8)
    made.use(folder)
    assert alike(sample(made, prompts, WARM, 8), base) < 0.1
    made.use(None)
    assert alike(sample(made, prompts, WARM, 8), base) >= 0.9
    assert "could not be recorded" not in capsys.readouterr().err
