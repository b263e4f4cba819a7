"""The front door: names are handed on lazily, and every example in their docstrings runs."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import flatprobe

ROOT = Path(__file__).parents[1]
FUNCTIONS = sorted(name for name in flatprobe.__all__ if inspect.isfunction(getattr(flatprobe, name)))


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, flatprobe\n"
        "heavy = {'torch', 'polars', 'numpy', 'pydantic', 'scipy', 'transformers'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_name_is_there_and_typed() -> None:
    assert {"load_study", "plan", "run", "read_results", "compare_checkpoints", "leakage_contrast", "States",
            "geometry_contrasts", "Estimate", "decide", "sample", "simulate"} <= set(flatprobe.__all__)  # fmt: skip
    source = ast.parse(Path(flatprobe.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.asname
        for node in ast.walk(source)
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert set(flatprobe.__all__) <= typed
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = flatprobe.nothing


def test_a_name_stays_a_function_after_its_room_was_imported() -> None:
    flatprobe.plan(ROOT / "studies" / "quick.yaml")
    assert all(callable(getattr(flatprobe, name)) for name in flatprobe.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_a_function_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    function = getattr(flatprobe, name)
    tests = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert tests[0].examples, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(tests[0]).failed == 0


def test_the_python_of_the_readme_prints_what_the_readme_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code, _, rest = readme.partition("```python\n")[2].partition("```\n")
    shown = rest.partition("```\n")[2].partition("```")[0]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.split() == shown.split()
