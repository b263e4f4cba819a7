from __future__ import annotations

from pathlib import Path

import pytest

from flatprobe.errors import UserError
from flatprobe.machine.load import load_machine
from flatprobe.machine.local import Local, current_machine, to_environment
from flatprobe.machine.schema import Machine, OpenaiMachine, VllmMachine
from flatprobe.prepare import cores, runner_settings


def written(folder: Path, text: str) -> Path:
    path = folder / "machine.yaml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str) -> tuple[str, int]:
    """Code and line of the only problem of a machine file."""
    with pytest.raises(UserError) as caught:
        load_machine(written(folder, text))
    (problem,) = caught.value.problems
    return problem.code, int(problem.place.rpartition(":")[2])


def test_the_engine_is_the_reference_unless_the_machine_says_otherwise(tmp_path: Path) -> None:
    assert load_machine(written(tmp_path, "device: cpu\n")).engine == "transformers"
    machine_with_vllm = load_machine(
        written(tmp_path, "engine: vllm\nvllm: {python: /opt/vllm/bin/python, gpu_memory: 0.5}\n")
    )
    assert machine_with_vllm.vllm == VllmMachine(python="/opt/vllm/bin/python", gpu_memory=0.5)


def test_a_server_needs_its_address(tmp_path: Path) -> None:
    assert refusal(tmp_path, "engine: openai\n") == ("machine.no_server", 1)


def test_two_vllm_workers_cannot_share_a_gpu(tmp_path: Path) -> None:
    assert refusal(tmp_path, "engine: vllm\nworkers: 2\n") == ("machine.workers_per_gpu", 1)
    split = "engine: vllm\nworkers: 2\ngpus: 2\nvllm: {tensor_parallel_size: 2}\n"
    assert refusal(tmp_path, split) == ("machine.tensor_parallel", 1)
    assert load_machine(written(tmp_path, "engine: vllm\nworkers: 2\ngpus: 2\n")).workers == 2


def test_cores_are_divided_among_workers_unless_the_machine_gives_threads() -> None:
    assert runner_settings(Machine(), {}).threads is None
    assert runner_settings(Machine(workers=1000), {}).threads == 1
    assert runner_settings(Machine(workers=2), {}).threads == max(1, cores() // 2)
    assert runner_settings(Machine(workers=2, threads=3), {}).threads == 3


def test_your_own_engine_is_given_by_an_import_string(tmp_path: Path) -> None:
    machine_file = written(tmp_path, "engine: my_package.engines:make_engine\n")
    assert load_machine(machine_file).engine == "my_package.engines:make_engine"
    for wrong in ("vlm", "my_package.engines", "my_package:"):
        assert refusal(tmp_path, f"engine: '{wrong}'\n") == ("machine.unknown_engine", 1)


def test_a_worker_receives_the_engine_and_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    local = Local(
        device="cpu", sampling_rows=1, forward_rows=2, training_rows=3, locations={}, engine="openai",
        vllm=VllmMachine(enforce_eager=True),
        openai=OpenaiMachine(base_url="http://127.0.0.1:8000/v1", model="m", api_key_env="KEY"),
    )  # fmt: skip
    for name, text in to_environment(local).items():
        monkeypatch.setenv(name, text)
    assert current_machine() == local


def test_fields_that_a_worker_reads_have_the_same_names_in_the_machine_file() -> None:
    fields = set(Local.model_fields) - {"locations"}
    assert fields <= set(Machine.model_fields)
