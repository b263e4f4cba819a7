"""The record of code, packages and hardware of a computation."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from flatprobe.provenance import Commit, collect_provenance, source_commit


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "one")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_clean_tree_is_recorded_as_its_commit(repository: Path) -> None:
    assert source_commit(repository / "package") == Commit(revision=git(repository, "rev-parse", "HEAD"), dirty=False)


@pytest.mark.parametrize("file", ["package/code.py", "package/new.py"])
def test_a_changed_or_a_new_file_makes_the_tree_dirty(repository: Path, file: str) -> None:
    (repository / file).write_text("x = 2\n")
    commit = source_commit(repository / "package")
    assert commit is not None
    assert commit.dirty


def test_a_package_installed_inside_a_repository_has_no_commit(repository: Path) -> None:
    installed = repository / "venv"
    installed.mkdir()
    (installed / "code.py").write_text("x = 1\n")
    assert source_commit(installed) is None


def test_a_folder_outside_a_repository_has_no_commit(tmp_path: Path) -> None:
    assert source_commit(tmp_path) is None


def test_packages_are_recorded_with_their_versions_when_they_are_installed() -> None:
    provenance = collect_provenance(threads=2)
    assert provenance.packages["pydantic"] == version("pydantic")
    assert provenance.python == platform.python_version()
    assert provenance.threads == 2
