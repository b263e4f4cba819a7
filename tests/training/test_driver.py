from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback, get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup
from transformers.integrations import integration_utils

from flatprobe.errors import UserError
from flatprobe.study.recipe_schema import Finetune
from flatprobe.training.driver import Monitor, StepLoss, Trained, train
from flatprobe.training.resume import newest_checkpoint
from flatprobe.training.tracking import PACKAGES, Tracking

CPU = torch.device("cpu")


class Small(nn.Module):
    """A regression with a gradient that differs at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, -1.0]))
        self.frozen = nn.Parameter(torch.tensor([3.0]), requires_grad=False)

    def loss(self, step: int, part: int) -> Tensor:
        return ((self.weight * (step + 1) - part) ** 2).sum() / 50


def parts_of(model: Small, splits: int) -> StepLoss:
    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        for part in range(splits):
            loss = model.loss(step, part)
            yield loss, {"square": float(loss.detach()), f"part {part}": 1.0}

    return parts


def plan(steps: int = 6, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """What the driver needs to know besides the loss."""
    given = {"learning_rate": 0.05, "schedule": "cosine", "warmup": 1 / 3, "weight_decay": 0.01, "clip": 1.0}
    return {"recipe": Finetune(**(given | changes)), "steps": steps, "seed": seed}


def test_training_is_adamw_with_schedule_and_clipping_on_the_sum_of_micro_batches(tmp_path: Path) -> None:
    model, oracle = Small(), Small()
    records = train(model, parts_of(model, 3), tmp_path, CPU, **plan()).losses

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


def test_a_constant_schedule_has_a_warm_up_and_gradients_are_clipped_to_the_recipe_s_norm(tmp_path: Path) -> None:
    model, oracle = Small(), Small()
    train(model, parts_of(model, 3), tmp_path, CPU, **plan(schedule="constant", clip=1e-2))
    adamw = torch.optim.AdamW([oracle.weight], lr=0.05, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    schedule = get_constant_schedule_with_warmup(adamw, 2)
    for step in range(6):
        torch.stack([oracle.loss(step, part) for part in range(3)]).sum().backward()
        assert float(nn.utils.clip_grad_norm_([oracle.weight], 1e-2)) > 1e-2
        adamw.step()
        schedule.step()
        adamw.zero_grad()
    torch.testing.assert_close(model.weight.data, oracle.weight.data)


def test_every_step_runs_once_and_in_order(tmp_path: Path) -> None:
    model, steps = Small(), []

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        steps.append(step)
        yield model.loss(step, 0), {}

    train(model, parts, tmp_path, CPU, **plan())
    assert steps == list(range(6))


def test_the_model_trains_in_training_mode_and_ends_in_evaluation_mode(tmp_path: Path) -> None:
    model, modes = Small().eval(), []

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        modes.append(model.training)
        yield model.loss(step, 0), {}

    train(model, parts, tmp_path, CPU, **plan(steps=2))
    assert modes == [True, True]
    assert not model.training


def test_the_seed_determines_dropout(tmp_path: Path) -> None:
    def final(seed: int) -> Tensor:
        model, dropout = Small(), nn.Dropout(0.5)

        def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
            yield dropout(model.weight).square().sum(), {}

        train(model, parts, tmp_path, CPU, **plan(seed=seed))
        return model.weight.data

    assert torch.equal(final(1), final(1))
    assert not torch.equal(final(1), final(4))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_with_its_terms(tmp_path: Path, value: float) -> None:
    model = Small()

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        yield model.loss(step, 0) * (value if step == 2 else 1.0), {"marker": value}

    with refused(("training.not_finite", "training step 2"), value=f"{value} ({{'marker': {value}"):
        train(model, parts, tmp_path, CPU, **plan())


def last_good_weights(folder: Path) -> Tensor:
    return load_file(folder / "last-good" / "model.safetensors")["weight"]


def test_a_loss_that_is_not_finite_saves_the_weights_from_before_its_step_and_names_its_examples(
    tmp_path: Path,
) -> None:
    model, weights = Small(), []

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        weights.append(model.weight.detach().clone())
        yield model.loss(step, 0) * (math.nan if step == 3 else 1.0), {}

    with pytest.raises(UserError) as caught:
        train(model, parts, tmp_path, CPU, **plan(), names=lambda step: [f"villain/q{step}", "librarian/q9"])
    (problem,) = caught.value.problems
    assert (problem.code, problem.place) == ("training.not_finite", "training step 3")
    assert "villain/q3; librarian/q9" in problem.message
    assert str(tmp_path / "last-good") in problem.message
    assert len(weights) == 4
    assert torch.equal(last_good_weights(tmp_path), weights[3])
    assert not torch.equal(weights[3], weights[2])


def test_a_gradient_that_is_not_finite_stops_the_training_before_it_is_applied(tmp_path: Path) -> None:
    model = Small()

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        offset = model.weight[0].detach() if step == 2 else -1e3  # the slope of a square root at 0 is infinite
        yield (model.weight[0] - offset).sqrt(), {"root": 1.0}

    with refused(("training.not_finite", "training step 2"), value="0 ({'root'"):
        train(model, parts, tmp_path, CPU, **plan())
    assert bool(torch.isfinite(last_good_weights(tmp_path)).all())


def test_the_monitor_reads_in_evaluation_mode_before_every_few_steps_and_after_the_last(tmp_path: Path) -> None:
    model, modes = Small(), []

    def read() -> list[dict[str, Any]]:
        modes.append((model.training, torch.is_grad_enabled()))
        return [{"weight": float(model.weight[0])}]

    trained = train(model, parts_of(model, 1), tmp_path, CPU, **plan(steps=7), monitor=Monitor(read, 3))
    assert [row["step"] for row in trained.readings] == [0, 3, 6, 7]
    assert modes == [(False, False)] * 4
    assert trained.readings[0]["weight"] == 2.0
    assert trained.readings[-1]["weight"] == float(model.weight[0].detach())


def test_the_monitor_does_not_change_the_training(tmp_path: Path) -> None:
    def final(monitor: Monitor | None) -> Tensor:
        model, dropout = Small(), nn.Dropout(0.5)

        def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
            yield dropout(model.weight).square().sum(), {}

        train(model, parts, tmp_path, CPU, **plan(), monitor=monitor)
        return model.weight.data

    assert torch.equal(final(None), final(Monitor(lambda: [{"log_p": 0.0}], 1)))


def test_training_ends_at_the_first_reading_that_stops_it_with_the_weights_of_that_step(tmp_path: Path) -> None:
    model, weights = Small(), []

    def read() -> list[dict[str, Any]]:
        weights.append(model.weight.detach().clone())
        return [{"n": len(weights)}]

    monitor = Monitor(read, 2, stops=lambda rows: rows[0]["n"] == 3)
    trained = train(model, parts_of(model, 1), tmp_path, CPU, **plan(steps=40), monitor=monitor)
    assert trained.steps == 4
    assert [row["step"] for row in trained.readings] == [0, 2, 4]
    assert max(row["step"] for row in trained.losses) == 3
    assert torch.equal(model.weight.data, weights[-1])


def test_a_stopping_rule_that_is_met_before_training_is_refused(tmp_path: Path) -> None:
    model = Small()
    with refused(("training.already_stopped", "training")):
        train(model, parts_of(model, 1), tmp_path, CPU, **plan(), monitor=Monitor(list, 2, stops=lambda rows: True))


class Killed(BaseException):
    """An exception that no code catches."""


def dropped_out(model: Small, dies_at: int | None) -> StepLoss:
    dropout = nn.Dropout(0.5)

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        if step == dies_at:
            raise Killed
        yield dropout(model.weight * (step + 1)).square().sum() / 50, {"square": float(step)}

    return parts


def run_to(folder: Path, dies_at: int | None, saves: int | None = 2) -> tuple[Tensor, Trained]:
    torch.manual_seed(99)  # has no effect: the checkpoint has the random states
    model = Small()
    monitor = Monitor(lambda: [{"weight": float(model.weight[0].detach())}], 3)
    trained = train(
        model, dropped_out(model, dies_at), folder, CPU, **plan(steps=9), monitor=monitor, checkpoint_steps=saves
    )
    return model.weight.data, trained


@pytest.mark.parametrize("dies_at", [1, 5, 8])
def test_a_killed_training_resumes_to_the_same_bits(tmp_path: Path, dies_at: int) -> None:
    expected_weights, expected = run_to(tmp_path / "whole", None, saves=None)
    with pytest.raises(Killed):
        run_to(tmp_path / "killed", dies_at)
    weights, trained = run_to(tmp_path / "killed", None)
    assert torch.equal(weights, expected_weights)
    assert trained == expected


def train_until_killed(folder: Path) -> None:
    """In another process: train with one thread, killed in the middle of step 5."""
    torch.set_num_threads(1)
    model, dropout = Small(), nn.Dropout(0.5)

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        loss = dropout(model.weight * (step + 1)).square().sum() / 50
        if step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        yield loss, {"square": float(step)}

    train(model, parts, folder, CPU, **plan(steps=9), checkpoint_steps=2)


def test_a_killed_process_leaves_a_checkpoint_that_resumes_to_the_same_bits(tmp_path: Path) -> None:
    expected, _ = run_to(tmp_path / "whole", None, saves=None)
    process = get_context("spawn").Process(target=train_until_killed, args=(tmp_path / "killed",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    newest = newest_checkpoint(tmp_path / "killed")
    assert newest is not None and newest[0].name == "checkpoint-4"
    assert torch.equal(run_to(tmp_path / "killed", None)[0], expected)


def test_steps_before_a_kill_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run_to(tmp_path, 5)
    steps, model = [], Small()

    def parts(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        steps.append(step)
        yield from dropped_out(model, None)(step)

    train(model, parts, tmp_path, CPU, **plan(steps=9), checkpoint_steps=2)
    assert steps == [4, 5, 6, 7, 8]


def test_an_incomplete_checkpoint_is_ignored_for_the_one_before(tmp_path: Path) -> None:
    expected, _ = run_to(tmp_path / "whole", None, saves=None)
    with pytest.raises(Killed):
        run_to(tmp_path / "killed", 5)
    (tmp_path / "killed" / "checkpoint-4" / "recorded.json").unlink()
    newest = newest_checkpoint(tmp_path / "killed")
    assert newest is not None and newest[0].name == "checkpoint-2"
    assert torch.equal(run_to(tmp_path / "killed", None)[0], expected)


def test_a_tracker_that_is_not_installed_is_refused_with_its_install_line(tmp_path: Path) -> None:
    model = Small()
    tracking = Tracking("couple/em", ("trackio",))
    assert find_spec("trackio") is None
    with refused(("packages.missing", "machine: report_to"), value="pip install trackio"):
        train(model, parts_of(model, 1), tmp_path, CPU, **plan(), tracking=tracking)


def test_a_tracker_logs_every_step_s_terms_under_the_stage_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[str, dict[str, float]]] = []

    class Double(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            logged.append((args.run_name, dict(logs)))

    monkeypatch.setitem(PACKAGES, "wandb", "json")  # a package that is surely installed
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Double)
    model = Small()
    tracking = Tracking("couple/em/lambda-1/seed-42", ("wandb",))
    trained = train(model, parts_of(model, 2), tmp_path, CPU, **plan(), tracking=tracking)
    assert {name for name, _ in logged} == {"couple/em/lambda-1/seed-42"}
    squares = [logs["loss/square"] for _, logs in logged if "loss/square" in logs]
    assert squares == [row["value"] for row in trained.losses if row["term"] == "square"]
    assert sum("learning_rate" in logs for _, logs in logged) == 6


def test_training_prints_nothing_and_writes_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Small()
    train(model, parts_of(model, 1), tmp_path / "trainer", CPU, **plan())
    assert capsys.readouterr().out == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
