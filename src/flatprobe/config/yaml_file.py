"""YAML files with a line number for every field, so that a problem can name its line.

Unquoted words follow the core schema of YAML 1.2, not 1.1: `off` and `no` are text, `5e-6` is a number, and a date is
text. Tags are refused: a study is plain data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flatprobe.config.suggest import did_you_mean
from flatprobe.errors import Problem, UserError

FieldPath = tuple[str | int, ...]
"""Keys and 0-based list indices from the top of a file: `("geometry", "layers", 2)`."""

_WORDS: Mapping[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "map", "seq")}
MERGE = "<<"  # merges blocks in YAML 1.1; in 1.2 it would be an ordinary key
_DEEPEST = 12  # no study is nested so deeply, but an alias that contains itself is endless


@dataclass(frozen=True)
class Document:
    """The data of a YAML file and the line of each field."""

    path: Path
    data: Any
    lines: Mapping[FieldPath, int]
    """Field to its 1-based line."""
    problems: tuple[Problem, ...]
    """Faults of the YAML itself, such as a key that is given twice."""

    def place(self, *where: str | int) -> str:
        """`file:line` of a field, or of the nearest enclosing field that the file gives."""
        return place(self.path, self.lines, where)


def place(path: Path, lines: Mapping[FieldPath, int], where: FieldPath) -> str:
    """`file:line` of a field, or of the nearest enclosing one; line 1 if the file gives none of them."""
    enclosing = (where[:length] for length in range(len(where), 0, -1))
    return f"{path}:{next((lines[prefix] for prefix in enclosing if prefix in lines), 1)}"


def dotted(where: FieldPath) -> str:
    """A field as people write it: `geometry.layers[2]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        UserError: the file is missing, unreadable, not text, not YAML, or empty.
    """
    text = _read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        remedy = "indent with spaces" if "'\\t'" in str(error.problem) else None
        raise UserError.one(
            "yaml.syntax", f"{path}:{line}", f"not YAML: {error.problem or error.context}", remedy
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError.one("yaml.syntax", f"{path}:{line}", f"not YAML: {error.reason}") from error
    if root is None:
        raise UserError.one("yaml.empty", f"{path}:1", "the file is empty")
    walk = _Walk(path)
    data = walk.value(root, ())
    return Document(path, data, walk.lines, tuple(walk.problems))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [str(p) for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        remedy = did_you_mean(str(path), siblings)
        raise UserError.one("file.missing", str(path), "no such file", remedy) from None
    except UnicodeDecodeError as error:
        raise UserError.one("file.encoding", str(path), "not a text file in UTF-8") from error
    except OSError as error:
        raise UserError.one("file.unreadable", str(path), f"cannot be read: {error.strerror}") from error


@dataclass
class _Walk:
    """Turns YAML nodes into data and collects lines and problems."""

    path: Path
    lines: dict[FieldPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def value(self, node: yaml.Node, where: FieldPath) -> Any:
        """The data of a node; None where it has a problem."""
        if len(where) > _DEEPEST:
            return self._problem(
                "yaml.too_deep", node, f"{dotted(where[:3])}… is nested too deeply", "write the aliases out"
            )
        if node.tag not in _PLAIN_TAGS:
            return self._problem("yaml.tag", node, f"{dotted(where)}: the tag {node.tag} is not allowed", "remove it")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*where, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, where)

    def _mapping(self, node: yaml.MappingNode, where: FieldPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem("yaml.key", key_node, f"{dotted(where)}: a field's name must be a word")
                continue
            key = str(key_node.value)
            if key == MERGE and key_node.style is None:
                remedy = "write the fields out, or use an alias for the whole block"
                self._problem("yaml.merge", key_node, f"{dotted(where)}: << does not merge blocks", remedy)
                continue
            if key in data:
                first = self.lines[(*where, key)]
                self._problem(
                    "yaml.duplicate_key", key_node, f"{dotted((*where, key))}: given twice, first on line {first}"
                )
                continue
            self.lines[(*where, key)] = key_node.start_mark.line + 1
            data[key] = self.value(value_node, (*where, key))
        return data

    def _item(self, node: yaml.Node, where: FieldPath) -> Any:
        self.lines[where] = node.start_mark.line + 1
        return self.value(node, where)

    def _scalar(self, node: yaml.ScalarNode, where: FieldPath) -> str | int | float | bool | None:
        text = str(node.value)
        if node.style is not None:  # quoted, or a block of text
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _WHOLE.fullmatch(text):
            return int(text)
        if _DECIMAL.fullmatch(text):
            number = float(text)
            if math.isfinite(number):
                return number
            self._problem("yaml.number", node, f"{dotted(where)} = {text}: the number is too large")
            return None
        return text

    def _problem(self, code: str, node: yaml.Node, message: str, remedy: str | None = None) -> None:
        self.problems.append(Problem(code, f"{self.path}:{node.start_mark.line + 1}", message, remedy))
