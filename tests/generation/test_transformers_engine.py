from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from flatprobe.data.conversation import Conversations, Prompt
from flatprobe.generation.engine import Completion, SamplingSettings, request_seed
from flatprobe.generation.stages import parity
from flatprobe.generation.transformers_engine import (
    TransformersEngine,
    draw,
    ends_of,
    left_padded,
    positions_of,
    shared_heads,
)
from flatprobe.models.load import Loaded

GREEDY = SamplingSettings(samples=1, max_new_tokens=24, temperature=0.0, top_p=1.0, seed="greedy")
WARM = SamplingSettings(samples=3, max_new_tokens=40, temperature=1.0, top_p=1.0, seed="warm")


def silent(done: int, total: int) -> None:
    """No one listens."""


def engine(loaded: Loaded, rows: int = 64) -> TransformersEngine:
    return TransformersEngine(loaded.model, loaded.conversations, loaded.device, rows, silent)


def ending_with(loaded: Loaded, token: int) -> Loaded:
    """The model with another token as its end of turn, so that answers of a random model do end."""
    conversations = Conversations(loaded.conversations.tokenizer, "tiny")
    conversations.__dict__["turn_end"] = token
    return Loaded(loaded.model, conversations, loaded.device)


def common_token(loaded: Loaded, prompts: list[Prompt], share: float) -> int:
    """A token that about this share of the sampled completions contains."""
    completions = [c for samples in engine(loaded).sample(prompts, WARM) for c in samples]
    seen = Counter(token for c in completions for token in set(c.tokens))
    return min(seen, key=lambda token: abs(seen[token] / len(completions) - share))


def test_greedy_answers_equal_those_of_generate(loaded: Loaded, prompts: list[Prompt]) -> None:
    """Windows of 16 tokens are shorter than the prompts, so sliding caches are covered too."""
    ours = engine(loaded).sample(prompts, GREEDY)
    end = loaded.conversations.turn_end
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        ids = torch.tensor([loaded.conversations.encode_prompt(prompt)])
        expected = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, eos_token_id=end
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        assert [*completion.tokens, end][: len(expected)] == expected
        assert completion.finish_reason == ("stop" if end in expected else "length")


def test_parity_with_generate_is_complete_and_a_changed_engine_is_noticed(
    loaded: Loaded, prompts: list[Prompt]
) -> None:
    found = parity(engine(loaded), loaded, prompts)
    assert found["agreed"] == found["tokens"] > 0

    class Broken(TransformersEngine):
        def sample(self, prompts: list[Prompt], settings: SamplingSettings) -> list[list[Completion]]:  # type: ignore[override]
            whole = super().sample(prompts, settings)
            return [
                [Completion(c.text, (*c.tokens[:6], 7, *c.tokens[7:]), c.finish_reason)] for (c,) in whole
            ]

    broken = Broken(loaded.model, loaded.conversations, loaded.device, 8, silent)
    counts = parity(broken, loaded, prompts)
    assert counts["tokens"] == found["tokens"]
    assert counts["agreed"] <= 6 * len(prompts)


def test_parity_is_not_disturbed_by_the_checkpoint_s_own_generation_settings(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    loaded = load("qwen2")
    own = loaded.model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size = 1.3, 2
    with torch.no_grad():
        ids = torch.tensor([loaded.conversations.encode_prompt(prompts[0])])
        disturbed = loaded.model.generate(ids, do_sample=False, max_new_tokens=16)[0, ids.shape[1] :].tolist()
    ((ours,),) = engine(loaded).sample(prompts[:1], GREEDY)
    assert list(ours.tokens[:16]) != disturbed  # the settings do matter
    counts = parity(engine(loaded), loaded, prompts)
    assert counts["agreed"] == counts["tokens"]
    assert loaded.model.generation_config is own and own.repetition_penalty == 1.3


def test_parity_counts_an_end_that_only_one_side_has(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    loaded = load("llama")

    class Cut(TransformersEngine):
        def sample(self, prompts: list[Prompt], settings: SamplingSettings) -> list[list[Completion]]:  # type: ignore[override]
            return [[Completion("", c.tokens[:3], "stop")] for (c,) in super().sample(prompts, settings)]

    cut = Cut(loaded.model, loaded.conversations, loaded.device, 8, silent)
    assert parity(cut, loaded, prompts)["agreed"] == 3 * len(prompts)


@pytest.mark.parametrize("as_list", [False, True])
def test_an_answer_ends_at_the_model_s_own_end_of_sequence_too(
    load: Callable[[str], Loaded], prompts: list[Prompt], as_list: bool
) -> None:
    loaded = load("llama")
    unended = engine(loaded).sample(prompts, WARM)
    own = common_token(loaded, prompts, share=0.5)
    turn_end = loaded.conversations.turn_end
    loaded.model.generation_config.eos_token_id = [turn_end, own] if as_list else own
    assert ends_of(loaded.model, loaded.conversations) == {own, turn_end}
    ended = engine(loaded).sample(prompts, WARM)
    stopped = 0
    for before, after in zip(unended, ended, strict=True):
        for long, short in zip(before, after, strict=True):
            if own in long.tokens:
                stopped += 1
                assert (short.tokens, short.finish_reason) == (
                    long.tokens[: long.tokens.index(own)],
                    "stop",
                )
    assert stopped > 0


def test_a_model_without_an_end_of_sequence_ends_at_the_end_of_turn(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    loaded.model.generation_config.eos_token_id = None
    assert ends_of(loaded.model, loaded.conversations) == {loaded.conversations.turn_end}


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_completions_do_not_depend_on_batch_size_order_or_company(
    load: Callable[[str], Loaded], prompts: list[Prompt], family: str
) -> None:
    plain = load(family)
    loaded = ending_with(plain, common_token(plain, prompts, share=0.5))
    whole = engine(loaded, rows=64).sample(prompts, WARM)
    reasons = {completion.finish_reason for samples in whole for completion in samples}
    assert reasons == {"stop", "length"}  # rows leave the batch at different times
    assert engine(loaded, rows=1).sample(prompts, WARM) == whole
    assert engine(loaded, rows=7).sample(prompts[::-1], WARM) == whole[::-1]
    assert engine(loaded).sample(prompts[1:2], WARM) == whole[1:2]


def test_more_samples_leave_the_first_ones_as_they_are(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    few = engine(load("qwen2")).sample(prompts, SamplingSettings(2, 12, 1.0, 1.0, "warm"))
    many = engine(load("qwen2")).sample(prompts, SamplingSettings(4, 12, 1.0, 1.0, "warm"))
    assert [samples[:2] for samples in many] == few
    assert len({c.tokens for samples in many for c in samples}) == 4 * len(prompts)


def test_streams_differ_by_stage_persona_question_and_sample_and_are_the_same_everywhere() -> None:
    prompt = Prompt("villain", None, "q1", "Why?")
    other = [Prompt("comedian", None, "q1", "Why?"), Prompt("villain", None, "q2", "Why?")]
    seeds = {request_seed("a", prompt, 0), request_seed("b", prompt, 0), request_seed("a", prompt, 1)}
    seeds |= {request_seed("a", p, 0) for p in other}
    assert len(seeds) == 5
    assert request_seed("a", prompt, 0) == 10557385369562081474  # a change here changes every sampled answer


def test_an_answer_stops_before_the_first_end_of_turn_and_not_after_it(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    plain = load("llama")
    unended = engine(plain).sample(prompts, WARM)
    end = common_token(plain, prompts, share=0.5)
    for before, after in zip(unended, engine(ending_with(plain, end)).sample(prompts, WARM), strict=True):
        for long, short in zip(before, after, strict=True):
            if end in long.tokens:
                assert short.tokens == long.tokens[: long.tokens.index(end)]
                assert short.finish_reason == "stop"
            else:  # what ended a turn before may be followed by more now
                assert short.tokens[: len(long.tokens)] == long.tokens
            assert short.text == plain.conversations.decode(short.tokens)


@pytest.mark.parametrize("limit", [1, 2, 33])
def test_no_answer_is_longer_than_the_limit(
    load: Callable[[str], Loaded], prompts: list[Prompt], limit: int
) -> None:
    (completion,), *_ = engine(load("mistral")).sample(prompts, SamplingSettings(1, limit, 1.0, 1.0, "s"))
    assert len(completion.tokens) == limit
    assert completion.finish_reason == "length"


def test_an_end_of_turn_at_the_last_step_is_a_stop(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    plain = load("llama")
    ((whole,),) = engine(plain).sample(prompts[:1], GREEDY)
    place = next(i for i in range(2, 24) if whole.tokens[i] not in whole.tokens[:i])
    loaded = ending_with(plain, whole.tokens[place])
    settings_ = SamplingSettings(1, place + 1, 0.0, 1.0, "s")
    ((completion,),) = engine(loaded).sample(prompts[:1], settings_)
    assert completion == Completion(
        plain.conversations.decode(whole.tokens[:place]), whole.tokens[:place], "stop"
    )


def test_progress_ends_at_the_number_of_completions(
    load: Callable[[str], Loaded], prompts: list[Prompt]
) -> None:
    loaded, reports = load("llama"), []
    own = TransformersEngine(
        loaded.model,
        loaded.conversations,
        loaded.device,
        6,
        lambda done, total: reports.append((done, total)),
    )
    own.sample(prompts, SamplingSettings(3, 2, 1.0, 1.0, "s"))
    assert reports == [(6, 15), (12, 15), (15, 15)]


def test_prompts_are_padded_on_the_left_and_positions_count_real_tokens() -> None:
    ids, mask = left_padded([[5, 1], [5, 1, 7, 1]], 1, "cpu")
    assert ids.tolist() == [[1, 1, 5, 1], [5, 1, 7, 1]]
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert positions_of(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


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
    kept = p * n > 5
    expected = (p[kept] / p[kept].sum()).numpy()
    for counts in (ours, theirs):
        observed = counts[kept].numpy()
        assert chisquare(observed, expected * observed.sum()).pvalue > 0.01
    assert ours[~kept].sum() <= 5


def test_a_draw_is_the_inverse_of_the_cumulative_distribution() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    for u, token in [(0.0, 0), (0.49, 0), (0.5, 1), (0.74, 1), (0.75, 2), (0.99, 2)]:
        assert draw(logits, torch.tensor([u]), 1.0, 1.0).tolist() == [token]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.3, {1}), (0.5, {1}), (0.51, {1, 3}), (0.8, {1, 3}), (0.82, {0, 1, 3}), (1.0, {0, 1, 2, 3})],
)
def test_top_p_keeps_the_smallest_set_with_at_least_that_mass(top_p: float, kept: set[int]) -> None:
    logits = torch.tensor([0.125, 0.5, 0.0625, 0.3125]).log()
    uniform = torch.linspace(0, 0.9999, 400)
    drawn = draw(logits.expand(400, -1), uniform, 1.0, top_p)
    assert set(drawn.tolist()) == kept
    share = float((drawn == 1).float().mean())
    assert share == pytest.approx(0.5 / sum([0.125, 0.5, 0.0625, 0.3125][i] for i in kept), abs=0.01)


@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40), st.sampled_from([0.5, 0.9, 1.0]))
@settings(max_examples=200, deadline=None)
def test_the_largest_uniform_number_still_draws_a_token_that_has_mass(
    values: list[float], top_p: float
) -> None:
    logits = torch.tensor([[*values, -300.0]])  # the last token has none
    largest = torch.tensor([np.nextafter(np.float32(1), np.float32(0))])
    token = int(draw(logits, largest, 1.0, top_p))
    assert logits.softmax(-1)[0, token] > 0


def test_bfloat16_logits_are_drawn_from_in_float32() -> None:
    logits = torch.zeros(1, 5000, dtype=torch.bfloat16)
    drawn = draw(logits.expand(200, -1), torch.linspace(0, 0.9999, 200), 1.0, 1.0)
    assert (drawn.float() - torch.linspace(0, 0.9999, 200) * 5000).abs().max() <= 2


def test_temperature_zero_takes_the_likeliest_token_whatever_the_stream() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]]).expand(3, -1)
    assert draw(logits, torch.tensor([0.0, 0.5, 0.99]), 0.0, 0.5).tolist() == [1, 1, 1]


def test_heads_are_what_a_groups_prompts_begin_with_and_leave_a_token_over() -> None:
    rows = [[1, 2, 3, 4], [1, 2, 5], [1, 9, 9, 9], [1, 9, 9, 9]]
    assert shared_heads(rows, ["a", "a", "b", "b"]) == [2, 2, 3, 3]
    assert shared_heads([[1, 2], [3, 4]], ["a", "a"]) == [0, 0]


def test_a_shared_head_gives_the_same_next_token_distribution_as_the_whole_prompt(
    load: Callable[[str], Loaded],
) -> None:
    loaded = load("llama")
    engine = TransformersEngine(
        loaded.model, loaded.conversations, loaded.device, 8, lambda done, total: None
    )
    rows = [[5, 6, 7, 8, 9], [5, 6, 7, 3], [4, 4, 2, 7, 1, 1, 9]]
    with torch.inference_mode():
        _, _, shared = engine._prefill(rows, shared_heads(rows, ["a", "a", "b"]))
        _, _, whole = engine._prefill(rows, [0, 0, 0])
        alone = torch.stack([loaded.model(torch.tensor([row])).logits[0, -1] for row in rows])
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)
