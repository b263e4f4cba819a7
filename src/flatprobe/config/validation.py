"""Validates a YAML document against a schema and reports every problem at once, in plain words."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flatprobe.config.fields import block_at, description, suggest_field
from flatprobe.config.suggest import did_you_mean
from flatprobe.config.yaml_file import Document, FieldPath, dotted
from flatprobe.errors import Problem, UserError

M = TypeVar("M", bound=BaseModel)

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a block of fields",
    "model_type": "a block of fields",
    "model_attributes_type": "a block of fields",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_LONGEST_VALUE = 60


def validate(document: Document, model: type[M]) -> M:
    """The document as a frozen model.

    Validation is strict: text never becomes a number, and true never becomes 1.

    Raises:
        UserError: every problem of the file, in the order of its lines.
    """
    validated, problems = examine(document, model)
    if problems or validated is None:
        raise UserError(problems)
    return validated


def examine(document: Document, model: type[M]) -> tuple[M | None, list[Problem]]:
    """The document as a frozen model, and every problem of the file in the order of its lines.

    If unknown fields are the only problem, they are left out of the model, so that later checks can run too. With any
    other problem the model is None.
    """
    problems = list(document.problems)
    try:
        return model.model_validate_json(json.dumps(document.data), strict=True), problems
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems = sorted([*problems, *(explain(detail, document, model) for detail in details)], key=_line)
    if any(detail["type"] != "extra_forbidden" for detail in details):
        return None, problems
    without_unknown = json.loads(json.dumps(document.data))
    for detail in details:
        *parents, name = detail["loc"]
        block = without_unknown
        for part in parents:
            block = block[part]
        del block[name]
    try:
        return model.model_validate_json(json.dumps(without_unknown), strict=True), problems
    except ValidationError:
        # A block's rule misses the field that the unknown one was meant to be: already reported.
        return None, problems


def _line(problem: Problem) -> int:
    return int(problem.place.rpartition(":")[2])


def explain(error: ErrorDetails, document: Document, model: type[BaseModel]) -> Problem:
    """A pydantic error in the words of the study file. A block's own rule gives its code as the error's type."""
    where: FieldPath = tuple(part for part in error["loc"] if part != "[key]")
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    name, place = dotted(where) or "the file", document.place(*where)
    given = f"{name} = {_as_written(value)}" if where else name
    if kind == "missing":
        parent = f"{dotted(where[:-1])}: " if len(where) > 1 else ""
        message = f"{parent}`{where[-1]}` is missing"
        return Problem("field.missing", document.place(*where[:-1]), message, description(model, where))
    if kind == "extra_forbidden":
        return Problem("field.unknown", place, f"{name}: unknown field", suggest_field(model, where))
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", str(context["expected"]))
        remedy = did_you_mean(str(value), choices)
        return Problem("field.choice", place, f"{given}: must be {_either(choices)}", remedy)
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return Problem("field.bound", place, f"{given}: must be {words} {context[bound]:g}")
    if kind in _EXPECTED:
        remedy = _type_remedy(kind, value, where, model)
        return Problem("field.type", place, f"{given}: must be {_EXPECTED[kind]}", remedy)
    if kind == "string_pattern_mismatch":
        message = f"{given}: does not match {context['pattern']}"
        return Problem("field.pattern", place, message, _slug(str(value)))
    if "." in kind:
        return Problem(kind, place, f"{name}: {error['msg']}")
    return Problem("field.invalid", place, f"{given}: {error['msg'][0].lower()}{error['msg'][1:]}")


def _as_written(value: object) -> str:
    """A value as written in the file, cut to fit a line."""
    if isinstance(value, dict):
        return "{…}" if value else "{}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _type_remedy(kind: str, value: object, where: FieldPath, model: type[BaseModel]) -> str | None:
    """How to write the value that was probably meant."""
    if kind == "string_type" and isinstance(value, int | float):
        return "put it in quotes"
    if kind in ("int_type", "float_type") and isinstance(value, str) and _is_number(value):
        return "write it as plain digits without quotes"
    if kind in ("tuple_type", "list_type") and isinstance(value, str | int | float):
        return f"write [{value}]"
    if _EXPECTED[kind] == "a block of fields":
        block: Any = block_at(model, where)
        return "write {} for a block without fields" if value is None or block is None else _fields(block)
    return None


def _slug(name: str) -> str:
    """A valid name similar to the given one. Names are the only fields with a pattern."""
    return f"for instance `{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_') or 'my_study'}`"


def _fields(block: type[BaseModel]) -> str:
    return f"its fields are {', '.join(block.model_fields)}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d_]+(\.\d*)?(e[-+]?\d+)?", text.strip(), re.IGNORECASE) is not None


def _either(choices: list[str]) -> str:
    names = [f"`{choice}`" for choice in choices]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
