"""Items spread over processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flatprobe.simulation.processes import spread


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_items(jobs: int) -> None:
    finished: list[str] = []
    assert spread(int, ["3", "1", "2"], jobs, finished.append) == [3, 1, 2]
    assert sorted(finished) == ["1", "2", "3"]


def test_each_process_has_one_numerical_thread() -> None:
    assert spread(os.getenv, ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"], 2) == ["1", "1"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_one_item_is_raised(jobs: int) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        spread(int, ["1", "x", "2"], jobs)


def test_processes_start_without_numpy_which_reads_its_number_of_threads_at_import() -> None:
    code = "import sys, flatprobe.simulation.processes; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
