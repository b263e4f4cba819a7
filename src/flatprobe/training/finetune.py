"""Stage: the LoRA finetune of a condition."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from flatprobe.facts import FinetuneFacts, write_facts
from flatprobe.machine.local import current_machine
from flatprobe.models.load import Loaded, load_checkpoint, pick_device
from flatprobe.planner.contracts import FinetuneSettings
from flatprobe.training.driver import StepLoss, train
from flatprobe.training.lora import attach, require_learnt
from flatprobe.training.resume import checkpoint_folder, discard
from flatprobe.training.state_targets import state_loss
from flatprobe.training.supervised import Example, log_probabilities, right_padded, targets_of
from flatprobe.training.tracking import tracking_of


def finetune(settings: FinetuneSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Train a LoRA on the last assistant turns. Inputs: `checkpoint`, `data`.

    The loss is the mean negative log-likelihood of the batch's answer tokens, including the end of turn. With
    `match: states` it is `state_targets.state_loss`. Output: adapter/, losses.parquet, facts.json.
    """
    recipe, local = settings.recipe, current_machine()
    device = pick_device(local.device)
    loaded = load_checkpoint(inputs["checkpoint"], recipe.precision, device)
    frame = pl.read_parquet(inputs["data"] / "rows.parquet")
    rows = _encoded(loaded, frame["messages"])
    order = np.random.default_rng(settings.seed)
    batches = epoch_batches(len(rows), recipe.batch, recipe.epochs, order)
    wrapped = attach(loaded.model, recipe.lora, settings.seed)
    if settings.match == "states":
        references = _encoded(loaded, frame["reference"])
        loss = state_loss(loaded, wrapped, rows, references, batches, local.training_rows)
    else:
        loss = answer_loss(loaded, rows, batches, local.training_rows)
    folder = checkpoint_folder(output)
    trained = train(
        wrapped,
        loss,
        folder,
        device,
        recipe=recipe,
        steps=len(batches),
        seed=settings.seed,
        names=lambda step: [f"row {number}" for number in sorted(batches[step])],
        tracking=tracking_of("finetune", local.report_to, output),
        checkpoint_steps=local.checkpoint_steps,
    )
    norm = require_learnt(wrapped, "finetune")
    facts = FinetuneFacts(adapter_norm=norm, steps=len(batches), rows=len(rows))
    wrapped.save_pretrained(output / "adapter", safe_serialization=True)
    pl.DataFrame(trained.losses).write_parquet(output / "losses.parquet")
    write_facts(output, facts)
    discard(folder)


def _encoded(loaded: Loaded, column: Iterable[str]) -> list[Example]:
    return [loaded.conversations.encode_messages(json.loads(messages)) for messages in column]


def answer_loss(
    loaded: Loaded, rows: Sequence[Example], batches: Sequence[Sequence[int]], training_rows: int
) -> StepLoss:
    """The loss of each step; rows of similar length share a micro-batch."""

    def of_step(step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        batch = sorted(batches[step], key=lambda number: len(rows[number][0]))
        n_tokens = sum(len(rows[number][0]) - rows[number][1] for number in batch)
        for start in range(0, len(batch), training_rows):
            examples = [rows[number] for number in batch[start : start + training_rows]]
            pad = loaded.conversations.turn_end
            ids, mask = right_padded([tokens for tokens, _ in examples], pad, loaded.device)
            log_p = log_probabilities(loaded.model, ids, mask, *targets_of(examples))
            loss = -log_p.sum() / n_tokens
            yield loss, {"answer": float(loss.detach())}

    return of_step


def epoch_batches(n: int, batch: int, epochs: float, generator: Any) -> list[list[int]]:
    """Shuffled batches over `epochs` passes. The last batch of a pass may be smaller; the last pass may end early."""
    batches: list[list[int]] = []
    per_epoch = -(-n // batch)
    steps = max(1, round(per_epoch * epochs))
    while len(batches) < steps:
        order = generator.permutation(n).tolist()
        batches += [order[start : start + batch] for start in range(0, n, batch)]
    return batches[:steps]
