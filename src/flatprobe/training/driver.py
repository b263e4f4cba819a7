"""One driver for every training stage: `transformers.Trainer` around a loss that brings its own batches.

The trainer owns optimiser, schedule, clipping, checkpoints and trackers; what a step trains on is the business of the
loss, which yields the parts of one step (micro-batches) already scaled so that their sum is the step's loss.
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
from flatprobe.training.tracking import Tracking, direct, require_trackers

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
OPTIMISER = "adamw_torch"  # the plain loop: fused kernels differ in the last digits between devices
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # as in Loshchilov and Hutter 2019 (arXiv:1711.05101)
Parts = Callable[[int], Iterator[tuple[Tensor, dict[str, float]]]]


@dataclass(frozen=True)
class Readings:
    """What is read of the model before training, every so many steps, and after the last."""

    read: Callable[[], list[dict[str, Any]]]
    """Called in evaluation mode and without gradients; must draw no random number."""
    every: int
    enough: Callable[[list[dict[str, Any]]], bool] = lambda rows: False
    """Whether a reading ends the training."""


@dataclass(frozen=True)
class Trained:
    """What a training wrote down."""

    losses: list[dict[str, Any]]
    """One (step, term, value) per step and term, with `total` among the terms."""
    readings: list[dict[str, Any]]
    """The rows of all readings, each with `step`: how many steps came before it."""
    steps: int


class _StepTrainer(Trainer):
    """A trainer whose dataset only says how many steps there are; on hosts with several devices, too, each step is
    one call, so its number is the trainer's own count."""

    parts: Parts
    names: Callable[[int], Sequence[str]]
    recorded: Recorded

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        model.train()
        step = self.state.global_step
        total = torch.zeros((), device=self.args.device)
        terms: dict[str, float] = {}
        for loss, values in self.parts(step):
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
            {"step": step, "term": name, "value": value}
            for name, value in {**terms, "total": float(total)}.items()
        ]
        if self.args.report_to:
            self.log({f"loss/{name}": value for name, value in terms.items()})
        report_progress(step + 1, self.args.max_steps, f"loss {float(total):.3f}")
        return total

    def _stop(self, step: int, what: str) -> None:
        """Keep the weights as they were before this step, and say what was in it."""
        kept = Path(str(self.args.output_dir)) / LAST_GOOD
        self.save_model(str(kept), _internal_call=True)
        seen = "; ".join(self.names(step))
        raise UserError.one(
            "driver.TODO",
            f"training step {step}",
            f"{what}{f', on {seen}' if seen else ''}; the weights before it are in {kept}",
            "lower the learning rate, or look at these examples",
        )


class _Follow(TrainerCallback):
    """Takes the readings, ends the training where one is enough, and completes checkpoints."""

    def __init__(self, trainer: _StepTrainer, readings: Readings | None) -> None:
        self.trainer, self.readings = trainer, readings

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == 0 and self._take(0):
            raise UserError.one(
                "driver.TODO", "training", "the level to stop at is reached before the first step"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        every = self.readings.every if self.readings is not None else state.max_steps
        due = state.global_step % every == 0 or state.global_step >= state.max_steps
        if due and self._take(state.global_step):
            control.should_training_stop = True
        if control.should_training_stop:
            control.should_save = False  # what is finished needs no checkpoint to go on from
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        save_recorded(self.trainer.recorded, Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def _take(self, step: int) -> bool:
        if self.readings is None:
            return False
        model: Any = self.trainer.model
        model.eval()
        with torch.no_grad():
            rows = self.readings.read()
        self.trainer.recorded.readings += [{"step": step, **row} for row in rows]
        return self.readings.enough(rows)


def _no_inputs(items: list[int]) -> dict[str, Any]:
    """What the loss trains on does not pass through the trainer."""
    return {}


def train(
    model: Any,
    parts: Parts,
    folder: Path,
    device: Any,
    *,
    recipe: Recipe,
    steps: int,
    seed: int,
    readings: Readings | None = None,
    names: Callable[[int], Sequence[str]] = lambda step: (),
    tracking: Tracking | None = None,
    checkpoint_steps: int | None = None,
) -> Trained:
    """Train the parameters that require gradients, in place; goes on from the newest checkpoint in the folder.

    Args:
        parts: step number to the step's (loss, unweighted terms) parts; parts of a step are summed.
        folder: where checkpoints are written and looked for.
        seed: of dropout; the loss draws the data order itself.
        names: step number to the names of its examples, for a message.
        checkpoint_steps: steps between two checkpoints; None writes none.

    Raises:
        UserError: a loss or a gradient that is not finite (the weights before that step are kept in the folder), a
            level that is reached before training, or a tracker that is not installed.
    """
    if tracking is not None:
        require_trackers(tracking.report_to)
    arguments = _arguments(recipe, steps, seed, folder, device, tracking, checkpoint_steps)
    trainer = _StepTrainer(
        model=model, args=arguments, train_dataset=list(range(steps)), data_collator=_no_inputs
    )
    newest = newest_checkpoint(folder)
    trainer.parts, trainer.names = parts, names
    trainer.recorded = newest[1] if newest else Recorded()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Follow(trainer, readings))
    if tracking is not None:
        direct(trainer.callback_handler.callbacks, tracking)
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
        save_steps=checkpoint_steps or 1,  # read with `steps` only
        save_total_limit=2,  # the older one goes before the newer one is complete
        logging_strategy="steps" if tracked else "no",
        logging_steps=1,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
