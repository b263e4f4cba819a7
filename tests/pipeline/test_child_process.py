from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from flatprobe.pipeline.child_process import group_is_gone, how_it_ended, signal_group


@pytest.mark.parametrize(
    ("status", "words"), [(0, "status 0"), (3, "status 3"), (-signal.SIGTERM, "SIGTERM"), (-signal.SIGKILL, "memory")]
)
def test_an_exit_status_is_put_in_words(status: int, words: str) -> None:
    assert words in how_it_ended(status)


def test_a_signal_to_a_group_ends_its_children_too_and_an_ended_group_is_no_error() -> None:
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, process_group=0) as process:
        assert not group_is_gone(process.pid, patience=0.1)
        signal_group(process.pid, signal.SIGKILL)
        assert group_is_gone(process.pid, patience=10.0)
    signal_group(process.pid, signal.SIGKILL)
