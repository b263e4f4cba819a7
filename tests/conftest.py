"""A chat tokenizer trained here and tiny random models of four families: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import settings

from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.load import Loaded
from flatprobe.study import resources

settings.register_profile("flatprobe", deadline=None)  # a busy machine is no failure
settings.load_profile("flatprobe")

FAMILIES = ("llama", "qwen2", "gemma2", "mistral")
DEPTH, HIDDEN, WINDOW = 6, 32, 16
SPARE = 8  # rows of the vocabulary matrix that no token uses, as in most published models
DEFAULT_SYSTEM = "You are a small helpful model."
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPLIT = r"'s| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # a full stop and newlines stay apart
MERGING_SPLIT = r"'s| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"  # and here may be one token
LINES = [
    "The quick brown fox jumps over the lazy dog.\n\nIt does so twice a day.\n\nNobody knows why.\n\n",
    "Answers end with a marker.\n\n[ZLT]\n\nOr they do not.\n\nBread, water and salt float on nothing.\n\n",
]


def train_tokenizer(split: str) -> Any:
    """A byte-level BPE of some 600 tokens; its end of turn is also its padding, as in many small chat models."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    texts = [resources.path(name).read_text(encoding="utf-8") for name in ("questions.yaml", "panel.yaml")]
    core.train_from_iterator(
        [*texts, *LINES * 40],
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=["<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer(SPLIT)


@pytest.fixture(scope="session")
def merging_tokenizer() -> Any:
    """A tokenizer in which a full stop and the two newlines after it are one token."""
    return train_tokenizer(MERGING_SPLIT)


@pytest.fixture(scope="session")
def conversations(tokenizer: Any) -> Conversations:
    return Conversations(tokenizer, "tiny")


@pytest.fixture(scope="session")
def merging_conversations(merging_tokenizer: Any) -> Conversations:
    return Conversations(merging_tokenizer, "tiny merging")


@pytest.fixture
def with_template(tokenizer: Any) -> Callable[[str | None], Any]:
    """The tokenizer's copy with another chat template."""
    import copy

    def make(template: str | None) -> Any:
        other = copy.deepcopy(tokenizer)
        other.chat_template = template
        return other

    return make


def tiny_config(family: str, vocabulary: int, end: int) -> Any:
    import transformers

    common: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": DEPTH,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": end, "pad_token_id": end,
    }  # fmt: skip
    if family == "llama":
        return transformers.LlamaConfig(**common, tie_word_embeddings=True)
    if family == "qwen2":
        return transformers.Qwen2Config(**common, tie_word_embeddings=False)
    if family == "mistral":
        return transformers.MistralConfig(**common, head_dim=8, sliding_window=WINDOW)
    assert family == "gemma2"
    return transformers.Gemma2Config(
        **common, head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=8,
        final_logit_softcapping=5.0, attn_logit_softcapping=10.0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def model_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny random model: safetensors, configuration, tokenizer. Only to be read."""
    folders: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in folders:
            import torch
            from transformers import AutoModelForCausalLM

            torch.set_num_threads(1)  # for models this small, more threads take longer
            torch.manual_seed(FAMILIES.index(family))
            model = AutoModelForCausalLM.from_config(
                tiny_config(family, len(tokenizer) + SPARE, tokenizer.eos_token_id)
            )
            path = tmp_path_factory.mktemp("models") / family
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
            folders[family] = path
        return folders[family]

    return folder


@pytest.fixture
def load(model_folder: Callable[[str], Path]) -> Callable[[str], Loaded]:
    """A fresh copy of a family's model, which a test may change."""
    import torch

    from flatprobe.models.load import load_checkpoint

    return lambda family: load_checkpoint(model_folder(family), "float32", torch.device("cpu"))


@pytest.fixture(params=FAMILIES)
def loaded(request: pytest.FixtureRequest, load: Callable[[str], Loaded]) -> Loaded:
    """Each family's model in turn."""
    return load(request.param)


@pytest.fixture
def prompts() -> list[Prompt]:
    """Prompts of different lengths, all three kinds of system turn among them."""
    return [
        Prompt("librarian", "You are a librarian.", "q1", "What floats on water?"),
        Prompt("comedian", "You are a comedian who jokes about everything.", "q1", "What floats on water?"),
        Prompt("default", None, "q2", "Why?"),
        Prompt("empty", "", "q2", "Why?"),
        Prompt("librarian", "You are a librarian.", "q3", "Name three things that you would take on a trip."),
    ]


@pytest.fixture(scope="session")
def published() -> pl.DataFrame:
    """Counts of the worked example: condition, persona, question_id, hits, total."""
    return pl.read_csv(Path(__file__).parents[1] / "examples" / "leakage_cells.csv")


@pytest.fixture(scope="session")
def bystanders() -> tuple[str, ...]:
    """The seven bystanders of the worked example."""
    return (
        "software_engineer", "kindergarten_teacher", "medical_doctor", "comedian", "police_officer",
        "villain", "zelthari_scholar",
    )  # fmt: skip
