"""YAML is read with the line of every field; faults are refused on their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from flatprobe.config.yaml_file import dotted, read_document
from flatprobe.errors import Problem, UserError


def document(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode())
    return path


def refusal(path: Path) -> Problem:
    with pytest.raises(UserError) as caught:
        read_document(path)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("5e-6", 5e-6), ("1E4", 1e4), ("-.5", -0.5), ("010", 10), ("7", 7), ("true", True), ("null", None),
        ("~", None), ("", None), ("off", "off"), ("no", "no"), ("2024-01-31", "2024-01-31"), ("1:30", "1:30"),
        ("'7'", "7"), ('"true"', "true"), ("1_000", "1_000"), ("1e", "1e"), ('""', ""),
    ],
)  # fmt: skip
def test_plain_words_mean_what_yaml_1_2_says(tmp_path: Path, written: str, value: object) -> None:
    data = read_document(document(tmp_path, f"a: {written}")).data
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


def test_every_key_and_item_has_its_line(tmp_path: Path) -> None:
    loaded = read_document(document(tmp_path, "# head\na:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n"))
    assert loaded.lines == {
        ("a",): 2, ("a", "b"): 3, ("a", "c"): 4, ("a", "c", 0): 5, ("a", "c", 1): 6, ("a", "c", 1, "d"): 6,
    }  # fmt: skip
    assert loaded.place("a", "c", 1, "e", "f") == f"{loaded.path}:6"
    assert loaded.place("z") == f"{loaded.path}:1"
    assert dotted(("a", "c", 1, "d")) == "a.c[1].d"


def test_a_merge_key_is_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    loaded = read_document(document(tmp_path, "a: &a {b: 1}\nc:\n  <<: *a\n  d: 2\n"))
    assert loaded.data == {"a": {"b": 1}, "c": {"d": 2}}
    (problem,) = loaded.problems
    assert (problem.code, problem.place) == ("yaml.merge", f"{loaded.path}:3")


def test_a_syntax_error_is_placed_on_its_line(tmp_path: Path) -> None:
    path = document(tmp_path, "a: 1\nb: [1, 2\nc: 3\n")
    assert (refusal(path).code, refusal(path).place) == ("yaml.syntax", f"{path}:3")


def test_a_tab_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = document(tmp_path, "a:\n\tb: 1\n")
    assert (refusal(path).place, refusal(path).remedy) == (f"{path}:2", "indent with spaces")


def test_a_duplicate_key_is_reported_with_both_lines_and_the_rest_is_read(tmp_path: Path) -> None:
    loaded = read_document(document(tmp_path, "a:\n  b: 1\n  c: 2\n  b: 3\n"))
    (problem,) = loaded.problems
    assert (problem.code, problem.place) == ("yaml.duplicate_key", f"{loaded.path}:4")
    assert problem.message.startswith("a.b:") and "line 2" in problem.message
    assert loaded.data == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("text", "line", "code", "part"),
    [
        ("a: 1\nb: !!python/object:os.system x\n", 2, "yaml.tag", "tag:yaml.org,2002:python/object:os.system"),
        ("a: &x\n  b: *x\n", 1, "yaml.too_deep", "a.b.b"),
        ("a:\n  [1, 2]: 3\n", 2, "yaml.key", "a:"),
        ("a: 1e999\n", 1, "yaml.number", "a = 1e999:"),
    ],
)
def test_yaml_that_no_study_needs_is_refused(tmp_path: Path, text: str, line: int, code: str, part: str) -> None:
    loaded = read_document(document(tmp_path, text))
    (problem,) = loaded.problems
    assert (problem.code, problem.place) == (code, f"{loaded.path}:{line}")
    assert part in problem.message


def test_an_alias_stands_for_its_anchor(tmp_path: Path) -> None:
    loaded = read_document(document(tmp_path, "a: &x {b: 1}\nc: *x\n"))
    assert loaded.data == {"a": {"b": 1}, "c": {"b": 1}} and not loaded.problems


def test_an_empty_file_a_folder_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    assert refusal(document(tmp_path, "# nothing\n")).code == "yaml.empty"
    assert refusal(tmp_path).code == "file.unreadable"
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert refusal(tmp_path / "b.yaml").code == "file.encoding"
    path = document(tmp_path, "a: 1\nb: \x07\n")
    assert (refusal(path).code, refusal(path).place) == ("yaml.syntax", f"{path}:2")


def test_two_documents_in_a_file_are_refused(tmp_path: Path) -> None:
    path = document(tmp_path, "a: 1\n---\nb: 2\n")
    assert refusal(path).place == f"{path}:2"
