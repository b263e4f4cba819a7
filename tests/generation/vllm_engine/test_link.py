"""The parent's end of an engine process; small scripts play the engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import eventually, gone

from flatprobe.generation.vllm_engine import link as vllm_link
from flatprobe.generation.vllm_engine.link import Link, ProcessDied

ECHO = """
import json, sys
for line in sys.stdin:
    command = json.loads(line)
    if command["command"] == "stop":
        break
    sys.stderr.write("heard " + command["command"] + "\\n")
    print(json.dumps({"reply": command["command"]}), flush=True)
"""
DEAF = "import time\ntime.sleep(600)"
DEAF_PARENT = f"""
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {DEAF!r}])
print(json.dumps({{"reply": "started", "child": child.pid}}), flush=True)
time.sleep(600)
"""


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Link]]:
    monkeypatch.setattr(vllm_link, "GRACE", 2.0)
    links: list[Link] = []

    def start(script: str) -> Link:
        links.append(Link([sys.executable, "-c", script], os.environ))
        return links[-1]

    yield start
    for each in links:
        each.kill()


def test_commands_and_replies_are_one_json_object_per_line(link: Callable[[str], Link]) -> None:
    echo = link(ECHO)
    for word in ("one", "two\nlines", "ünicode"):
        echo.send(command=word)
        assert echo.receive() == {"reply": word}


def test_a_process_ends_by_itself_on_command_and_leaves_nothing(
    link: Callable[[str], Link], capsys: pytest.CaptureFixture[str]
) -> None:
    echo = link(ECHO)
    echo.send(command="hello")
    echo.receive()
    assert echo.alive
    assert echo.end() == 0
    assert echo.group_is_gone() and gone(echo.pid)
    assert "heard hello" in echo.log
    assert "heard hello" in capsys.readouterr().err


def test_a_process_that_does_not_listen_is_killed_with_its_children(
    link: Callable[[str], Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = link(DEAF_PARENT)
    child = family.receive()["child"]
    monkeypatch.setattr(vllm_link, "GRACE", 0.1)
    assert not family.group_is_gone()
    monkeypatch.setattr(vllm_link, "GRACE", 5.0)
    assert family.end(grace=0.1) == -signal.SIGKILL
    eventually(lambda: gone(child))
    assert family.group_is_gone()


def test_a_killed_process_is_reported_with_its_log_and_its_children_are_killed(link: Callable[[str], Link]) -> None:
    family = link("import sys\nsys.stderr.write('out of luck\\n')\nsys.stderr.flush()\n" + DEAF_PARENT)
    child = family.receive()["child"]
    os.kill(family.pid, signal.SIGKILL)
    with pytest.raises(ProcessDied) as death:
        family.receive()
    assert "SIGKILL" in death.value.how and "memory" in death.value.how
    assert death.value.log == "out of luck"
    eventually(lambda: gone(child))


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("raise SystemExit(3)", "status 3"),
        ("import os\nos.close(1)\nimport time\ntime.sleep(600)", "closed its output"),
        ("print('Segmentation fault', flush=True)\nimport time\ntime.sleep(600)", "'Segmentation fault'"),
        ("print('[1, 2]', flush=True)\nimport time\ntime.sleep(600)", "instead of a reply"),
        ("import os\nos.write(1, b'\\xff\\xfe\\n')", "instead of a reply"),
    ],
)
def test_each_way_to_end_and_each_invalid_reply_is_named(link: Callable[[str], Link], script: str, how: str) -> None:
    other = link(script)
    with pytest.raises(ProcessDied) as death:
        other.receive()
    assert how in death.value.how
    assert not other.alive


def test_replies_sent_before_the_end_still_count(link: Callable[[str], Link]) -> None:
    hasty = link("print('{\"reply\": 1}')\nprint('{\"reply\": 2}')")
    time.sleep(0.3)
    assert [hasty.receive()["reply"], hasty.receive()["reply"]] == [1, 2]
    with pytest.raises(ProcessDied, match="status 0"):
        hasty.receive()


def test_sending_to_an_ended_process_reports_its_death(link: Callable[[str], Link]) -> None:
    dead = link("pass")
    while dead.alive:
        time.sleep(0.05)
    with pytest.raises(ProcessDied, match="status 0"):
        dead.send(command="x" * 1_000_000)  # more than a pipe's buffer holds


def test_an_engine_process_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL: the parent cannot tell the engine to stop."""
    doubles = Path(__file__).parents[2] / "helpers" / "doubles"
    faults = json.dumps({"starts": str(tmp_path / "starts"), "seconds_per_step": 600})
    parent = f"""
import os, sys, time
from flatprobe.generation.vllm_engine.link import Link
from flatprobe.generation.vllm_engine.server import SCRIPT
link = Link([sys.executable, str(SCRIPT)], os.environ | {{"PYTHONPATH": {str(doubles)!r}}})
link.send(command="start", arguments={{"max_model_len": 100}})
link.receive()
link.send(command="sample", prompts=[[1]], requests=[[0, 1]], max_new_tokens=9, temperature=1.0, top_p=1.0,
          ends=[], adapter=None, report_every=0)
print(link.pid, flush=True)
time.sleep(600)
"""
    environment = os.environ | {
        "FLATPROBE_TEST_FAULTS": faults, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", parent], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        engine = int(process.stdout.readline())
        os.kill(engine, 0)
        process.kill()
    eventually(lambda: gone(engine))
