"""A small server for the part of OpenAI's protocol that the engine uses."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Double:
    """Draws tokens from prompt, seed and model name. Its fields set its behaviour."""

    tokenizer: Any
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "tiny"}])
    statuses: list[int] = field(default_factory=list)
    """Statuses of the next answers."""
    returns_ids: bool = True
    adds_a_token: bool = False
    echoes: bool = True
    loads_adapters: bool = True
    finish_reason: str = "length"
    room: int = 1000
    """Tokens at which it cuts every completion."""
    key: str | None = None
    seconds: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    loaded: list[dict[str, Any]] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, body: dict[str, Any], key: str | None) -> tuple[int, Any]:
        if self.key is not None and key != f"Bearer {self.key}":
            return 401, {"error": {"message": "wrong key"}}
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"object": "model", **model} for model in self.models]}
        if path == "/v1/load_lora_adapter":
            self.loaded.append(body)
            return (200, "Success") if self.loads_adapters else (404, {"detail": "Not Found"})
        assert path == "/v1/completions"
        with self.lock:
            self.bodies.append(body)
            self.busy += 1
            self.busiest = max(self.busy, self.busiest)
            status = self.statuses.pop(0) if self.statuses else 200
        time.sleep(self.seconds)
        with self.lock:
            self.busy -= 1
        return (200, self.complete(body)) if status == 200 else (status, {"error": {"message": "a planted status"}})

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"] if isinstance(prompt, str) else prompt
        stream = random.Random(repr((ids, body.get("seed"), body["model"])))
        tokens = [stream.randrange(300, 590) for _ in range(min(body["max_tokens"], self.room))]
        if self.finish_reason == "stop":
            tokens = [*tokens[:5], body["stop_token_ids"][0]]
        choice = {
            "index": 0, "finish_reason": self.finish_reason,
            "text": self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False),
        }  # fmt: skip
        if self.returns_ids and body.get("return_token_ids"):
            choice["token_ids"] = tokens
        if body.get("echo") and self.echoes:
            everything = [*ids, *tokens]
            choice["logprobs"] = {
                "tokens": [f"token_id:{token}" for token in everything],
                "token_logprobs": [None, *(-token / 100 for token in everything[1:])],
            }
        return {
            "id": "c", "object": "text_completion", "created": 0, "model": body["model"], "choices": [choice],
            "usage": {
                "prompt_tokens": len(ids) + self.adds_a_token, "completion_tokens": len(tokens), "total_tokens": 0,
            },
        }  # fmt: skip


@contextmanager
def serving(double: Double) -> Iterator[str]:
    """Serve a double locally; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: dict[str, Any]) -> None:
            status, answer = double.answer(self.path, body, self.headers.get("Authorization"))
            content = json.dumps(answer).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # the client has disconnected
                return

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the terminal quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
