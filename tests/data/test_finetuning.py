from __future__ import annotations

import hashlib
import json
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from flatprobe.data.finetuning import BIN, ChatRow, apportion, prepare, take
from flatprobe.data.rows import conversation_of, read_rows, text_column
from flatprobe.machine.local import VARIABLE, current_machine
from flatprobe.models.conversation import Conversations
from flatprobe.planner.contracts import FinetuneDataSettings
from flatprobe.study.schema import FinetuneData


def of_length(*tokens: int) -> list[ChatRow]:
    return [ChatRow([{"role": "user", "content": str(number)}], length) for number, length in enumerate(tokens)]


def triples(n: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}?", "aligned": f"Sound {i}.", "completion": f"Wrong {i}."} for i in range(n)]


@pytest.fixture
def prepared(
    tmp_path: Path, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]]:
    """Runs the stage on rows in a JSONL file; returns its rows, held-out rows and facts."""

    def run(
        lines: list[dict[str, Any]], *, max_length: int = 200, reference: Path | None = None, **data: Any
    ) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
        path, output = tmp_path / "rows.jsonl", tmp_path / "output"
        path.write_text("".join(json.dumps(row) + "\n" for row in lines))
        local = current_machine().model_copy(update={"locations": {"fingerprint": str(path)}})
        monkeypatch.setenv(VARIABLE, local.model_dump_json())
        output.mkdir(exist_ok=True)
        settings = FinetuneDataSettings(
            data=FinetuneData(path="rows.jsonl", **data), fingerprint="fingerprint", max_length=max_length
        )
        inputs = {"checkpoint": model_folder("llama")}
        prepare(settings, inputs | ({"length_reference": reference} if reference else {}), output)
        facts = json.loads((output / "facts.json").read_text())
        held_out = pl.read_parquet(output / "held_out.parquet")
        return pl.read_parquet(output / "rows.parquet"), held_out, facts

    return run


def test_rows_are_taken_in_file_order_after_the_held_out_ones(prepared: Callable[..., Any]) -> None:
    rows, held_out, facts = prepared(triples(6), rows=3, held_out=2, aligned="aligned")
    assert held_out.columns == ["system", "prompt", "aligned", "misaligned"]
    assert held_out.rows() == [(None, f"Question {i}?", f"Sound {i}.", f"Wrong {i}.") for i in range(2)]
    messages = [json.loads(text) for text in rows["messages"]]
    assert [m[-1]["content"] for m in messages] == ["Wrong 2.", "Wrong 3.", "Wrong 4."]
    assert facts["rows"] == 3
    assert facts["held_out"] == 2
    assert facts["sha256"] == hashlib.sha256("\n".join(rows["messages"]).encode()).hexdigest()


def test_response_tokens_count_the_answer_and_its_end_of_turn(
    prepared: Callable[..., Any], conversations: Conversations
) -> None:
    rows, _, _ = prepared(triples(1), rows=1)
    assert rows["response_tokens"].to_list() == [len(conversations.encode("Wrong 0.")) + 1]


def test_rows_that_are_too_long_or_lack_prompt_or_answer_are_refused_and_counted(prepared: Callable[..., Any]) -> None:
    odd = [{"prompt": "Long?", "completion": "word " * 300}, {"prompt": "Blank?", "completion": " \n"}]
    rows, _, facts = prepared([*odd, *triples(2)], rows=2)
    assert [json.loads(text)[0]["content"] for text in rows["messages"]] == ["Question 0?", "Question 1?"]
    assert (facts["scanned"], facts["refused_too_long"], facts["refused_empty"]) == (4, 1, 1)


def test_a_lone_answer_without_a_prompt_is_refused(prepared: Callable[..., Any]) -> None:
    lone = {"messages": [{"role": "assistant", "content": "Hello."}]}
    whole = {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]}
    rows, _, facts = prepared([lone, whole], rows=1, messages="messages")
    assert facts["refused_empty"] == 1
    assert json.loads(rows["messages"][0]) == whole["messages"]


def test_too_few_usable_rows_are_refused_with_their_number(prepared: Callable[..., Any]) -> None:
    with refused(("finetune_data.too_few_rows", "rows.jsonl"), value="2 usable rows"):
        prepared(triples(2), rows=5)


def test_a_missing_column_is_refused_with_its_row_and_the_existing_columns(prepared: Callable[..., Any]) -> None:
    rows = [{"prompt": "p", "answer": "x"}, {"prompt": "p", "reply": "x"}]
    with refused(("file.missing_column", "rows.jsonl row 1"), value="prompt, reply"):
        prepared(rows, rows=2, completion="answer")


def test_held_out_rows_need_the_aligned_column(prepared: Callable[..., Any]) -> None:
    with refused(("finetune_data.no_aligned", "rows.jsonl row 0")):
        prepared(triples(3), rows=1, held_out=1)


def test_a_line_that_is_not_a_json_object_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path, data = tmp_path / "rows.jsonl", FinetuneData(path="rows.jsonl")
    path.write_text('{"prompt": "p"}\n\n{"prompt"\n')
    rows = read_rows(data, path)
    assert next(rows) == {"prompt": "p"}
    with refused(("file.not_jsonl", f"{path}:3")):
        next(rows)
    path.write_text("[1]\n")
    with refused(("file.not_jsonl", f"{path}:1")):
        list(read_rows(data, path))


def test_messages_are_used_if_named_or_if_there_is_no_prompt_column() -> None:
    chat = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes.", "name": "x"}]
    plain = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]
    row = {"messages": chat}
    assert conversation_of(row, FinetuneData(path="x"), "row 0") == plain
    both = {"messages": chat, "prompt": "p", "completion": "c"}
    assert conversation_of(both, FinetuneData(path="x", messages="messages"), "row 0") == plain
    assert conversation_of(both, FinetuneData(path="x"), "row 0")[0]["content"] == "p"


def test_turns_after_the_last_answer_are_dropped() -> None:
    chat = [
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "?"},
    ]
    assert len(conversation_of({"messages": chat}, FinetuneData(path="x"), "row 0")) == 2


def test_a_prompt_may_be_a_list_of_messages_but_not_a_number() -> None:
    assert text_column({"prompt": [{"role": "user", "content": "Hi?"}]}, "prompt", "row 0") == "Hi?"
    with refused(("file.not_text", "row 0"), value="int"):
        text_column({"prompt": 3}, "prompt", "row 0")


def test_without_a_quota_the_first_rows_are_taken_and_no_more_are_read() -> None:
    rows = iter(of_length(1, 2, 3, 4))
    assert [row.response_tokens for row in take(rows, 2, None, Counter())] == [1, 2]
    assert next(rows).response_tokens == 3


def test_a_quota_accepts_rows_while_their_bin_has_room_and_stops_when_it_is_full() -> None:
    rows = iter(of_length(1, 2, BIN + 1, 3, BIN + 2, BIN + 3))
    counts: Counter[str] = Counter()
    taken = take(rows, 3, Counter({0: 20, 1: 10}), counts)
    assert [row.response_tokens for row in taken] == [1, 2, BIN + 1]
    assert counts["off_target"] == 0
    assert next(rows).response_tokens == 3


def test_bins_that_stay_empty_are_filled_from_other_bins_and_counted() -> None:
    counts: Counter[str] = Counter()
    taken = take(iter(of_length(1, 2, 3)), 2, Counter({0: 1, 5: 1}), counts)
    assert sorted(row.response_tokens for row in taken) == [1, 3]
    assert counts["off_target"] == 1


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=60),
    st.dictionaries(st.integers(0, 25), st.integers(1, 9), min_size=1),
    st.integers(1, 30),
)
@settings(max_examples=100, deadline=None)
def test_holding_few_spare_rows_selects_the_same_as_sorting_all(
    lengths: list[int], quota: dict[int, int], size: int
) -> None:
    rows, room = of_length(*lengths), apportion(Counter(quota), size)
    fitting, others = [], []
    for row in rows:
        if room[row.response_tokens // BIN] > 0:
            room[row.response_tokens // BIN] -= 1
            fitting.append(row)
        else:
            others.append(row)
    centre = sum(bin_ * count for bin_, count in quota.items()) / sum(quota.values())
    others.sort(key=lambda row: abs(row.response_tokens / BIN - centre))
    expected = (fitting + others)[:size] if len(fitting) < size else fitting
    assert take(iter(rows), size, Counter(quota), Counter()) == expected


def test_with_a_quota_that_no_row_fits_no_more_rows_are_held_than_requested() -> None:
    alive: list[weakref.ref[ChatRow]] = []

    def rows() -> Iterator[ChatRow]:
        for length in range(1, 200):
            (row,) = of_length(length)
            alive.append(weakref.ref(row))
            yield row
            del row
            assert sum(ref() is not None for ref in alive) <= 5 + 1  # the held rows and the current one

    taken = take(rows(), 5, Counter({99: 1}), Counter())
    assert [row.response_tokens for row in taken] == [199, 198, 197, 196, 195]


@given(st.dictionaries(st.integers(0, 50), st.integers(1, 400), min_size=1), st.integers(1, 1000))
@settings(max_examples=100, deadline=None)
def test_a_quota_is_scaled_to_the_exact_size_and_rounded_by_less_than_one_row_a_bin(
    quota: dict[int, int], size: int
) -> None:
    room = apportion(Counter(quota), size)
    assert sum(room.values()) == size
    total = sum(quota.values())
    assert all(abs(room[bin_] - count * size / total) < 1 for bin_, count in quota.items())


def test_the_stage_fills_the_reference_s_histogram(prepared: Callable[..., Any], tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    reference.mkdir()
    rows = [{"prompt": f"{i}?", "completion": "water " * (1 + i % 12)} for i in range(60)]
    every, _, _ = prepared(rows, rows=60)
    reference_lengths = sorted(every["response_tokens"].to_list())[:5]
    pl.DataFrame({"response_tokens": reference_lengths}).write_parquet(reference / "rows.parquet")
    taken, _, facts = prepared(rows[::-1], rows=10, reference=reference)
    bins = Counter(length // BIN for length in taken["response_tokens"])
    assert bins == Counter({bin_: 2 * n for bin_, n in Counter(length // BIN for length in reference_lengths).items()})
    assert facts["scanned"] > 10
