"""The parent's end of an engine process: start it, exchange JSON lines, notice its death, end it and its children."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from flatprobe.pipeline.child_process import group_is_gone, how_it_ended, signal_group

LOG_LINES = 30  # kept to show if the process dies
LONGEST_LINE = 300  # characters; some libraries log whole configurations
GRACE = 20.0  # seconds to end by itself; an engine on several devices needs some
CHECK_EVERY = 0.5  # seconds between checks that the process is alive


class ProcessDied(Exception):
    """The process ended before it replied."""

    def __init__(self, how: str, log: str) -> None:
        self.how, self.log = how, log
        super().__init__(how, log)


class Link:
    """A child process that reads and writes one JSON object per line.

    It leads a process group, so that its children can be ended with it. Its input closes when this process dies, for
    whatever reason. Its standard error is copied to ours.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            process_group=0,
        )
        self._replies: queue.SimpleQueue[dict[str, Any] | str | None] = queue.SimpleQueue()
        """Replies; at the end, an error message about an invalid reply, or None at the end of the output."""
        self._log_lines: deque[str] = deque(maxlen=LOG_LINES)
        readers = (self._read_replies, self._read_log)
        self._threads = [threading.Thread(target=reader, daemon=True) for reader in readers]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """The last lines of its standard error."""
        return "\n".join(self._log_lines)

    def send(self, **command: Any) -> None:
        """Send a command.

        Raises:
            ProcessDied: the process has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._death() from None

    def receive(self) -> dict[str, Any]:
        """Wait for the next reply.

        Raises:
            ProcessDied: the process has ended, or wrote an invalid reply.
        """
        while True:
            alive = self.alive  # checked before the queue: replies sent before the end still count
            try:
                reply = self._replies.get(timeout=CHECK_EVERY)
            except queue.Empty:
                if alive:
                    continue
                raise self._death() from None
            if isinstance(reply, dict):
                return reply
            raise self._death(reply)

    def end(self, grace: float = GRACE) -> int:
        """Let the process end by itself, then kill what is left of its group. Returns its exit status."""
        with suppress(ProcessDied):
            self.send(command="stop")
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        return self.kill()

    def kill(self) -> int:
        """Kill the process and its children now. Returns its exit status."""
        signal_group(self.pid, signal.SIGKILL)
        status = self._process.wait()
        for thread in self._threads:
            thread.join(GRACE)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with suppress(OSError):
                stream.close()
        return status

    def group_is_gone(self) -> bool:
        """Whether no process of its group runs any more; waits for killed ones."""
        return group_is_gone(self.pid, GRACE)

    def _read_replies(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                reply = json.loads(line)
            except ValueError:
                reply = None
            if not isinstance(reply, dict) or "reply" not in reply:
                text = line.decode(errors="replace").strip()
                self._replies.put(f"it wrote {text[:200]!r} instead of a reply")
                return
            self._replies.put(reply)
        self._replies.put(None)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._log_lines.append(text if len(text) <= LONGEST_LINE else text[:LONGEST_LINE] + " …")
            sys.stderr.write(text + "\n")

    def _death(self, invalid_reply: str | None = None) -> ProcessDied:
        """Kill the process if it still runs; says how it ended."""
        if invalid_reply is None:
            with suppress(subprocess.TimeoutExpired):  # its output is closed, so it is about to end
                self._process.wait(GRACE)
        ended = not self.alive
        status = self.kill()
        if invalid_reply is not None:
            return ProcessDied(invalid_reply, self.log)
        return ProcessDied(f"it {how_it_ended(status)}" if ended else "it closed its output", self.log)
