"""The other end of an engine process: starting it, exchanging JSON lines, noticing its death, ending it for certain."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

LINES_KEPT = 30  # of what the process wrote, to be shown should it die
LONGEST_LINE = 300  # characters; some libraries write whole configurations
GRACE = 20.0  # seconds that it gets to end by itself; an engine on several devices needs some
LOOK = 0.5  # seconds between two looks at whether it is alive


class ProcessDied(Exception):
    """The process ended before it had answered."""

    def __init__(self, how: str, tail: str) -> None:
        self.how, self.tail = how, tail
        super().__init__(how, tail)


class Link:
    """A running child process that takes and gives one JSON object per line.

    It leads a process group of its own, so that all that it starts can be ended with it. It sees the end of its input
    when this process dies, by whatever cause. What it writes to standard error goes to ours as it comes.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=dict(environment), process_group=0,
        )  # fmt: skip
        self._replies: queue.SimpleQueue[dict[str, Any] | str | None] = queue.SimpleQueue()
        """Replies; then what was no reply, or None at the end of its output."""
        self._tail: deque[str] = deque(maxlen=LINES_KEPT)
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._read, self._log)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def tail(self) -> str:
        """The last lines that it wrote to standard error."""
        return "\n".join(self._tail)

    def send(self, **command: Any) -> None:
        """Give it a command.

        Raises:
            ProcessDied: it is gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._death() from None

    def receive(self) -> dict[str, Any]:
        """Its next reply; waits for it.

        Raises:
            ProcessDied: it ended, or wrote something that is no reply.
        """
        while True:
            alive = self.alive  # looked at first: what it said before it ended still counts
            try:
                reply = self._replies.get(timeout=LOOK)
            except queue.Empty:
                if alive:
                    continue
                raise self._death() from None
            if isinstance(reply, dict):
                return reply
            raise self._death(reply)

    def end(self, grace: float = GRACE) -> int:
        """Let it end by itself, then end whatever is left of its group. Returns its exit status."""
        with suppress(ProcessDied):
            self.send(command="stop")
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        return self.kill()

    def kill(self) -> int:
        """End it and all that it started, now. Returns its exit status."""
        with suppress(
            ProcessLookupError, PermissionError
        ):  # PermissionError: macOS, where only zombies are left
            os.killpg(self.pid, signal.SIGKILL)
        status = self._process.wait()
        for thread in self._threads:
            thread.join(GRACE)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with suppress(OSError):
                stream.close()
        return status

    def group_is_gone(self) -> bool:
        """Whether no process of its group exists any more; waits a while for those that were killed."""
        deadline = time.monotonic() + GRACE
        while _group_lives(self.pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                reply = json.loads(line)
            except ValueError:
                reply = None
            if not isinstance(reply, dict) or "reply" not in reply:
                text = line.decode(errors="replace").strip()
                self._replies.put(f"it wrote {text[:200]!r} where a reply was due")
                return
            self._replies.put(reply)
        self._replies.put(None)

    def _log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text if len(text) <= LONGEST_LINE else text[:LONGEST_LINE] + " …")
            sys.stderr.write(text + "\n")

    def _death(self, nonsense: str | None = None) -> ProcessDied:
        """What to say of its end, which comes now where it has not come yet."""
        if nonsense is None:
            with suppress(subprocess.TimeoutExpired):  # its output is closed, so it is about to end
                self._process.wait(GRACE)
        by_itself = not self.alive
        status = self.kill()
        if nonsense is not None:
            return ProcessDied(nonsense, self.tail)
        if not by_itself:
            return ProcessDied("it closed its output", self.tail)
        if status >= 0:
            return ProcessDied(f"it ended with status {status}", self.tail)
        how = f"it was killed by {signal.Signals(-status).name}"
        if -status == signal.SIGKILL:
            how += ", as the system does when memory runs out"
        return ProcessDied(how, self.tail)


def _group_lives(group: int) -> bool:
    """Whether a process group has a member that runs; one that has ended and that no one asks about holds nothing."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    records = list(Path("/proc").glob("[0-9]*/stat"))
    if not records:  # not Linux: the signal is all there is to go by
        return True
    for record in records:
        with suppress(OSError):  # it may end while we look
            state, _, number = record.read_text().rpartition(")")[2].split()[:3]
            if int(number) == group and state not in "ZX":
                return True
    return False
