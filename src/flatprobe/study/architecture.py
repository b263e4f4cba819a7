"""Whether a model is one whose states flatprobe reads: one stack of decoder blocks over text. No weights are read."""

from __future__ import annotations

import json
from pathlib import Path

from flatprobe.errors import Problem, UserError
from flatprobe.models.reference import read_config

SIZES = {"num_hidden_layers": "decoder blocks", "hidden_size": "dimensions"}
_OTHER_INPUTS = ("vision_config", "audio_config", "speech_config", "video_config")


def architecture_problems(folder: Path, place: str) -> list[Problem]:
    """Why the states of a model cannot be read: it has an encoder, takes other inputs than text, or has no decoder."""
    try:
        flat = read_config(folder, place)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except UserError as error:
        return list(error.problems)
    name = f"{config.get('model_type', 'this model')}"
    remedy = "flatprobe reads decoder-only chat models of text"
    if config.get("is_encoder_decoder"):
        return [Problem("architecture.TODO", place, f"{name} is an encoder-decoder model", remedy)]
    if other := [key.removesuffix("_config") for key in _OTHER_INPUTS if config.get(key)]:
        return [Problem("architecture.TODO", place, f"{name} is multimodal ({', '.join(other)})", remedy)]
    if not all(isinstance(flat.get(key), int) for key in SIZES):
        return [
            Problem(
                "architecture.TODO", place, f"{name}: config.json names no {' and no '.join(SIZES)}", remedy
            )
        ]
    return []
