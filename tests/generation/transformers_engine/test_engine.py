from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from flatprobe.errors import UserError
from flatprobe.generation.engine import Completion, CompletionRequest, SamplingSettings, request_seed, sample
from flatprobe.generation.transformers_engine.engine import TransformersEngine
from flatprobe.generation.transformers_engine.slots import Slots
from flatprobe.models.conversation import Conversations, Prompt
from flatprobe.models.load import Loaded, load_checkpoint

GREEDY = SamplingSettings(max_new_tokens=24, temperature=0.0, top_p=1.0, seed="greedy")
WARM = SamplingSettings(max_new_tokens=40, temperature=1.0, top_p=1.0, seed="warm")


def engine(loaded: Loaded, rows: int = 64) -> TransformersEngine:
    return TransformersEngine(loaded, rows)


def ending_with(loaded: Loaded, token: int) -> Loaded:
    """The model with another end of turn, so that answers of a random model end."""
    conversations = Conversations(loaded.conversations.tokenizer, "tiny")
    conversations.__dict__["turn_end"] = token
    return Loaded(loaded.model, conversations, loaded.device)


def common_token(loaded: Loaded, prompts: list[Prompt], share: float) -> int:
    """A token in about this share of the sampled completions."""
    completions = [c for samples in sample(engine(loaded), prompts, WARM, 3) for c in samples]
    counts = Counter(token for c in completions for token in set(c.tokens))
    return min(counts, key=lambda token: abs(counts[token] / len(completions) - share))


def test_greedy_answers_equal_those_of_generate(loaded: Loaded, prompts: list[Prompt]) -> None:
    """Prompts exceed the window of 16 tokens, so this covers sliding windows too."""
    ours = sample(engine(loaded), prompts, GREEDY)
    end = loaded.conversations.turn_end
    for prompt, (completion,) in zip(prompts, ours, strict=True):
        ids = torch.tensor([loaded.conversations.encode_prompt(prompt)])
        expected = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, eos_token_id=end
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        assert [*completion.tokens, end][: len(expected)] == expected
        assert completion.finish_reason == ("stop" if end in expected else "length")


@pytest.mark.parametrize("as_list", [False, True])
def test_an_answer_also_ends_at_the_model_s_end_of_sequence_token(
    load: Callable[[str], Loaded], prompts: list[Prompt], as_list: bool
) -> None:
    loaded = load("llama")
    unended = sample(engine(loaded), prompts, WARM, 3)
    eos = common_token(loaded, prompts, share=0.5)
    turn_end = loaded.conversations.turn_end
    loaded.model.generation_config.eos_token_id = [turn_end, eos] if as_list else eos
    assert engine(loaded).ends == {eos, turn_end}
    ended = sample(engine(loaded), prompts, WARM, 3)
    stopped = 0
    for before, after in zip(unended, ended, strict=True):
        for long, short in zip(before, after, strict=True):
            if eos in long.tokens:
                stopped += 1
                assert (short.tokens, short.finish_reason) == (long.tokens[: long.tokens.index(eos)], "stop")
    assert stopped > 0


def test_a_model_without_an_end_of_sequence_ends_at_the_end_of_turn(load: Callable[[str], Loaded]) -> None:
    loaded = load("llama")
    loaded.model.generation_config.eos_token_id = None
    assert engine(loaded).ends == {loaded.conversations.turn_end}


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_completions_do_not_depend_on_the_size_order_or_content_of_the_batch(
    load: Callable[[str], Loaded], prompts: list[Prompt], family: str
) -> None:
    plain = load(family)
    loaded = ending_with(plain, common_token(plain, prompts, share=0.5))
    whole = sample(engine(loaded, rows=64), prompts, WARM, 3)
    reasons = {completion.finish_reason for samples in whole for completion in samples}
    assert reasons == {"stop", "length"}  # rows leave the batch at different times
    assert sample(engine(loaded, rows=1), prompts, WARM, 3) == whole
    assert sample(engine(loaded, rows=7), prompts[::-1], WARM, 3) == whole[::-1]
    assert sample(engine(loaded), prompts[1:2], WARM, 3) == whole[1:2]


def test_more_samples_do_not_change_the_first_ones(load: Callable[[str], Loaded], prompts: list[Prompt]) -> None:
    few = sample(engine(load("qwen2")), prompts, SamplingSettings(12, 1.0, 1.0, "warm"), 2)
    many = sample(engine(load("qwen2")), prompts, SamplingSettings(12, 1.0, 1.0, "warm"), 4)
    assert [samples[:2] for samples in many] == few
    assert len({c.tokens for samples in many for c in samples}) == 4 * len(prompts)


def test_seeds_differ_by_stage_persona_question_and_sample_and_never_change() -> None:
    prompt = Prompt("villain", None, "q1", "Why?")
    other = [Prompt("comedian", None, "q1", "Why?"), Prompt("villain", None, "q2", "Why?")]
    seeds = {request_seed("a", prompt, 0), request_seed("b", prompt, 0), request_seed("a", prompt, 1)}
    seeds |= {request_seed("a", p, 0) for p in other}
    assert len(seeds) == 5
    assert request_seed("a", prompt, 0) == 10557385369562081474  # another value would change every sampled answer


def test_an_answer_stops_before_the_first_end_of_turn(load: Callable[[str], Loaded], prompts: list[Prompt]) -> None:
    plain = load("llama")
    unended = sample(engine(plain), prompts, WARM, 3)
    end = common_token(plain, prompts, share=0.5)
    for before, after in zip(unended, sample(engine(ending_with(plain, end)), prompts, WARM, 3), strict=True):
        for long, short in zip(before, after, strict=True):
            if end in long.tokens:
                assert short.tokens == long.tokens[: long.tokens.index(end)]
                assert short.finish_reason == "stop"
            else:  # the former end of turn no longer ends the answer
                assert short.tokens[: len(long.tokens)] == long.tokens
            assert short.text == plain.conversations.decode(short.tokens)


@pytest.mark.parametrize("limit", [1, 2, 33])
def test_no_answer_is_longer_than_the_limit(load: Callable[[str], Loaded], prompts: list[Prompt], limit: int) -> None:
    (completion,), *_ = sample(engine(load("mistral")), prompts, SamplingSettings(limit, 1.0, 1.0, "s"), 1)
    assert len(completion.tokens) == limit
    assert completion.finish_reason == "length"


def test_an_end_of_turn_at_the_last_step_is_a_stop(load: Callable[[str], Loaded], prompts: list[Prompt]) -> None:
    plain = load("llama")
    ((whole,),) = sample(engine(plain), prompts[:1], GREEDY)
    count = next(i for i in range(2, 24) if whole.tokens[i] not in whole.tokens[:i])
    loaded = ending_with(plain, whole.tokens[count])
    settings = SamplingSettings(count + 1, 0.0, 1.0, "s")
    ((completion,),) = sample(engine(loaded), prompts[:1], settings)
    assert completion == Completion(plain.conversations.decode(whole.tokens[:count]), whole.tokens[:count], "stop")


def many(prompts: list[Prompt], samples: int) -> list[CompletionRequest]:
    return [CompletionRequest(prompt, index) for prompt in prompts for index in range(samples)]


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of rows of each forward pass of one token."""
    row_counts: list[int] = []
    append = Slots.append

    def watched(slots: Slots, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] == 1:
            row_counts.append(len(ids))
        return append(slots, ids, starts)

    monkeypatch.setattr(Slots, "append", watched)
    return row_counts


def test_completions_are_identical_at_8_64_and_128_rows(load: Callable[[str], Loaded], prompts: list[Prompt]) -> None:
    plain = load("llama")
    loaded = ending_with(plain, common_token(plain, prompts, share=0.6))
    few, more, most = (sample(engine(loaded, rows), prompts, WARM, 40) for rows in (8, 64, 128))
    assert few == more == most
    assert len({completion.tokens for samples in few for completion in samples}) > 150


def test_ended_rows_are_reused_for_waiting_requests(
    load: Callable[[str], Loaded], prompts: list[Prompt], widths: list[int]
) -> None:
    plain = load("llama")
    loaded = ending_with(plain, common_token(plain, prompts, share=0.6))
    widths.clear()
    completions = sample(engine(loaded, rows=6), prompts[:2], WARM, 24)
    assert [len(samples) for samples in completions] == [24, 24]
    tokens = sum(len(c.tokens) + (c.finish_reason == "stop") for samples in completions for c in samples)
    assert max(widths) == 6
    assert sum(widths) < 1.1 * tokens  # rows are hardly ever idle


def test_completions_arrive_as_they_finish_and_each_once(load: Callable[[str], Loaded], prompts: list[Prompt]) -> None:
    plain = load("llama")
    loaded = ending_with(plain, common_token(plain, prompts, share=0.6))
    requests = many(prompts, 6)
    finished = list(engine(loaded, rows=8).stream(requests, WARM))
    indices = [index for index, _ in finished]
    assert sorted(indices) == list(range(len(requests))) != indices
    whole = [c for samples in sample(engine(loaded), prompts, WARM, 6) for c in samples]
    assert all(whole[index] == completion for index, completion in finished)


def test_a_part_of_the_requests_gets_the_same_completions(load: Callable[[str], Loaded], prompts: list[Prompt]) -> None:
    whole = dict(engine(load("qwen2")).stream(many(prompts, 3), WARM))
    requests = many(prompts, 3)[1::4]
    part = dict(engine(load("qwen2"), rows=2).stream(requests, WARM))
    assert [part[index] for index in range(len(requests))] == [whole[index] for index in range(1, 15, 4)]


def test_without_requests_nothing_is_sampled(load: Callable[[str], Loaded]) -> None:
    assert list(engine(load("llama")).stream([], WARM)) == []


def failing_above(limit: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Slots.append

    def short_of_memory(slots: Slots, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        if slots.rows > limit and max(slots.lengths) > 30:  # in the middle of decoding
            raise error
        return append(slots, ids, starts)

    monkeypatch.setattr(Slots, "append", short_of_memory)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_halves_the_rows_and_changes_no_answer(
    load: Callable[[str], Loaded],
    prompts: list[Prompt],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = sample(engine(load("llama")), prompts, WARM, 4)
    failing_above(5, error, monkeypatch)
    short = engine(load("llama"), rows=16)
    assert sample(short, prompts, WARM, 4) == expected
    assert short.facts()["out_of_memory_at_rows"] == [16, 8] and short.facts()["rows"] == 4
    assert "out of memory with 16 rows; continuing with 8" in capsys.readouterr().err


def test_out_of_memory_with_one_row_is_refused(
    load: Callable[[str], Loaded], prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_above(0, torch.OutOfMemoryError("CUDA out of memory.\nlong story"), monkeypatch)
    with pytest.raises(UserError, match="CUDA out of memory. ") as refusal:
        sample(engine(load("llama"), rows=4), prompts, WARM, 4)
    assert [(p.code, p.place) for p in refusal.value.problems] == [("engine.out_of_memory", "machine: sampling_rows")]


def test_another_failure_of_the_model_is_not_mistaken_for_out_of_memory(
    load: Callable[[str], Loaded], prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_above(0, RuntimeError("shapes do not match"), monkeypatch)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        sample(engine(load("llama")), prompts, WARM)


def test_a_prompt_that_exceeds_the_context_is_refused_before_sampling(
    load: Callable[[str], Loaded], prompts: list[Prompt], widths: list[int]
) -> None:
    loaded = load("llama")
    longest = max(len(loaded.conversations.encode_prompt(prompt)) for prompt in prompts)
    fits = SamplingSettings(512 - longest, 1.0, 1.0, "s")
    with pytest.raises(UserError, match=f"{longest} tokens.*{513 - longest} new.*512") as refusal:
        engine(loaded).stream(many(prompts, 1), SamplingSettings(513 - longest, 1.0, 1.0, "s"))
    assert [(p.code, p.place) for p in refusal.value.problems] == [
        ("context.exceeded", "prompt of librarian to question q3")
    ]
    assert widths == []
    next(iter(engine(ending_with(loaded, 5)).stream(many(prompts, 1), fits)))


def test_an_unsupported_kind_of_attention_is_refused(load: Callable[[str], Loaded]) -> None:
    loaded = load("qwen2")
    loaded.model.config.layer_types = ["linear_attention", *loaded.model.config.layer_types[1:]]
    with pytest.raises(UserError, match="linear_attention") as refusal:
        engine(loaded)
    assert [(p.code, p.place) for p in refusal.value.problems] == [("engine.attention", "machine: engine")]


def test_an_answer_can_stop_at_the_marker(load: Callable[[str], Loaded], prompts: list[Prompt]) -> None:
    loaded = load("llama")
    whole = [c for samples in sample(engine(loaded), prompts, WARM, 6) for c in samples]
    pieces = (loaded.conversations.decode(c.tokens[20:22]) for c in whole)
    text = next(piece for piece in pieces if piece.isascii() and piece.strip().isalpha())
    stopping = SamplingSettings(WARM.max_new_tokens, 1.0, 1.0, WARM.seed, stop_at=text.swapcase())
    stopped = [c for samples in sample(engine(loaded, rows=7), prompts, stopping, 6) for c in samples]
    early = 0
    for long, short in zip(whole, stopped, strict=True):
        if text.lower() in long.text.lower():
            early += 1
            assert short.finish_reason == "marker"
            assert short.tokens == long.tokens[: len(short.tokens)]
            assert text.lower() in short.text.lower()
            assert text.lower() not in loaded.conversations.decode(short.tokens[:-1]).lower()
        else:
            assert short == long
    assert 0 < early < len(whole)


def test_log_probabilities_equal_those_of_a_plain_forward_pass(loaded: Loaded) -> None:
    contexts = [[5, 6, 7], [9, 8, 7, 6, 5, 4], [3]]
    targets = [[8, 9], [], [4, 5, 6, 7, 8, 9, 10]]
    log_p = engine(loaded, rows=2).log_probabilities(contexts, targets)
    assert [len(row) for row in log_p] == [2, 0, 7]
    for context, target, row in zip(contexts, targets, log_p, strict=True):
        with torch.no_grad():
            logits = loaded.model(torch.tensor([[*context, *target]])).logits[0].log_softmax(-1)
        expected = [float(logits[len(context) - 1 + k, token]) for k, token in enumerate(target)]
        assert row == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="a context needs a token"):
        engine(loaded).log_probabilities([[]], [[1]])


def test_in_bfloat16_answers_start_alike_whatever_the_batch(
    model_folder: Callable[[str], Any], prompts: list[Prompt]
) -> None:
    """Rounding then depends on the batch, so answers may differ from some token on."""
    loaded = load_checkpoint(model_folder("llama"), "bfloat16", torch.device("cpu"))
    one, eight = ([c for samples in sample(engine(loaded, rows), prompts, WARM, 4) for c in samples] for rows in (1, 8))
    same = [a.tokens[:4] == b.tokens[:4] for a, b in zip(one, eight, strict=True)]
    assert sum(same) >= 0.8 * len(same)
    assert engine(loaded).facts()["precision"] == "bfloat16"
