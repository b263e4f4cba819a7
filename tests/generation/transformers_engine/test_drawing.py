from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from flatprobe.generation.transformers_engine import drawing
from flatprobe.generation.transformers_engine.drawing import draw


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_draws_follow_the_distribution_of_torch_multinomial(temperature: float) -> None:
    logits = torch.tensor([2.0, 0.5, -1.0, 1.2, -30.0, 0.0])
    n = 40_000
    uniform = torch.from_numpy(np.random.default_rng(1).random(n, dtype=np.float32))
    ours = torch.bincount(draw(logits.expand(n, -1), uniform, temperature, 1.0), minlength=6)
    p = (logits.double() / temperature).softmax(-1)
    theirs = torch.bincount(
        torch.multinomial(p, n, replacement=True, generator=torch.Generator().manual_seed(2)), minlength=6
    )
    frequent = p * n > 5
    expected = (p[frequent] / p[frequent].sum()).numpy()
    for counts in (ours, theirs):
        observed = counts[frequent].numpy()
        assert chisquare(observed, expected * observed.sum()).pvalue > 0.01
    assert ours[~frequent].sum() <= 5


def test_a_draw_is_the_inverse_of_the_cumulative_distribution() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    for u, token in [(0.0, 0), (0.49, 0), (0.5, 1), (0.74, 1), (0.75, 2), (0.99, 2)]:
        assert draw(logits, torch.tensor([u]), 1.0, 1.0).tolist() == [token]


@pytest.mark.parametrize(
    ("top_p", "nucleus"),
    [(0.3, {1}), (0.5, {1}), (0.51, {1, 3}), (0.8, {1, 3}), (0.82, {0, 1, 3}), (1.0, {0, 1, 2, 3})],
)
def test_top_p_keeps_the_smallest_set_with_at_least_that_mass(top_p: float, nucleus: set[int]) -> None:
    logits = torch.tensor([0.125, 0.5, 0.0625, 0.3125]).log()
    uniform = torch.linspace(0, 0.9999, 400)
    drawn = draw(logits.expand(400, -1), uniform, 1.0, top_p)
    assert set(drawn.tolist()) == nucleus
    share = float((drawn == 1).float().mean())
    assert share == pytest.approx(0.5 / sum([0.125, 0.5, 0.0625, 0.3125][i] for i in nucleus), abs=0.01)


@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40), st.sampled_from([0.5, 0.9, 1.0]))
@settings(max_examples=200, deadline=None)
def test_the_largest_uniform_number_draws_a_token_with_mass(values: list[float], top_p: float) -> None:
    logits = torch.tensor([[*values, -300.0]])  # the last token has no mass
    largest = torch.tensor([np.nextafter(np.float32(1), np.float32(0))])
    token = int(draw(logits, largest, 1.0, top_p))
    assert logits.softmax(-1)[0, token] > 0


def test_draws_from_bfloat16_logits_are_computed_in_float32() -> None:
    logits = torch.zeros(1, 5000, dtype=torch.bfloat16)
    drawn = draw(logits.expand(200, -1), torch.linspace(0, 0.9999, 200), 1.0, 1.0)
    assert (drawn.float() - torch.linspace(0, 0.9999, 200) * 5000).abs().max() <= 2


def test_temperature_zero_takes_the_most_likely_token() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]]).expand(3, -1)
    assert draw(logits, torch.tensor([0.0, 0.5, 0.99]), 0.0, 0.5).tolist() == [1, 1, 1]


@pytest.mark.parametrize("vocabulary", [5, 256, 257, 1000])
def test_for_any_vocabulary_size_draws_equal_those_of_the_whole_cumulative_sum(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 3 * torch.randn(400, vocabulary, generator=generator)
    uniform = torch.rand(400, generator=generator)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    expected = torch.searchsorted(cumulative, uniform.double().unsqueeze(-1), right=True).squeeze(-1)
    drawn = draw(logits, uniform, 1.0, 1.0)
    assert int((drawn != expected).sum()) <= 2  # where rounding decides


def test_drawing_rows_in_parts_gives_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(37, 300, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(37, generator=torch.Generator().manual_seed(1))
    whole = draw(logits, uniform, 1.0, 0.9)
    monkeypatch.setattr(drawing, "VALUES", 5 * 300)
    assert draw(logits, uniform, 1.0, 0.9).tolist() == whole.tolist()
