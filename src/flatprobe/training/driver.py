"""Train an adapter: `transformers.Trainer` around a loss that makes its own batches.

The trainer owns optimiser, schedule, gradient clipping, checkpoints and trackers. The loss chooses the examples of each
step and yields one scaled loss per micro-batch; their sum is the step's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from flatprobe.errors import UserError
from flatprobe.pipeline.progress import report_progress
from flatprobe.study.recipe_schema import Recipe
from flatprobe.training.resume import LAST_GOOD, Recorded, newest_checkpoint, save_recorded
from flatprobe.training.tracking import Tracking, direct_tensorboard, require_trackers

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
OPTIMISER = "adamw_torch"  # not fused: fused kernels give other last digits on other devices
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # as in Loshchilov and Hutter 2019 (arXiv:1711.05101)
StepLoss = Callable[[int], Iterator[tuple[Tensor, dict[str, float]]]]
"""Step number to the (loss, unweighted terms) of each micro-batch. Both sum to those of the step."""


@dataclass(frozen=True)
class Monitor:
    """Measures the model before training, every few steps, and after the last step."""

    read: Callable[[], list[dict[str, Any]]]
    """Called in evaluation mode without gradients. Must not draw random numbers."""
    every: int
    """Steps between two readings."""
    stops: Callable[[list[dict[str, Any]]], bool] = lambda rows: False
    """Whether training ends after a reading with these rows."""


@dataclass(frozen=True)
class Trained:
    """The record of a finished training."""

    losses: list[dict[str, Any]]
    """One (step, term, value) per step and term, with `total` among the terms."""
    readings: list[dict[str, Any]]
    """The rows of all readings, each with `step`, the number of steps before it."""
    steps: int


class _StepTrainer(Trainer):
    """A trainer whose dataset is the list of step numbers, so each step is one call, even with several devices."""

    step_loss: StepLoss
    names: Callable[[int], Sequence[str]]
    recorded: Recorded

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        model.train()
        step = self.state.global_step
        total = torch.zeros((), device=self.args.device)
        terms: dict[str, float] = {}
        for loss, values in self.step_loss(step):
            self.accelerator.backward(loss)
            total += loss.detach()
            for name, value in values.items():
                terms[name] = terms.get(name, 0.0) + value
        if not bool(torch.isfinite(total)):
            self._stop(step, f"the loss is {float(total)} ({terms})")
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        largest = torch.nn.utils.get_total_norm(gradients, norm_type=float("inf"))
        if not bool(torch.isfinite(largest)):
            self._stop(step, f"the gradient is not finite at a loss of {float(total):.4g} ({terms})")
        self.recorded.losses += [
            {"step": step, "term": name, "value": value} for name, value in {**terms, "total": float(total)}.items()
        ]
        if self.args.report_to:
            self.log({f"loss/{name}": value for name, value in terms.items()})
        report_progress(step + 1, self.args.max_steps, f"loss {float(total):.3f}")
        return total

    def _stop(self, step: int, message: str) -> None:
        """Save the weights from before this step and raise, naming the step's examples."""
        folder = Path(str(self.args.output_dir)) / LAST_GOOD
        self.save_model(str(folder), _internal_call=True)
        names = "; ".join(self.names(step))
        raise UserError.one(
            "training.not_finite",
            f"training step {step}",
            f"{message}{f', on {names}' if names else ''}; the weights from before it are in {folder}",
            "lower the learning rate, or check these examples",
        )


class _MonitorCallback(TrainerCallback):
    """Takes the monitor's readings, stops training when it says so, and completes checkpoints."""

    def __init__(self, trainer: _StepTrainer, monitor: Monitor | None) -> None:
        self.trainer, self.monitor = trainer, monitor

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == 0 and self._read(0):
            raise UserError.one(
                "training.already_stopped",
                "training",
                "its stopping rule is met before the first step",
                "choose a stricter level, or start from another checkpoint",
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        every = self.monitor.every if self.monitor is not None else state.max_steps
        due = state.global_step % every == 0 or state.global_step >= state.max_steps
        if due and self._read(state.global_step):
            control.should_training_stop = True
        if control.should_training_stop:
            control.should_save = False  # a finished training needs no checkpoint
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        save_recorded(self.trainer.recorded, Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def _read(self, step: int) -> bool:
        """Take a reading; whether training ends with it."""
        if self.monitor is None:
            return False
        model: Any = self.trainer.model
        model.eval()
        with torch.no_grad():
            rows = self.monitor.read()
        self.trainer.recorded.readings += [{"step": step, **row} for row in rows]
        return self.monitor.stops(rows)


def _no_inputs(items: list[int]) -> dict[str, Any]:
    """Training data does not pass through the trainer; the loss has its own."""
    return {}


def train(
    model: Any,
    step_loss: StepLoss,
    folder: Path,
    device: Any,
    *,
    recipe: Recipe,
    steps: int,
    seed: int,
    monitor: Monitor | None = None,
    names: Callable[[int], Sequence[str]] = lambda step: (),
    tracking: Tracking | None = None,
    checkpoint_steps: int | None = None,
) -> Trained:
    """Train the parameters that require gradients, in place. Resumes from the newest checkpoint in `folder`.

    Args:
        folder: where checkpoints are written and searched.
        seed: seed of dropout. The loss draws the order of the data itself.
        names: step number to the names of its examples, for error messages.
        checkpoint_steps: steps between two checkpoints; None writes none.

    Raises:
        UserError: a loss or gradient is not finite (the weights from before that step are saved in `folder`), the
            monitor's stopping rule is met before the first step, or a tracker is not installed.
    """
    if tracking is not None:
        require_trackers(tracking.report_to)
    arguments = _arguments(recipe, steps, seed, folder, device, tracking, checkpoint_steps)
    trainer = _StepTrainer(model=model, args=arguments, train_dataset=list(range(steps)), data_collator=_no_inputs)
    newest = newest_checkpoint(folder)
    trainer.step_loss, trainer.names = step_loss, names
    trainer.recorded = newest[1] if newest else Recorded()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_MonitorCallback(trainer, monitor))
    if tracking is not None:
        direct_tensorboard(trainer.callback_handler.callbacks, tracking)
    trainer.train(resume_from_checkpoint=str(newest[0]) if newest else None)
    model.eval()
    return Trained(trainer.recorded.losses, trainer.recorded.readings, trainer.state.global_step)


def _arguments(
    recipe: Recipe,
    steps: int,
    seed: int,
    folder: Path,
    device: Any,
    tracking: Tracking | None,
    checkpoint_steps: int | None,
) -> TrainingArguments:
    tracked = tracking is not None and bool(tracking.report_to)
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_steps=steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=SCHEDULES[recipe.schedule],
        warmup_steps=round(recipe.warmup * steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        optim=OPTIMISER,
        adam_beta1=BETA1,
        adam_beta2=BETA2,
        adam_epsilon=EPSILON,
        seed=seed,
        use_cpu=device.type == "cpu",
        report_to=list(tracking.report_to) if tracking is not None else [],
        run_name=tracking.run_name if tracking is not None else None,
        save_strategy="no" if checkpoint_steps is None else "steps",
        save_steps=checkpoint_steps or 1,  # without effect if the strategy is "no"
        save_total_limit=2,  # not 1: the older checkpoint is deleted before the newer one is complete
        logging_strategy="steps" if tracked else "no",
        logging_steps=1,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
