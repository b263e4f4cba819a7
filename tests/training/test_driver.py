from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from flatprobe.errors import UserError
from flatprobe.training.driver import Optimisation, Parts, train

CPU = torch.device("cpu")


class Small(nn.Module):
    """A regression with a gradient of its own at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, -1.0]))
        self.frozen = nn.Parameter(torch.tensor([3.0]), requires_grad=False)

    def loss(self, step: int, part: int) -> Tensor:
        return ((self.weight * (step + 1) - part) ** 2).sum() / 50


def parts_of(model: Small, splits: int) -> Parts:
    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        for part in range(splits):
            loss = model.loss(step, part)
            yield loss, {"square": float(loss.detach()), f"part {part}": 1.0}

    return parts


def optimisation(**changes: Any) -> Optimisation:
    given = {
        "steps": 6,
        "learning_rate": 0.05,
        "schedule": "cosine",
        "warmup": 1 / 3,
        "weight_decay": 0.01,
        "clip": 1.0,
        "seed": 0,
    }
    return Optimisation(**(given | changes))


def test_training_is_adamw_with_the_schedule_and_clipping_on_the_summed_parts(tmp_path: Path) -> None:
    model, oracle = Small(), Small()
    records = train(model, parts_of(model, 3), optimisation(), tmp_path, CPU)

    adamw = torch.optim.AdamW([oracle.weight], lr=0.05, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(adamw, 2, 6)
    totals = []
    for step in range(6):
        loss = torch.stack([oracle.loss(step, part) for part in range(3)]).sum()
        totals.append(float(loss.detach()))
        loss.backward()
        nn.utils.clip_grad_norm_([oracle.weight], 1.0)
        adamw.step()
        schedule.step()
        adamw.zero_grad()
    torch.testing.assert_close(model.weight.data, oracle.weight.data)
    assert model.frozen.item() == 3.0
    assert [r["value"] for r in records if r["term"] == "total"] == pytest.approx(totals)
    assert [r["value"] for r in records if r["term"] == "square"] == pytest.approx(totals)


def test_a_constant_schedule_is_warmed_up_and_the_clip_is_the_recipe_s(tmp_path: Path) -> None:
    model, oracle = Small(), Small()
    train(model, parts_of(model, 3), optimisation(schedule="constant", clip=1e-2), tmp_path, CPU)
    adamw = torch.optim.AdamW([oracle.weight], lr=0.05, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    schedule = get_constant_schedule_with_warmup(adamw, 2)
    for step in range(6):
        torch.stack([oracle.loss(step, part) for part in range(3)]).sum().backward()
        assert float(nn.utils.clip_grad_norm_([oracle.weight], 1e-2)) > 1e-2
        adamw.step()
        schedule.step()
        adamw.zero_grad()
    torch.testing.assert_close(model.weight.data, oracle.weight.data)


def test_every_step_is_asked_for_once_and_in_order(tmp_path: Path) -> None:
    model, seen = Small(), []

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        seen.append(step)
        yield model.loss(step, 0), {}

    train(model, parts, optimisation(), tmp_path, CPU)
    assert seen == list(range(6))


def test_the_model_trains_in_training_mode_and_is_left_in_evaluation_mode(tmp_path: Path) -> None:
    model, modes = Small().eval(), []

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        modes.append(model.training)
        yield model.loss(step, 0), {}

    train(model, parts, optimisation(steps=2), tmp_path, CPU)
    assert modes == [True, True]
    assert not model.training


def test_dropout_is_that_of_the_seed(tmp_path: Path) -> None:
    def final(seed: int) -> Tensor:
        model, dropout = Small(), nn.Dropout(0.5)

        def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
            yield dropout(model.weight).square().sum(), {}

        train(model, parts, optimisation(seed=seed), tmp_path, CPU)
        return model.weight.data

    assert torch.equal(final(1), final(1))
    assert not torch.equal(final(1), final(4))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_with_its_terms(tmp_path: Path, value: float) -> None:
    model = Small()

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        yield model.loss(step, 0) * (value if step == 2 else 1.0), {"marker": value}

    with pytest.raises(UserError, match=r"training step 2  the loss is (nan|inf) \(\{'marker'"):
        train(model, parts, optimisation(), tmp_path, CPU)


def test_training_prints_nothing_and_writes_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Small()
    train(model, parts_of(model, 1), optimisation(), tmp_path / "trainer", CPU)
    assert capsys.readouterr().out == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
