"""One way of training, measured in this process. `training.py` starts it and reads the last line that it prints.

python benchmarks/training_ways.py '{"way": "flatprobe", ...}'
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import training_data
from device import memory
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
COUNTED = 1
"""The step of the warm-up whose FLOPs are counted."""


@dataclass(frozen=True)
class Measured:
    """The measurement of one way."""

    seconds: float
    """Of the timed steps, with everything that the trainer does in them."""
    tokens: int
    """Tokens of their examples, without padding and the negatives' marker slots."""
    flops: float
    """Of linear layers and head, as executed: counted in one step, scaled to the timed steps by tokens."""
    peak_bytes: int
    """Peak during training: of the process, or allocated on the GPU."""
    before_bytes: int
    """In use before the first step: model, adapter, data and libraries."""
    last_loss: float
    """Shows whether the training diverged."""


def _now(options: Namespace) -> float:
    """Seconds of the chosen clock."""
    return time.process_time() if options.processor_time else time.perf_counter()


class Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOPs of matrix products (`FlopCounterMode` allows no gradient inside a forward pass)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:  # some products take the output's dtype, which is no operand
            operands = [value for value in args if not isinstance(value, torch.dtype)]
            named = {name: value for name, value in (kwargs or {}).items() if name not in ("out", "out_dtype")}
            self.total += flop_registry[func._overloadpacket](*operands, **named, out_val=result)
        return result


class Clock:
    """Marks the starts of steps; counts FLOPs in the second, times those after the warm-up."""

    def __init__(self, options: Namespace) -> None:
        self.options, self.starts = options, list[float]()
        self.flops = Flops()

    def mark(self) -> None:
        """Call this at the start of each step."""
        step = len(self.starts)
        if step == COUNTED:
            self.flops.__enter__()  # type: ignore[no-untyped-call]
        if step == COUNTED + 1:
            self.flops.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if self.options.device == "cuda":
            torch.cuda.synchronize()
        self.starts.append(_now(self.options))

    def seconds(self) -> float:
        first = self.options.warmup
        elapsed: float = self.starts[first + self.options.steps] - self.starts[first]
        return elapsed


def main() -> None:
    options = Namespace(**json.loads(sys.argv[1]))
    torch.set_num_threads(options.threads)
    if options.way == "matrix peak":
        result: Any = {"flops_per_second": matrix_peak(options)}
    else:
        dtype = options.dtype
        loaded = load_checkpoint(Path(options.model), dtype, torch.device(options.device))
        data = training_data.batches(loaded.conversations, options)
        way: Callable[..., Measured] = {"flatprobe": flatprobe, "sft": sft, "full": full_logits}[options.kind]
        with tempfile.TemporaryDirectory() as folder:
            result = asdict(way(options, loaded, data, Path(folder)))
    say(json.dumps(result))


def matrix_peak(options: Namespace) -> float:
    """FLOP/s of the fastest of 20 square matrix products."""
    size = 2048 if options.device == "cpu" else 8192
    left, right = (torch.randn(size, size, dtype=getattr(torch, options.dtype), device=options.device) for _ in "ab")
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
    """The same adapter with the library's dropout, as other trainers use it."""
    for layer in wrapped.modules():
        for name, module in getattr(layer, "lora_dropout", {}).items():
            layer.lora_dropout[name] = torch.nn.Dropout(module.p) if hasattr(module, "p") else module
    return wrapped


def flatprobe(options: Namespace, loaded: Loaded, data: training_data.Batches, folder: Path) -> Measured:
    """The coupling step of `flatprobe run`."""
    recipe = Coupling(
        lora=lora(options, options.first_layer),
        anchor=ANCHORS[options.anchor],
        batch=options.batch,
        precision=options.dtype,
    ).recipe
    wrapped = attach(loaded.model, recipe.lora, options.seed)
    loss = CouplingLoss(
        loaded, wrapped, data.examples, data.steps, recipe, 1.0, training_rows=options.rows, forward_rows=options.rows
    )
    clock, before = Clock(options), _before(options)

    def of_step(step: int) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
        clock.mark()
        return loss.of_step(step)

    trained = train(wrapped, of_step, folder, loaded.device, recipe=recipe, steps=len(data.steps), seed=options.seed)
    tokens = data.tokens(options.warmup, options.warmup + options.steps)
    return _measured(options, clock, tokens, data.tokens(COUNTED, COUNTED + 1), before, trained.losses[-1]["value"])


def sft(options: Namespace, loaded: Loaded, data: training_data.Batches, folder: Path) -> Measured:
    """TRL's `SFTTrainer` on the same examples in the same order (with packing, in the order of its packs)."""
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
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=loaded.conversations.tokenizer,
    )
    rows = [len(tokens) for tokens in trainer.train_dataset["input_ids"]]
    per_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return _run(options, trainer, [sum(rows[at : at + per_step]) for at in range(0, len(rows), per_step)])


def full_logits(options: Namespace, loaded: Loaded, data: training_data.Batches, folder: Path) -> Measured:
    """`transformers.Trainer` on padded rows, with the model's own loss from the logits of all tokens."""
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
    """Settings of every trainer: the registered optimiser, no logging, no evaluation."""
    packing = getattr(options, "packing", False)
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "learning_rate": 5e-6,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch",
        "seed": options.seed,
        "per_device_train_batch_size": 1 if packing else options.rows,
        "gradient_accumulation_steps": 1 if packing else max(1, options.batch // options.rows),
        "use_cpu": options.device == "cpu",
        "bf16": options.dtype == "bfloat16",
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1000,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
    }


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
    return int(memory(torch.device(options.device)))


def _measured(options: Namespace, clock: Clock, tokens: int, counted: int, before: int, last_loss: float) -> Measured:
    peak = int(memory(torch.device(options.device), peak=True))
    return Measured(clock.seconds(), tokens, clock.flops.total * tokens / counted, peak, before, last_loss)


if __name__ == "__main__":
    main()
