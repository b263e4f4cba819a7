from __future__ import annotations

from pathlib import Path

import pytest

from flatprobe.errors import UserError
from flatprobe.machine import local as machine
from flatprobe.machine.load import load_machine
from flatprobe.machine.local import Local, to_environment
from flatprobe.machine.schema import Machine, OpenaiMachine, VllmMachine
from flatprobe.prepare import cores, runner_settings


def written(folder: Path, text: str) -> Path:
    path = folder / "machine.yaml"
    path.write_text(text)
    return path


def test_the_engine_is_the_reference_unless_the_machine_says_otherwise(tmp_path: Path) -> None:
    assert load_machine(written(tmp_path, "device: cpu\n")).engine == "transformers"
    found = load_machine(
        written(tmp_path, "engine: vllm\nvllm: {python: /opt/vllm/bin/python, gpu_memory: 0.5}\n")
    )
    assert found.vllm == VllmMachine(python="/opt/vllm/bin/python", gpu_memory=0.5)


def test_a_server_needs_its_address(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`engine: openai` needs `openai:`"):
        load_machine(written(tmp_path, "engine: openai\n"))


def test_vllm_is_not_asked_to_share_a_gpu_with_itself(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`workers` must not be more than `gpus`"):
        load_machine(written(tmp_path, "engine: vllm\nworkers: 2\n"))
    with pytest.raises(UserError, match="`vllm.tensor_parallel_size` must be 1"):
        load_machine(
            written(tmp_path, "engine: vllm\nworkers: 2\ngpus: 2\nvllm: {tensor_parallel_size: 2}\n")
        )
    assert load_machine(written(tmp_path, "engine: vllm\nworkers: 2\ngpus: 2\n")).workers == 2


def test_cores_are_shared_out_among_workers_unless_the_machine_says_otherwise() -> None:
    assert runner_settings(Machine(), {}).threads is None
    assert runner_settings(Machine(workers=1000), {}).threads == 1
    assert runner_settings(Machine(workers=2), {}).threads == max(1, cores() // 2)
    assert runner_settings(Machine(workers=2, threads=3), {}).threads == 3


def test_an_engine_of_one_s_own_is_named_by_an_import_string(tmp_path: Path) -> None:
    machine_file = written(tmp_path, "engine: my_package.engines:make_engine\n")
    assert load_machine(machine_file).engine == "my_package.engines:make_engine"
    for wrong in ("vlm", "my_package.engines", "my_package:"):
        with pytest.raises(UserError, match=f"`{wrong}`.*`transformers`") as refusal:
            load_machine(written(tmp_path, f"engine: '{wrong}'\n"))
        assert [problem.place for problem in refusal.value.problems] == [f"{machine_file}:1"]


def test_a_worker_hears_of_the_engine_and_all_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Local(
        device="cpu", sampling_rows=1, forward_rows=2, training_rows=3, locations={}, engine="openai",
        vllm=VllmMachine(enforce_eager=True),
        openai=OpenaiMachine(base_url="http://127.0.0.1:8000/v1", model="m", api_key_env="KEY"),
    )  # fmt: skip
    for name, text in to_environment(told).items():
        monkeypatch.setenv(name, text)
    assert machine.current() == told


def test_every_field_that_a_worker_needs_of_the_machine_file_has_the_same_name_there() -> None:
    own = set(Local.model_fields) - {"locations"}
    assert own <= set(Machine.model_fields)
