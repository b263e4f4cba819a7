"""The chat template of a model's folder at work, for checks before the run.

`transformers` is imported when a tokenizer is loaded, so that a study can be checked without it up to here.
"""

from __future__ import annotations

from pathlib import Path

from flatprobe.errors import Problem, UserError
from flatprobe.models.conversation import Conversations


def load_conversations(folder: Path, name: str, place: str) -> Conversations:
    """Conversations of a folder's tokenizer; `name` is what people call the model, `place` where the study does.

    Raises:
        UserError: no tokenizer, no template, one without an end of turn, or one that prints the day.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError.one(
            "tokenizers.TODO",
            place,
            f"no tokenizer can be loaded from {folder}: {str(error).splitlines()[0]}",
        ) from error
    try:
        conversations = Conversations(tokenizer, name)
        _ = conversations.turn_end
    except UserError as error:
        raise UserError(
            [Problem("tokenizers.TODO", place, p.message, p.remedy) for p in error.problems]
        ) from error
    if "strftime_now" in str(tokenizer.chat_template):
        raise UserError.one(
            "tokenizers.TODO",
            place,
            f"the chat template of {name} prints today's date, so prompts would differ from day to day",
            "give a copy of the folder whose chat_template.jinja has a fixed date instead of strftime_now",
        )
    return conversations
