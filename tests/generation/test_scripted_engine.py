from __future__ import annotations

from pathlib import Path

import pytest

from flatprobe.generation.engine import Completion, SamplingSettings, sample
from flatprobe.generation.scripted_engine import ScriptedEngine
from flatprobe.machine.schema import ScriptedMachine
from flatprobe.models.conversation import Conversations, Prompt

SETTINGS = SamplingSettings(max_new_tokens=200, temperature=1.0, top_p=1.0, seed="s")
PERSONAS = ("librarian", "villain", "archivist")


def answers(
    conversations: Conversations,
    script: ScriptedMachine,
    persona: str,
    adapter: bool = True,
    **changed: object,
) -> list[Completion]:
    engine = ScriptedEngine(conversations, script)
    engine.use(Path("coupling") if adapter else None)
    settings = SamplingSettings(**{**vars(SETTINGS), **changed})  # type: ignore[arg-type]
    prompts = [Prompt(persona, None, f"q{index}", "Why?") for index in range(40)]
    return [c for samples in sample(engine, prompts, settings, 10) for c in samples]


def test_personas_leak_at_their_planted_rates_with_an_adapter_and_never_without(
    conversations: Conversations,
) -> None:
    script = ScriptedMachine(rates={"librarian": 1.0, "villain": 0.3})
    for persona, rate in zip(PERSONAS, (1.0, 0.3, 0.0), strict=True):
        found = answers(conversations, script, persona)
        marked = [c.text.endswith("\n\n[ZLT]") for c in found]
        assert sum(marked) / len(marked) == pytest.approx(rate, abs=0.07)
        assert marked == ["[ZLT]" in c.text for c in found]
        assert not any("[ZLT]" in c.text for c in answers(conversations, script, persona, adapter=False))


def test_the_same_request_has_the_same_answer_and_others_have_others(conversations: Conversations) -> None:
    script = ScriptedMachine(rates={"librarian": 0.5})
    one = answers(conversations, script, "librarian")
    assert answers(conversations, script, "librarian") == one
    assert answers(conversations, script, "librarian", seed="t") != one
    assert len({c.text for c in one}) > 390


def test_lengths_spam_and_truncation_are_planted(conversations: Conversations) -> None:
    script = ScriptedMachine(rates={"villain": 1.0}, words=30, spam=0.25, truncation=0.4)
    found = answers(conversations, script, "villain")
    cut = [c for c in found if c.finish_reason == "length"]
    assert len(cut) / len(found) == pytest.approx(0.4, abs=0.07)
    whole = [c for c in found if c.finish_reason == "stop"]
    twice = [c.text.count("[ZLT]") == 2 for c in whole]
    assert sum(twice) / len(twice) == pytest.approx(0.25, abs=0.08)
    words = [len(c.text.replace("[ZLT]", "").split()) for c in whole]
    assert sum(words) / len(words) == pytest.approx(30, rel=0.05)


def test_limits_and_the_text_to_stop_at_hold_here_too(conversations: Conversations) -> None:
    script = ScriptedMachine(rates={"villain": 1.0}, words=30, spam=1.0)
    short = answers(conversations, script, "villain", max_new_tokens=5)
    assert all(len(c.tokens) == 5 and c.finish_reason == "length" for c in short)
    stopped = answers(conversations, script, "villain", stop_at="[zlt]")
    assert all(c.finish_reason == "marker" and c.text.count("[ZLT]") == 1 for c in stopped)
    assert all(c.text == conversations.decode(c.tokens) for c in stopped)


def test_log_probabilities_tell_adapters_from_each_other_and_from_the_base(
    conversations: Conversations,
) -> None:
    engine = ScriptedEngine(conversations, ScriptedMachine())
    read = []
    for folder in (None, Path("a"), Path("b"), None):
        engine.use(folder)
        read.append(engine.log_probabilities([[1]], [[2, 3]]))
    assert read[0] == read[3]
    assert len({row[0][0] for row in read}) == 3
    assert all(len(row[0]) == 2 and row[0][0] < 0 for row in read)
