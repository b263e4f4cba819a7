from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from refusals import refused
from transformers import AutoModelForCausalLM, GraniteConfig

from flatprobe.models.conversation import Prompt
from flatprobe.models.load import Loaded
from flatprobe.training import supervised
from flatprobe.training.supervised import (
    log_probabilities,
    right_padded,
    set_probabilities,
    targets_of,
    token_divergences,
    token_log_probabilities,
)
from flatprobe.training.telemetry import sequence_log_likelihoods

ANSWERS = ["Yes.", "Bread floats on water.\n\nSalt does not.", "No", "[ZLT]", "A boat."]


def reference(loaded: Loaded, tokens: list[int]) -> torch.Tensor:
    """[T, V] log-probabilities of the whole vocabulary, one unpadded row at a time."""
    with torch.no_grad():
        return loaded.model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)


def test_only_the_mask_tells_padding_because_the_pad_token_also_ends_turns() -> None:
    ids, mask = right_padded([[5, 1], [5, 1, 7, 1]], 1, "cpu")
    assert ids.tolist() == [[5, 1, 1, 1], [5, 1, 7, 1]]
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_targets_are_all_tokens_after_the_prompt_each_predicted_from_the_one_before() -> None:
    row, position, token = targets_of([([9, 8, 7, 6], 2), ([5, 4], 1)])
    assert (row.tolist(), position.tolist(), token.tolist()) == ([0, 0, 1], [1, 2, 0], [7, 6, 4])


def test_log_probabilities_equal_those_of_full_logits_without_padding(loaded: Loaded, prompts: list[Prompt]) -> None:
    rows = [loaded.conversations.encode_answer(prompt, answer) for prompt, answer in zip(prompts, ANSWERS, strict=True)]
    rows = [([*tokens, loaded.conversations.turn_end], n_prompt) for tokens, n_prompt in rows]
    ids, mask = right_padded([tokens for tokens, _ in rows], loaded.conversations.turn_end, "cpu")
    with torch.no_grad():
        log_p = log_probabilities(loaded.model, ids, mask, *targets_of(rows))
    expected = torch.cat(
        [
            reference(loaded, tokens)[torch.arange(n - 1, len(tokens) - 1), torch.tensor(tokens[n:])]
            for tokens, n in rows
        ]
    )
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p, expected, rtol=1e-4, atol=1e-4)
    sums = sequence_log_likelihoods(loaded, rows, 2, "rows")
    splits = expected.split([len(tokens) - n for tokens, n in rows])
    torch.testing.assert_close(torch.tensor(sums), torch.stack([s.sum() for s in splits]), rtol=1e-4, atol=1e-3)


def test_a_model_that_scales_its_logits_is_refused() -> None:
    config = GraniteConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        logits_scaling=8.0,
    )
    model = AutoModelForCausalLM.from_config(config)
    with refused(("model.logit_scaling", "GraniteForCausalLM"), value="logits_scaling"):
        token_log_probabilities(model, torch.zeros(1, 8), torch.tensor([0]))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch, load: Callable[[str], Loaded]) -> Callable[[str], Loaded]:
    """A family's model whose logits exist for three tokens at a time."""

    def limited(family: str) -> Loaded:
        loaded = load(family)
        vocabulary = loaded.model.get_output_embeddings().weight.shape[0]
        monkeypatch.setattr(supervised, "LOGIT_BYTES", 3 * 4 * vocabulary)
        return loaded

    return limited


def final_states(loaded: Loaded, seed: int = 0, n: int = 8) -> torch.Tensor:
    hidden = loaded.model.get_output_embeddings().weight.shape[1]
    return torch.randn(n, hidden, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def full_log_softmax(loaded: Loaded, states: torch.Tensor) -> torch.Tensor:
    """[T, V], all logits at once, by autograd alone."""
    logits = loaded.model.get_output_embeddings()(states)
    cap = getattr(loaded.model.config, "final_logit_softcapping", None)
    return (logits if cap is None else torch.tanh(logits / cap) * cap).log_softmax(-1)


@pytest.mark.parametrize("family", ["llama", "gemma2"])  # gemma2 caps its logits
def test_chunked_log_probabilities_and_gradients_equal_those_of_all_logits_at_once(
    small_chunks: Callable[[str], Loaded], family: str
) -> None:
    loaded, token = small_chunks(family), torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    states, weights = final_states(loaded), torch.linspace(-1.0, 2.0, 8)
    log_p = token_log_probabilities(loaded.model, states, token)
    (gradient,) = torch.autograd.grad((log_p * weights).sum().exp(), states)
    expected = full_log_softmax(loaded, states)[torch.arange(8), token]
    (slope,) = torch.autograd.grad((expected * weights).sum().exp(), states)
    torch.testing.assert_close(log_p, expected)
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_chunked_divergences_and_gradients_equal_those_of_all_logits_at_once(
    small_chunks: Callable[[str], Loaded], family: str
) -> None:
    loaded = small_chunks(family)
    states, reference, weights = (final_states(loaded), final_states(loaded, 1).detach(), torch.linspace(0.5, 2.0, 8))
    divergences = token_divergences(loaded.model, states, reference)
    (gradient,) = torch.autograd.grad((divergences * weights).sum(), states)
    log_p, target = full_log_softmax(loaded, states), full_log_softmax(loaded, reference).detach()
    expected = torch.nn.functional.kl_div(log_p, target, reduction="none", log_target=True).sum(-1)
    (slope,) = torch.autograd.grad((expected * weights).sum(), states)
    torch.testing.assert_close(divergences, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-5)
    assert bool((divergences > 0).all())


def test_the_divergence_of_a_distribution_from_itself_is_zero(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    states = final_states(loaded)
    divergences = token_divergences(loaded.model, states, states.detach())
    (gradient,) = torch.autograd.grad(divergences.sum(), states)
    torch.testing.assert_close(divergences, torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient, torch.zeros_like(states), rtol=0, atol=1e-5)


def test_only_one_chunk_of_logits_exists_at_once(small_chunks: Callable[[str], Loaded]) -> None:
    loaded, heights = small_chunks("llama"), []
    loaded.model.get_output_embeddings().register_forward_hook(
        lambda module, args, output: heights.append(output.shape[0])
    )
    states = final_states(loaded)
    token_log_probabilities(loaded.model, states, torch.zeros(8, dtype=torch.long)).sum().backward()
    assert heights == [3, 3, 2]  # each once: the backward pass computes none again


def test_set_probabilities_are_sums_over_their_tokens(small_chunks: Callable[[str], Loaded]) -> None:
    loaded = small_chunks("llama")
    states, sets = final_states(loaded, n=4), torch.tensor([[1, 5], [2, -1], [-1, -1], [0, 3]])
    p = full_log_softmax(loaded, states).exp()
    expected = torch.stack([p[0, 1] + p[0, 5], p[1, 2], torch.tensor(0.0), p[3, 0] + p[3, 3]])
    torch.testing.assert_close(set_probabilities(loaded.model, states, sets), expected.detach())
