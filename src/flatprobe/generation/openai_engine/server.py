"""A running server: what it serves, and its errors as problems with a place and a remedy."""

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

LONGEST_MESSAGE = 300  # characters of a server's message


def require_package() -> None:
    """Assert that the client is installed.

    Raises:
        UserError: with the command to install it.
    """
    if find_spec("openai") is None:
        raise UserError.one(
            "engine.not_installed",
            "engine openai",
            "the openai client is not installed",
            'pip install "flatprobe[openai]"',
        )


def place_of(options: OpenaiMachine) -> str:
    """The place of a server's problems."""
    return f"engine openai: {options.base_url}"


@contextmanager
def client_errors(options: OpenaiMachine) -> Iterator[None]:
    """Turn the client's errors, raised after its retries, into user errors.

    Raises:
        UserError: instead of any of them.
    """
    import openai

    try:
        yield
    except openai.APITimeoutError as error:
        raise UserError.one(
            "server.timeout",
            place_of(options),
            f"no answer within {options.timeout:g} s, in several attempts",
            "raise `timeout`, or lower `concurrency`",
        ) from error
    except openai.APIConnectionError as error:
        raise UserError.one(
            "server.unreachable",
            place_of(options),
            f"no server answers ({error.__cause__ or error})",
            "start the server, or correct `base_url`",
        ) from error
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        variable = options.api_key_env
        raise UserError.one(
            "server.key",
            place_of(options),
            f"it refuses the key ({error.status_code})",
            f"check the key in {variable}" if variable else "name the key's variable in `api_key_env`",
        ) from error
    except openai.NotFoundError as error:
        raise UserError.one(
            "server.not_found",
            place_of(options),
            f"it has no such address or model ({_message(error)})",
            "correct `base_url`; for most servers it ends with /v1",
        ) from error
    except openai.APIStatusError as error:
        busy_or_failed = error.status_code >= 500 or error.status_code == 429
        raise UserError.one(
            "server.status",
            place_of(options),
            f"it answers {error.status_code}: {_message(error)}",
            "see its log" if busy_or_failed else "if it accepts no token ids, set `prompt: text`",
        ) from error


def _message(error: Exception) -> str:
    """The server's message, shortened."""
    text = str(error)
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + " …"


def api_key(options: OpenaiMachine) -> str:
    """The key to send.

    Raises:
        UserError: its environment variable is not set.
    """
    if options.api_key_env is None:
        return "none"  # the client always sends a key
    if not (key := os.environ.get(options.api_key_env)):
        raise UserError.one(
            "server.no_key",
            "engine openai",
            f"the environment has no {options.api_key_env}",
            "export it, or remove `api_key_env`",
        )
    return key


async def served_model(
    client: Any, options: OpenaiMachine, checkpoint: Path, adapter: Path | None, length: int
) -> dict[str, Any]:
    """What to sample from: `name`, to use in requests; `model`, the server's description; `folder_compared`.

    Raises:
        UserError: the server has no such model or serves another checkpoint; its context is shorter than `length`, if
            it gives one; it neither has the adapter nor loads it.
    """
    models = {model.id: model.model_dump() async for model in client.models.list()}
    place = place_of(options)
    if options.model not in models:
        raise UserError.one(
            "server.model",
            place,
            f"it has no model {options.model!r}, but {', '.join(models) or 'none'}",
            "correct `model`",
        )
    folder = Path(str(models[options.model].get("root")))  # vLLM and SGLang report the folder
    comparable = folder.is_absolute() and folder.exists()
    if comparable and folder.resolve() != checkpoint.resolve():
        raise UserError.one(
            "server.other_checkpoint",
            place,
            f"it serves {folder}, but this stage samples from {checkpoint.resolve()}",
            "start the server with that folder and run again; finished stages are kept",
        )
    context = models[options.model].get("max_model_len")
    if isinstance(context, int) and context < length:  # it would silently cut completions
        raise UserError.one(
            "server.context",
            place,
            f"its context of {context} tokens is too short: prompt and answer need {length}",
            "start it with a longer context",
        )
    name = options.model
    if adapter is not None:
        name = f"adapter-{fingerprint_folder(adapter)[:32]}"
        if name not in models:
            await _load(client, name, adapter.resolve(), place)
    return {"name": name, "model": models[options.model], "folder_compared": comparable}


async def _load(client: Any, name: str, folder: Path, place: str) -> None:
    """Let the server load an adapter from a folder that both can read, with vLLM's endpoint."""
    import openai

    try:
        await client.post("/load_lora_adapter", body={"lora_name": name, "lora_path": str(folder)}, cast_to=str)
    except openai.APIStatusError as error:
        raise UserError.one(
            "server.adapter",
            place,
            f"it has no adapter {name} and does not load it ({error.status_code})",
            f"start it with --enable-lora --lora-modules {name}={folder}, or let vLLM load adapters itself "
            "(VLLM_ALLOW_RUNTIME_LORA_UPDATING=True)",
        ) from error
