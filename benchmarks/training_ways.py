"""One way of training, in a process of its own: `benchmarks/training.py` starts it and reads what it prints last.

python benchmarks/training_ways.py '{"way": "flatprobe", ...}'
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import coupling_data
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from flatprobe.console import say
from flatprobe.models.load import Loaded, load_checkpoint
from flatprobe.study.recipe_schema import Anchor, Coupling, Lora
from flatprobe.training.driver import train
from flatprobe.training.lora import attach
from flatprobe.training.steps import CouplingLoss

ANCHORS: dict[str, Anchor] = {
    "none": Anchor(),
    "cross_entropy": Anchor(kind="cross_entropy", weight=1.0),
    "kl": Anchor(kind="kl", weight=1.0),
}
KILOBYTE = 1024
COUNTED = 1
"""The step of the warm-up whose FLOPs are counted."""


@dataclass(frozen=True)
class Measured:
    """What a way took."""

    seconds: float
    """Of the timed steps, all that the trainer does in them."""
    tokens: int
    """Tokens of their examples, padding and the negatives' marker slots not counted."""
    flops: float
    """Of the linear layers and the head, as run: counted in one step and scaled to the timed ones by tokens."""
    peak_bytes: int
    """Most memory during training: of the process, or what is allocated on the GPU."""
    before_bytes: int
    """Memory before the first step: model, adapter, data and libraries."""
    last_loss: float
    """So that nobody compares with a training that diverged."""


def _now(options: Namespace) -> float:
    """Seconds of the clock that is asked for."""
    return time.process_time() if options.processor_time else time.perf_counter()


class Flops(TorchDispatchMode):
    """Counts those of matrix products while it is entered (`FlopCounterMode` allows no gradient within a forward)."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:  # an output's type, which some products are told, is no operand
            operands = [value for value in args if not isinstance(value, torch.dtype)]
            named = {name: value for name, value in (kwargs or {}).items() if name not in ("out", "out_dtype")}
            self.total += flop_registry[func._overloadpacket](*operands, **named, out_val=result)
        return result


class Clock:
    """Marks the beginnings of steps; the second is counted, those after the warm-up are timed."""

    def __init__(self, options: Namespace) -> None:
        self.options, self.times = options, list[float]()
        self.flops = Flops()

    def mark(self) -> None:
        """To be called at the beginning of each step."""
        step = len(self.times)
        if step == COUNTED:
            self.flops.__enter__()
        if step == COUNTED + 1:
            self.flops.__exit__(None, None, None)
        if self.options.device == "cuda":
            torch.cuda.synchronize()
        self.times.append(_now(self.options))

    def seconds(self) -> float:
        first = self.options.warmup
        return self.times[first + self.options.steps] - self.times[first]


def main() -> None:
    options = Namespace(**json.loads(sys.argv[1]))
    torch.set_num_threads(options.threads)
    if options.way == "matrix peak":
        found: Any = {"flops_per_second": matrix_peak(options)}
    else:
        dtype = options.dtype
        loaded = load_checkpoint(Path(options.model), dtype, torch.device(options.device))
        data = coupling_data.batches(loaded.conversations, options)
        way: Callable[..., Measured] = {"flatprobe": flatprobe, "sft": sft, "full": full_logits}[options.kind]
        with tempfile.TemporaryDirectory() as folder:
            found = asdict(way(options, loaded, data, Path(folder)))
    say(json.dumps(found))


def matrix_peak(options: Namespace) -> float:
    """FLOP/s of the best of many square matrix products."""
    size = 2048 if options.device == "cpu" else 8192
    left, right = (
        torch.randn(size, size, dtype=getattr(torch, options.dtype), device=options.device) for _ in "ab"
    )
    best = float("inf")
    for _ in range(20):
        start = _now(options)
        left @ right
        if options.device == "cuda":
            torch.cuda.synchronize()
        best = min(best, _now(options) - start)
    return float(2.0 * size**3 / best)


def lora(options: Namespace, first_layer: int) -> Lora:
    """The registered coupling's adapter."""
    return Lora(rank_stabilised=True, dropout=options.dropout, first_layer=first_layer)


def _plain(wrapped: Any) -> Any:
    """The same adapter with the library's own dropout, as other trainers have it."""
    for layer in wrapped.modules():
        for name, module in getattr(layer, "lora_dropout", {}).items():
            layer.lora_dropout[name] = torch.nn.Dropout(module.p) if hasattr(module, "p") else module
    return wrapped


def flatprobe(options: Namespace, loaded: Loaded, data: coupling_data.Batches, folder: Path) -> Measured:
    """The coupling step as `flatprobe run` makes it."""
    recipe = Coupling(
        lora=lora(options, options.first_layer),
        anchor=ANCHORS[options.anchor],
        batch=options.batch,
        precision=options.dtype,
    ).recipe
    wrapped = attach(loaded.model, recipe.lora, options.seed)
    loss = CouplingLoss(
        loaded, wrapped, data.examples, data.steps, recipe, 1.0, training_rows=options.rows, forward_rows=options.rows
    )  # fmt: skip
    clock, before = Clock(options), _before(options)

    def of_step(step: int) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
        clock.mark()
        return loss.of_step(step)

    trained = train(
        wrapped, of_step, folder, loaded.device, recipe=recipe, steps=len(data.steps), seed=options.seed
    )
    tokens = data.tokens(options.warmup, options.warmup + options.steps)
    return _measured(
        options, clock, tokens, data.tokens(COUNTED, COUNTED + 1), before, trained.losses[-1]["value"]
    )


def sft(options: Namespace, loaded: Loaded, data: coupling_data.Batches, folder: Path) -> Measured:
    """TRL's `SFTTrainer` on the same examples in the same order (packed, its packs' order is its own)."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    model = _plain(attach(loaded.model, lora(options, 0), options.seed))
    order = [data.rows[number] for step in data.steps for number in step]
    longest = max(len(tokens) for tokens, _ in order)
    per_pack = round(sum(len(tokens) for tokens, _ in order) / len(data.steps))
    columns = {
        "input_ids": [tokens for tokens, _ in order],
        "completion_mask": [[0] * n_prompt + [1] * (len(tokens) - n_prompt) for tokens, n_prompt in order],
    }
    arguments = SFTConfig(
        **_arguments(options, len(data.steps), folder),
        completion_only_loss=True,
        packing=options.packing,
        max_length=max(longest, per_pack) if options.packing else longest,
        gradient_checkpointing=options.checkpointing,
    )
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=loaded.conversations.tokenizer,
    )  # fmt: skip
    rows = [len(tokens) for tokens in trainer.train_dataset["input_ids"]]
    per_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return _run(options, trainer, [sum(rows[at : at + per_step]) for at in range(0, len(rows), per_step)])


def full_logits(options: Namespace, loaded: Loaded, data: coupling_data.Batches, folder: Path) -> Measured:
    """`transformers.Trainer` on padded rows: the model's own loss, from the logits of every token."""
    from torch.nn.utils.rnn import pad_sequence
    from transformers import Trainer, TrainingArguments

    model = _plain(attach(loaded.model, lora(options, 0), options.seed))
    order = [data.rows[number] for step in data.steps for number in step]

    def collate(rows: list[tuple[list[int], int]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(tokens) for tokens, _ in rows]
        labels = [torch.tensor([-100] * n_prompt + tokens[n_prompt:]) for tokens, n_prompt in rows]
        return {
            "input_ids": pad_sequence(ids, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        }

    arguments = TrainingArguments(**_arguments(options, len(data.steps), folder))
    trainer = Trainer(model=model, args=arguments, train_dataset=order, data_collator=collate)
    return _run(options, trainer, [data.tokens(step, step + 1) for step in range(len(data.steps))])


def _arguments(options: Namespace, steps: int, folder: Path) -> dict[str, Any]:
    """What every trainer is told: the registered optimiser, no logging, no evaluation."""
    packing = getattr(options, "packing", False)
    return {
        "output_dir": str(folder), "max_steps": steps, "learning_rate": 5e-6, "lr_scheduler_type": "cosine",
        "warmup_steps": 1, "weight_decay": 0.0, "max_grad_norm": 1.0, "optim": "adamw_torch", "seed": options.seed,
        "per_device_train_batch_size": 1 if packing else options.rows,
        "gradient_accumulation_steps": 1 if packing else max(1, options.batch // options.rows),
        "use_cpu": options.device == "cpu", "bf16": options.dtype == "bfloat16", "report_to": [], "save_strategy": "no",
        "logging_strategy": "steps", "logging_steps": 1000, "disable_tqdm": True, "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential", "remove_unused_columns": False,
    }  # fmt: skip


def _run(options: Namespace, trainer: Any, step_tokens: list[int]) -> Measured:
    from transformers import TrainerCallback

    clock, before = Clock(options), _before(options)

    class Marks(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.mark()

    trainer.add_callback(Marks())
    result = trainer.train()
    timed = sum(step_tokens[options.warmup : options.warmup + options.steps])
    return _measured(options, clock, timed, step_tokens[COUNTED], before, float(result.training_loss))


def _before(options: Namespace) -> int:
    gc.collect()
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    import psutil

    return int(psutil.Process().memory_info().rss)


def _measured(
    options: Namespace, clock: Clock, tokens: int, counted: int, before: int, last_loss: float
) -> Measured:
    if options.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:  # kilobytes, but bytes on macOS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else KILOBYTE
        )
    return Measured(clock.seconds(), tokens, clock.flops.total * tokens / counted, peak, before, last_loss)


if __name__ == "__main__":
    main()
