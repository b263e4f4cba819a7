"""The run folder's face: written whole or not at all, and again exactly when what it shows has changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from planted import planted_study
from planted_couplings import found

from flatprobe.analysis import run_folder as room
from flatprobe.errors import UserError
from flatprobe.pipeline.artifact import ArtifactStore
from flatprobe.pipeline.lock import run_lock
from flatprobe.pipeline.manifest import Manifest, describe_files, write_manifest
from flatprobe.pipeline.stage import Settings, Stage
from flatprobe.planner.plan import Plan
from flatprobe.provenance import collect_provenance
from flatprobe.study.loaded import LoadedStudy

DIGEST = "ab" * 32
TABLES = Stage(name="tables", function="planted:tables", settings=Settings())
ESTIMATES = Stage(name="estimates", function="planted:estimates", settings=Settings(), inputs={"tables": TABLES})
VERDICT = Stage(name="verdict", function="planted:verdict", settings=Settings(), inputs={"estimates": ESTIMATES})
PLAN = Plan(control_states=TABLES, tables=TABLES, estimates=ESTIMATES, verdict=VERDICT)
GIVEN = {"origin": "given", "kind": "hub", "id": "owner/tuned", "fingerprint": "f1", "model_type": "llama"}
DATA = {"rows": 300, "held_out": 20, "sha256": "s1", "response_tokens": {"median": 40.0}, "first_rows": []}
COUPLE = {**found("em_first"), "adapter_norm": 1.0, "audited": 1.0, "examples": {"positive": 96}}
FACTS = [
    {"role": kind, "kind": kind, "condition": "em_first", "seed": seed, "couple": None, "facts": facts}
    for kind, seed, facts in (("checkpoint", 42, GIVEN), ("finetune_data", None, DATA), ("couple", 42, COUPLE))
]


def seal(run: Path, stage: Stage, files: dict[str, str | Path]) -> None:
    """Make a stage's artifact of texts and of files or folders to copy."""
    store = ArtifactStore(run)
    partial = store.new_partial()
    for name, content in files.items():
        if isinstance(content, str):
            (partial / name).write_text(content)
        elif content.is_dir():
            shutil.copytree(content, partial / name)
        else:
            shutil.copy(content, partial / name)
    manifest = Manifest(
        key=stage.key, name=stage.name, function=stage.function, version=1, settings={}, inputs={},
        files=describe_files(partial), started="2025-01-31T12:00:00+00:00", seconds=1.0,
        provenance=collect_provenance(),
    )  # fmt: skip
    write_manifest(partial, manifest)
    store.commit(partial, stage)


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A run folder whose stages are finished."""
    tables = {name: folder / name for name in ("tables", "audit.json", "preview.json")}
    selection = (folder / "lambda.json").read_text()
    seal(tmp_path, TABLES, {**tables, "selection.json": selection, "facts-by-stage.json": json.dumps(FACTS)})
    estimated = [name for name in room.COPIED["estimates"] if name.endswith(".parquet")]
    of_estimates: dict[str, str | Path] = {name: folder / "tables" / name for name in estimated}
    seal(tmp_path, ESTIMATES, {"estimates.json": folder / "estimates.json", **of_estimates})
    seal(tmp_path, VERDICT, {"verdict.json": folder / "verdict.json"})
    return tmp_path


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The study names of all pages that were rendered, in place of the pages themselves."""
    names: list[str] = []

    def note(analysis: Path, page: Path) -> None:
        names.append(json.loads((analysis / "study.json").read_text())["description"])
        page.write_text(names[-1])

    monkeypatch.setattr(room, "_render", note)
    return names


def loaded(description: str = "as planted") -> LoadedStudy:
    study = planted_study().model_copy(update={"description": description})
    return LoadedStudy(study, Path("study.yaml"), {}, {}, {})


def test_a_finished_run_is_laid_out_whole_and_only_once(run: Path, rendered: list[str]) -> None:
    page = room.assemble(loaded(), DIGEST, PLAN, run)
    assert page.read_text() == "as planted"
    analysis = run / "analysis"
    assert {path.stem for path in analysis.glob("*.json")} >= {
        "study", "registration", "verdict", "estimates", "stages", "provenance", "models", "audit", "lambda",
        "preview",
    }  # fmt: skip
    assert {"rates.parquet", "cosines.parquet", "specifications.parquet", "leave_one_out.parquet"} <= {
        path.name for path in (analysis / "tables").iterdir()
    }
    room.assemble(loaded(), DIGEST, PLAN, run)
    assert rendered == ["as planted"]
    assert not list(run.glob(".*partial*"))


def test_the_checkpoint_its_data_and_what_its_couplings_did_stand_together(run: Path, rendered: list[str]) -> None:
    room.assemble(loaded(), DIGEST, PLAN, run)
    models = json.loads((run / "analysis" / "models.json").read_text())
    couplings = [found("em_first")]
    assert models == {"em_first": {**GIVEN, "data": DATA, "couplings": couplings}}


def test_a_new_description_makes_a_new_page(run: Path, rendered: list[str]) -> None:
    room.assemble(loaded(), DIGEST, PLAN, run)
    page = room.assemble(loaded("said better"), DIGEST, PLAN, run)
    assert page.read_text() == "said better"


def test_an_artifact_that_came_out_otherwise_makes_a_new_page(run: Path, folder: Path, rendered: list[str]) -> None:
    room.assemble(loaded(), DIGEST, PLAN, run)
    changed = {**json.loads((folder / "verdict.json").read_text()), "scope": "another"}
    seal(run, VERDICT, {"verdict.json": json.dumps(changed)})
    room.assemble(loaded(), DIGEST, PLAN, run)
    assert len(rendered) == 2
    assert json.loads((run / "analysis" / "verdict.json").read_text())["scope"] == "another"


def test_a_page_that_failed_leaves_the_old_face_and_is_made_the_next_time(
    run: Path, rendered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = room.assemble(loaded("old"), DIGEST, PLAN, run)
    with monkeypatch.context() as broken:
        broken.setattr(room, "_render", lambda analysis, page: page.rename("nowhere"))
        with pytest.raises(FileNotFoundError):
            room.assemble(loaded("new"), DIGEST, PLAN, run)
    assert page.read_text() == "old"
    assert json.loads((run / "analysis" / "study.json").read_text())["description"] == "old"
    assert room.assemble(loaded("new"), DIGEST, PLAN, run).read_text() == "new"


@pytest.mark.parametrize("lost", ["analysis", "report.html"])
def test_a_lost_part_is_made_again(run: Path, rendered: list[str], lost: str) -> None:
    room.assemble(loaded(), DIGEST, PLAN, run)
    path = run / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    room.assemble(loaded(), DIGEST, PLAN, run)
    assert path.exists()


def test_nothing_is_written_while_a_run_holds_the_lock(run: Path, rendered: list[str]) -> None:
    with run_lock(run), pytest.raises(UserError) as caught:
        room.assemble(loaded(), DIGEST, PLAN, run)
    assert [(problem.code, problem.place) for problem in caught.value.problems] == [("run.locked", str(run))]
    assert rendered == []
    assert not (run / "analysis").exists()


def test_an_unfinished_stage_is_named(run: Path, rendered: list[str]) -> None:
    shutil.rmtree(ArtifactStore(run).path(ESTIMATES))
    with pytest.raises(UserError, match="stage estimates is not finished"):
        room.assemble(loaded(), DIGEST, PLAN, run)
