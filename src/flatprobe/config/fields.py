"""Looks up fields in a schema: the block at a path, and the path of a field with a given name."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from flatprobe.config.suggest import closest
from flatprobe.config.yaml_file import FieldPath

_FAR = 0.75  # a field of another block must be more similar to be suggested


def block_at(model: type[BaseModel], where: FieldPath) -> type[BaseModel] | None:
    """The model of the block at a path, or None if there is no block."""
    annotation: Any = model
    for part in where:
        annotation = _unwrapped(annotation)
        origin = get_origin(annotation)
        if origin is dict:
            annotation = get_args(annotation)[1]
        elif origin is tuple:
            annotation = get_args(annotation)[0]
        elif _is_block(annotation) and part in annotation.model_fields:
            annotation = annotation.model_fields[part].annotation
        else:
            return None
    annotation = _unwrapped(annotation)
    return annotation if _is_block(annotation) else None


def description(model: type[BaseModel], where: FieldPath) -> str | None:
    """The docstring of the field at a path."""
    block = block_at(model, where[:-1])
    field = block.model_fields.get(str(where[-1])) if block else None
    return field.description if field else None


def suggest_field(model: type[BaseModel], where: FieldPath) -> str:
    """A remedy for an unknown field: a similar field of its block, one of another block, or all fields of its block."""
    block = block_at(model, where[:-1])
    assert block is not None, "an unknown field is always inside a block"
    word = str(where[-1])
    if guess := closest(word, block.model_fields):
        return f"did you mean `{guess}`?"
    for top in (block, model):
        paths = {path.rpartition(".")[2]: path for path in reversed(list(_paths(top)))}
        if name := closest(word, paths, _FAR):
            return f"did you mean `{paths[name]}`?"
    return f"the fields are {', '.join(block.model_fields)}"


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields below a block, without blocks whose names the study chooses (`conditions`)."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        annotation = _unwrapped(field.annotation)
        if _is_block(annotation):
            yield from _paths(annotation, f"{prefix}{name}.")


def _unwrapped(annotation: Any) -> Any:
    """Without `Annotated` and `| None`."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            annotation = next(a for a in get_args(annotation) if a is not type(None))
        else:
            return annotation


def _is_block(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
