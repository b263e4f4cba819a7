"""Models on the device under test beside the same ones on the CPU.

The reference is always float32 on the CPU, with the very weights that the device has: rounded to bfloat16 where it
computes in that. `FLATPROBE_GPU_TEST_DEVICE=cpu` runs the same comparisons without a GPU, to try the tests themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from flatprobe.models import embedded
from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded, load_checkpoint
from flatprobe.study import resources
from flatprobe.study.load import load_study

VARIABLE = "FLATPROBE_GPU_TEST_DEVICE"
ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8}
"""Largest relative error of one rounding; in float32, errors of whole sums are taken as 100 times that."""
CASES = [(kind, precision) for kind in ("tiny", "smollm2") for precision in ("float32", "bfloat16")]


@dataclass(frozen=True)
class Pair:
    """One model on the device, and its reference."""

    tested: Loaded
    reference: Loaded
    precision: str
    folder: Path

    @property
    def tolerance(self) -> float:
        """Relative error, in norm, that rounding explains.

        In bfloat16 every block adds two rounded updates to the stream; their errors are independent, so they grow with
        the square root of their number: 1.4 % at 6 blocks, 3 % at 30. In float32, 1e-4: sums in another order, over
        states some of whose entries are a thousand times the others.
        """
        if self.precision == "float32":
            return 1e-4
        blocks: int = self.reference.model.config.num_hidden_layers
        return float(ROUNDOFF["bfloat16"] * (2 * blocks) ** 0.5)


@pytest.fixture(scope="session")
def device() -> torch.device:
    wanted = os.environ.get(VARIABLE, "cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return torch.device(wanted)


@pytest.fixture(autouse=True)
def _exact_float32() -> Iterator[None]:
    """No TF32: its products have 11 bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="session")
def folder_of(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where a model's files are."""
    tiny = tmp_path_factory.mktemp("tiny")

    def folder(kind: str) -> Path:
        if kind == "tiny":
            if not (tiny / "config.json").is_file():
                save_tiny(tokenizer, tiny)
            return tiny
        found = sorted(embedded.cache_folder().glob("smollm2-135m-instruct-*/config.json"))
        if not found:
            pytest.skip(f"no converted SmolLM2-135M-Instruct in {embedded.cache_folder()} (FLATPROBE_CACHE)")
        return found[0].parent

    return folder


def save_tiny(tokenizer: Any, folder: Path) -> None:
    """A random model whose blocks add little, as a trained one's do, so that rounding is not blown up on its way."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def pair_of(device: torch.device, folder_of: Callable[[str], Path]) -> Callable[[str, str], Pair]:
    """A fresh pair, which a test may change."""

    def make(kind: str, precision: Any) -> Pair:
        folder, cpu = folder_of(kind), torch.device("cpu")
        reference = load_checkpoint(folder, precision, cpu)
        reference.model.float()
        return Pair(load_checkpoint(folder, precision, device), reference, precision, folder)

    return make


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def pair(request: pytest.FixtureRequest, pair_of: Callable[[str, str], Pair]) -> Pair:
    """Each model in each precision."""
    return pair_of(*request.param)


@pytest.fixture(scope="session")
def panel_prompts() -> list[Prompt]:
    """Personas of the package's panel with some of its questions, and no system prompt."""
    demo = load_study(resources.shipped_study("demo"))
    personas = [(p.name, p.system) for p in demo.personas()[:3]]
    return [
        Prompt(name, system, question.id, question.text)
        for name, system in (*personas, ("none", None))
        for question in demo.questions["evaluation"][:3]
    ]


def distance(found: Any, expected: Any) -> float:
    """Norm of the difference, relative to the norm of what is expected."""
    one, other = (torch.as_tensor(x).detach().double().cpu() for x in (found, expected))
    return float((one - other).norm() / other.norm())


@pytest.fixture
def relative() -> Callable[[Any, Any], float]:
    return distance
