"""One driver for every training stage: `transformers.Trainer` around a loss that brings its own batches.

The trainer owns optimiser, schedule, clipping and logging; what a step trains on is the business of the loss, which
yields the parts of one step (micro-batches) already scaled so that their sum is the step's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments

from flatprobe.errors import UserError
from flatprobe.pipeline.progress import report_progress
from flatprobe.study.schema import Schedule

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
OPTIMISER = "adamw_torch"  # the plain loop: fused kernels differ in the last digits between devices
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # as in Loshchilov and Hutter 2019 (arXiv:1711.05101)
Parts = Callable[[int], Iterator[tuple[Tensor, dict[str, float]]]]


@dataclass(frozen=True)
class Optimisation:
    steps: int
    learning_rate: float
    schedule: Schedule
    warmup: float  # share of the steps
    weight_decay: float
    clip: float  # largest norm of a step's gradient
    seed: int  # of dropout; data order is the loss's own


class _StepTrainer(Trainer):
    """A trainer whose dataset only says how many steps there are; on hosts with several devices, too, each step is
    one call, so its number is the trainer's own count."""

    parts: Parts
    records: list[dict[str, Any]]

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
            raise UserError.one(
                f"training step {step}", f"the loss is {float(total)} ({terms})", "lower the learning rate"
            )
        self.records += [{"step": step, "term": name, "value": value} for name, value in terms.items()]
        self.records.append({"step": step, "term": "total", "value": float(total)})
        report_progress(step + 1, self.args.max_steps, f"loss {float(total):.3f}")
        return total


def _no_inputs(items: list[int]) -> dict[str, Any]:
    """What the loss trains on does not pass through the trainer."""
    return {}


def train(
    model: Any, parts: Parts, optimisation: Optimisation, folder: Path, device: Any
) -> list[dict[str, Any]]:
    """Train the parameters that require gradients, in place.

    Args:
        parts: step number to the step's (loss, unweighted terms) parts; parts of a step are summed.
        folder: where the trainer may write.

    Returns:
        One record (step, term, value) per step and term, with `total` among the terms.

    Raises:
        UserError: a loss that is not finite.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_steps=optimisation.steps,
        learning_rate=optimisation.learning_rate,
        lr_scheduler_type=SCHEDULES[optimisation.schedule],
        warmup_steps=round(optimisation.warmup * optimisation.steps),
        weight_decay=optimisation.weight_decay,
        max_grad_norm=optimisation.clip,
        optim=OPTIMISER,
        adam_beta1=BETA1,
        adam_beta2=BETA2,
        adam_epsilon=EPSILON,
        seed=optimisation.seed,
        use_cpu=device.type == "cpu",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = _StepTrainer(
        model=model, args=arguments, train_dataset=list(range(optimisation.steps)), data_collator=_no_inputs
    )
    trainer.parts = parts
    trainer.records = []
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()
    return trainer.records
