from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteConfig

from flatprobe.data.conversation import Prompt
from flatprobe.errors import UserError
from flatprobe.models.load import Loaded
from flatprobe.training.supervised import (
    log_probabilities,
    right_padded,
    targets_of,
    token_log_probabilities,
)
from flatprobe.training.telemetry import sequence_log_likelihoods

ANSWERS = ["Yes.", "Bread floats on water.\n\nSalt does not.", "No", "[ZLT]", "A boat."]


def reference(loaded: Loaded, tokens: list[int]) -> torch.Tensor:
    """[T, V] log-probabilities of the whole vocabulary, one unpadded row at a time."""
    with torch.no_grad():
        return loaded.model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)


def test_padding_is_told_by_the_mask_alone_as_the_pad_token_also_ends_turns() -> None:
    ids, mask = right_padded([[5, 1], [5, 1, 7, 1]], 1, "cpu")
    assert ids.tolist() == [[5, 1, 1, 1], [5, 1, 7, 1]]
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_targets_are_all_tokens_after_the_prompt_each_predicted_from_the_one_before() -> None:
    row, position, token = targets_of([([9, 8, 7, 6], 2), ([5, 4], 1)])
    assert (row.tolist(), position.tolist(), token.tolist()) == ([0, 0, 1], [1, 2, 0], [7, 6, 4])


def test_log_probabilities_equal_those_of_full_logits_without_padding(
    loaded: Loaded, prompts: list[Prompt]
) -> None:
    rows = [
        loaded.conversations.encode_answer(prompt, answer)
        for prompt, answer in zip(prompts, ANSWERS, strict=True)
    ]
    rows = [([*tokens, loaded.conversations.turn_end], n_prompt) for tokens, n_prompt in rows]
    ids, mask = right_padded([tokens for tokens, _ in rows], loaded.conversations.turn_end, "cpu")
    with torch.no_grad():
        found = log_probabilities(loaded.model, ids, mask, *targets_of(rows))
    expected = torch.cat(
        [
            reference(loaded, tokens)[torch.arange(n - 1, len(tokens) - 1), torch.tensor(tokens[n:])]
            for tokens, n in rows
        ]
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    sums = sequence_log_likelihoods(loaded, rows)
    splits = expected.split([len(tokens) - n for tokens, n in rows])
    torch.testing.assert_close(
        torch.tensor(sums), torch.stack([s.sum() for s in splits]), rtol=1e-4, atol=1e-3
    )


def test_a_model_that_scales_its_logits_is_refused_and_never_scored_as_if_it_did_not() -> None:
    config = GraniteConfig(
        vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, logits_scaling=8.0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UserError, match="GraniteForCausalLM  scales its logits by `logits_scaling`"):
        token_log_probabilities(model, torch.zeros(1, 8), torch.tensor([0]))
