"""Records what computed a result: code, packages, hardware. Stored beside results, never part of a key."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

KEY_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "vllm",
    "safetensors",
    "tokenizers",
    "datasets",
    "numpy",
    "scipy",
    "polars",
    "pydantic",
)
"""Packages whose version can change a number."""


class Commit(BaseModel):
    """The revision of the source tree that flatprobe was imported from."""

    model_config = ConfigDict(frozen=True)

    revision: str
    """40 hexadecimal digits."""
    dirty: bool
    """Whether the tree had changes or untracked files on top of that revision."""


class Provenance(BaseModel):
    """Code, packages and hardware of one computation."""

    model_config = ConfigDict(frozen=True)

    flatprobe: str | None
    """Version of the installed package; None if it is not installed."""
    commit: Commit | None
    """None if the package is not in a git working tree."""
    python: str
    packages: dict[str, str]
    """Installed packages of KEY_PACKAGES to their versions."""
    platform: str
    cpu_count: int | None
    """Logical processors of the machine."""
    threads: int | None
    """Thread limit of numerical libraries; None if they chose it themselves."""
    gpus: list[str]
    """`name, driver version, memory` of each NVIDIA GPU of the machine, used or not."""


def collect_provenance(threads: int | None = None) -> Provenance:
    """Describe this process. Imports none of the packages that it names."""
    versions = {name: installed_version(name) for name in KEY_PACKAGES}
    return Provenance(
        flatprobe=installed_version("flatprobe"),
        commit=source_commit(Path(__file__).parent),
        python=platform.python_version(),
        packages={name: number for name, number in versions.items() if number is not None},
        platform=platform.platform(),
        cpu_count=os.cpu_count(),
        threads=threads,
        gpus=list(_gpus()),
    )


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def source_commit(folder: Path) -> Commit | None:
    """The commit of the git working tree that tracks the Python files of `folder`.

    None without git and outside a working tree. None also for a package installed inside another project's tree (a
    virtual environment in a repository), because that commit says nothing about the package.
    """
    if not _output("git", "-C", str(folder), "ls-files", "--", "*.py"):
        return None
    status = _output("git", "-C", str(folder), "status", "--porcelain=v2", "--branch")
    if status is None:
        return None
    lines = status.splitlines()
    revision = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), None)
    if revision is None or revision == "(initial)":
        return None
    return Commit(revision=revision, dirty=any(not line.startswith("#") for line in lines))


@cache
def _gpus() -> tuple[str, ...]:
    query = _output("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    return tuple(query.splitlines()) if query else ()


def _output(*command: str) -> str | None:
    """Standard output of a command. None if it is not installed, fails or hangs."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout if process.returncode == 0 else None
