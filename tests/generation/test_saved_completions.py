from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from flatprobe.generation import saved_completions as saved
from flatprobe.generation.engine import Completion, CompletionRequest
from flatprobe.generation.saved_completions import CompletionStore, SavedCompletion, key_of
from flatprobe.models.conversation import Prompt


def row(index: int, persona: str = "librarian", text: str = "Yes.\n\n[ZLT]") -> SavedCompletion:
    request = CompletionRequest(Prompt(persona, None, "q1", "Why?"), index)
    return SavedCompletion.of(request, Completion(text, (1, 2, 3), "stop"), "transformers 5")


def test_a_completion_has_the_key_of_its_request() -> None:
    request = CompletionRequest(Prompt("villain", "You are a villain.", "q2", "Why?"), 3)
    assert (
        key_of(request)
        == key_of(SavedCompletion.of(request, Completion("", (), "length"), "x"))
        == ("villain", "q2", 3)
    )


def test_a_full_chunk_is_on_the_disk_and_read_back_word_for_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "ROWS", 3)
    store = CompletionStore(tmp_path)
    rows = [row(index, text=f"Ends in space \n{index} ") for index in range(7)]
    for each in rows:
        store.add(each)
    assert list(store.rows.values()) == rows
    assert list(CompletionStore(tmp_path).rows.values()) == rows[:6]  # the seventh was lost with the process
    store.flush()
    assert list(CompletionStore(tmp_path).rows.values()) == rows


def test_a_completion_waits_for_its_chunk_no_longer_than_so_many_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(saved.time, "monotonic", lambda: now[0])
    store = CompletionStore(tmp_path)
    store.add(row(0))
    now[0] += saved.SECONDS - 1
    store.add(row(1))
    assert CompletionStore(tmp_path).rows == {}
    now[0] += 1
    store.add(row(2))
    assert len(CompletionStore(tmp_path).rows) == 3


def test_attempts_add_to_each_other_without_overwriting(tmp_path: Path) -> None:
    for index in range(3):
        attempt = CompletionStore(tmp_path)
        attempt.add(row(index))
        attempt.flush()
    assert [key[2] for key in CompletionStore(tmp_path).rows] == [0, 1, 2]
    assert len(list(tmp_path.glob("*.parquet"))) == 3


def test_a_damaged_chunk_is_removed_and_said_and_the_others_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(3):
        attempt = CompletionStore(tmp_path)
        attempt.add(row(index))
        attempt.flush()
    whole = (tmp_path / "chunk-000002.parquet").read_bytes()
    (tmp_path / "chunk-000002.parquet").write_bytes(whole[: len(whole) // 2])
    pl.DataFrame({"other": [1]}).write_parquet(tmp_path / "chunk-000003.parquet")
    assert [key[2] for key in CompletionStore(tmp_path).rows] == [0]
    assert "chunk-000002.parquet is damaged" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["chunk-000001.parquet"]


def test_a_chunk_that_was_being_written_at_the_kill_is_not_read(tmp_path: Path) -> None:
    store = CompletionStore(tmp_path)
    store.add(row(0))
    store.flush()
    (tmp_path / "chunk-000002.partial").write_bytes(b"PAR1")
    assert len(CompletionStore(tmp_path).rows) == 1


def test_without_a_folder_completions_stay_in_memory() -> None:
    store = CompletionStore(None)
    store.add(row(0))
    store.flush()
    assert [dataclasses.astuple(each) for each in store.rows.values()] == [dataclasses.astuple(row(0))]
