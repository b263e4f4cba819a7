"""A server that is already running: what it holds, and what can go wrong with it, each with a name and a remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flatprobe.errors import UserError
from flatprobe.machine.schema import OpenaiMachine
from flatprobe.models.reference import fingerprint_folder


def require_package() -> None:
    """Assert that the client is installed.

    Raises:
        UserError: with the install line.
    """
    if find_spec("openai") is None:
        raise UserError.one(
            "openai_engine.TODO",
            "engine openai",
            "the openai client is not installed",
            'pip install "flatprobe[openai]"',
        )


@contextmanager
def named(server: OpenaiMachine) -> Iterator[None]:
    """Turn the client's errors, after its retries, into the user's.

    Raises:
        UserError: instead of any of them.
    """
    import openai

    place = f"engine openai: {server.base_url}"
    try:
        yield
    except openai.APITimeoutError as error:
        raise UserError.one(
            "openai_engine.TODO",
            place,
            f"no answer within {server.timeout:g} s, several times",
            "raise `timeout`, or lower `concurrency`",
        ) from error
    except openai.APIConnectionError as error:
        cause = error.__cause__ or error
        raise UserError.one(
            "openai_engine.TODO", place, f"no server answers there ({cause})", "start it, or mend `base_url`"
        ) from error
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        name = server.api_key_env
        remedy = (
            f"look at the key in {name}" if name else "name the variable that holds the key in `api_key_env`"
        )
        raise UserError.one(
            "openai_engine.TODO", place, f"it refuses the key ({error.status_code})", remedy
        ) from error
    except openai.NotFoundError as error:
        raise UserError.one(
            "openai_engine.TODO",
            place,
            f"it knows no such address or model ({_said(error)})",
            "`base_url` ends with /v1 for most servers",
        ) from error
    except openai.APIStatusError as error:
        remedy = (
            "see its log" if error.status_code >= 500 or error.status_code == 429
            else "where it takes no token ids, set `prompt: text`"
        )  # fmt: skip
        raise UserError.one(
            "openai_engine.TODO", place, f"it answers {error.status_code}: {_said(error)}", remedy
        ) from error


def _said(error: Exception) -> str:
    """What the server wrote, in short."""
    text = str(error)
    return text if len(text) <= 300 else text[:300] + " …"


def key_of(options: OpenaiMachine) -> str:
    """The key to send.

    Raises:
        UserError: the variable that should hold it does not exist.
    """
    if options.api_key_env is None:
        return "none"  # the client sends something in any case
    if not (key := os.environ.get(options.api_key_env)):
        raise UserError.one(
            "openai_engine.TODO",
            "engine openai",
            f"the environment has no {options.api_key_env}",
            "export it, or remove `api_key_env`",
        )
    return key


async def served(
    client: Any, options: OpenaiMachine, checkpoint: Path, adapter: Path | None, length: int
) -> dict[str, Any]:
    """What is to be sampled, as the server has it: `name`, by which it is asked for, and `model`, what it says of it.

    Raises:
        UserError: it holds no such model, or another checkpoint; its context, where it names one, is shorter than
            `length`; it has no such adapter and does not load it.
    """
    held = {model.id: model.model_dump() async for model in client.models.list()}
    place = f"engine openai: {options.base_url}"
    if options.model not in held:
        raise UserError.one(
            "openai_engine.TODO",
            place,
            f"it has no model {options.model!r}, but {', '.join(held) or 'none'}",
            "mend `model`",
        )
    root = Path(str(held[options.model].get("root")))  # vLLM and SGLang say where they loaded it from
    known = root.is_absolute() and root.exists()
    if known and root.resolve() != checkpoint.resolve():
        raise UserError.one(
            "openai_engine.TODO",
            place,
            f"it holds {root}, and this stage samples from {checkpoint.resolve()}",
            "start the server with that folder and run again: what is finished is kept",
        )
    context = held[options.model].get("max_model_len")
    if isinstance(context, int) and context < length:  # it would cut completions and say nothing
        raise UserError.one(
            "openai_engine.TODO",
            place,
            f"its context of {context} tokens is too short: prompt and answer need {length}",
            "start it with a longer one",
        )
    name = options.model
    if adapter is not None:
        name = f"adapter-{fingerprint_folder(adapter)[:32]}"
        if name not in held:
            await _load(client, name, adapter.resolve(), place)
    return {"name": name, "model": held[options.model], "folder_compared": known}


async def _load(client: Any, name: str, folder: Path, place: str) -> None:
    """Have the server load an adapter from a folder that it sees, too: vLLM's verb."""
    import openai

    try:
        await client.post(
            "/load_lora_adapter", body={"lora_name": name, "lora_path": str(folder)}, cast_to=str
        )
    except openai.APIStatusError as error:
        raise UserError.one(
            "openai_engine.TODO",
            place,
            f"it has no adapter {name}, and does not load it ({error.status_code})",
            f"start it with --enable-lora --lora-modules {name}={folder}, or let vLLM load adapters itself "
            "(VLLM_ALLOW_RUNTIME_LORA_UPDATING=True)",
        ) from error
