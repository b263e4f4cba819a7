"""YAML files with a line number for every field, so that a problem can say where it stands.

Plain words mean what YAML 1.2's core schema says, not 1.1's: `off` and `no` are text, `5e-6` is a number, and a
date is text. Tags are refused: a study is data that a person can read.
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
MERGE = "<<"  # of YAML 1.1; in 1.2 it is a key like any other, and nobody means that
_DEEPEST = 12  # far below any study; an alias that contains itself has no end


@dataclass(frozen=True)
class Document:
    """A YAML file as data, and where each of its fields stands."""

    path: Path
    data: Any
    lines: Mapping[FieldPath, int]
    """Field to its 1-based line."""
    problems: tuple[Problem, ...]
    """What is wrong with the file as YAML, such as a key that is given twice."""

    def place(self, *where: str | int) -> str:
        """`file:line` of a field, or of the nearest field around it that the file gives."""
        return place(self.path, self.lines, where)


def place(path: Path, lines: Mapping[FieldPath, int], where: FieldPath) -> str:
    """`file:line` of a field, or of the nearest one around it; line 1 for a file that gives none."""
    known = (where[:length] for length in range(len(where), 0, -1))
    return f"{path}:{next((lines[prefix] for prefix in known if prefix in lines), 1)}"


def dotted(where: FieldPath) -> str:
    """A field as people write it: `geometry.layers[2]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        UserError: there is no such file, it is no text, it is not YAML, or it is empty.
    """
    text = _read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        remedy = "indent with spaces" if "'\\t'" in str(error.problem) else None
        raise UserError.one(
            "yaml_file.TODO", f"{path}:{line}", f"not YAML: {error.problem or error.context}", remedy
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError.one("yaml_file.TODO", f"{path}:{line}", f"not YAML: {error.reason}") from error
    if root is None:
        raise UserError.one("yaml_file.TODO", f"{path}:1", "the file is empty")
    walk = _Walk(path)
    data = walk.value(root, ())
    return Document(path, data, walk.lines, tuple(walk.problems))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [str(p) for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UserError.one(
            "yaml_file.TODO", str(path), "no such file", did_you_mean(str(path), beside)
        ) from None
    except UnicodeDecodeError as error:
        raise UserError.one("yaml_file.TODO", str(path), "not a text file in UTF-8") from error
    except OSError as error:
        raise UserError.one("yaml_file.TODO", str(path), f"cannot be read: {error.strerror}") from error


@dataclass
class _Walk:
    """Turns YAML's nodes into data, noting lines and problems on the way."""

    path: Path
    lines: dict[FieldPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def value(self, node: yaml.Node, where: FieldPath) -> Any:
        """The data of a node; None in place of what is wrong."""
        if len(where) > _DEEPEST:
            return self._problem(
                "yaml_file.TODO", node, f"{dotted(where[:3])}… is nested too deeply", "write aliases out"
            )
        if node.tag not in _PLAIN_TAGS:
            return self._problem(
                "yaml_file.TODO", node, f"{dotted(where)}: the tag {node.tag} is not allowed", "leave it out"
            )
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
                self._problem("yaml_file.TODO", key_node, f"{dotted(where)}: a field's name is a word")
                continue
            key = str(key_node.value)
            if key == MERGE and key_node.style is None:
                remedy = "write its fields out, or let the whole block be an alias"
                self._problem(
                    "yaml_file.TODO", key_node, f"{dotted(where)}: blocks are not merged by <<", remedy
                )
                continue
            if key in data:
                first = self.lines[(*where, key)]
                self._problem(
                    "yaml.duplicate_key",
                    key_node,
                    f"{dotted((*where, key))}: given twice, first on line {first}",
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
            self._problem("yaml_file.TODO", node, f"{dotted(where)} = {text}: too large a number")
            return None
        return text

    def _problem(self, code: str, node: yaml.Node, message: str, remedy: str | None = None) -> None:
        self.problems.append(Problem(code, f"{self.path}:{node.start_mark.line + 1}", message, remedy))
