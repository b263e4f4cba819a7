"""The base class of every block of a study or machine file, and types that several blocks share."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Position = Literal[
    "last_response_token", "turn_end_token", "last_prompt_token", "response_mean", "prompt_mean", "all_mean"
]
Responses = Literal["own", "fixed"]
"""Whose answers states are read on: the checkpoint's own, or the control's, which are the same everywhere."""
RESPONSES: tuple[Responses, ...] = get_args(Responses)


class Block(BaseModel):
    """A block of a file: immutable, and unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
