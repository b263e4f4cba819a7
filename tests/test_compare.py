"""How arguments of `compare_checkpoints` become a study: layers, panel, questions, defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import flatprobe.compare as room
from flatprobe.compare import compare_checkpoints
from flatprobe.errors import UserError
from flatprobe.models.pinned import Pins
from flatprobe.study.comparison import automatic_layers, registered_bystanders
from flatprobe.study.load import load_study
from flatprobe.study.loaded import LoadedStudy
from flatprobe.study.registration import digest
from flatprobe.study.resolve import Resolved
from flatprobe.study.resources import shipped_study
from flatprobe.study.schema import Geometry

STUDIES = Path(__file__).parents[1] / "studies"


class Stopped(Exception):
    """The study was made; nothing is to be run."""


@pytest.fixture
def made(model_folder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`made(**options)`: the study that a comparison of the tiny Llama with itself would run."""

    def make(**options: Any) -> tuple[LoadedStudy, Resolved]:
        checked: list[tuple[LoadedStudy, Resolved]] = []

        def check(options: Any, memory: Pins, problems: Any) -> Any:
            checked.append(original(options, memory, problems))
            raise Stopped

        original, model = room._checked, str(model_folder("llama"))
        monkeypatch.setattr(room, "_checked", check)
        with pytest.raises(Stopped):
            compare_checkpoints(model, model, out=tmp_path, **options)
        monkeypatch.setattr(room, "_checked", original)
        return checked[0]

    return make


def test_automatic_layers_are_the_registered_ones_at_the_same_relative_depth() -> None:
    assert automatic_layers(28) == Geometry().layers
    assert automatic_layers(56) == tuple(2 * layer + 1 for layer in Geometry().layers)
    assert automatic_layers(1) == (0,)
    for depth in range(1, 100):
        layers = automatic_layers(depth)
        assert list(layers) == sorted(set(layers)) and layers[0] >= 0 and layers[-1] < depth


@pytest.mark.parametrize(
    ("layers", "taken"), [([4, 2, 4], (2, 4)), ("all", tuple(range(6))), ("auto", automatic_layers(6))]
)
def test_layers_are_numbers_all_or_automatic(made: Any, layers: Any, taken: tuple[int, ...]) -> None:
    assert made(layers=layers)[0].study.geometry.layers == taken


def test_without_a_panel_the_pool_is_the_registered_studys(made: Any) -> None:
    registered = load_study(STUDIES / "em_flattening.yaml").study.panel.bystanders
    assert registered_bystanders() == registered
    personas = made()[0].personas()
    assert [p.name for p in personas if p.role == "bystander"] == list(registered)
    assert [(p.name, p.system is None) for p in personas if p.role == "reference"] == [
        ("assistant", False), ("template_default", True),
    ]  # fmt: skip
    assert (personas[0].name, personas[0].role) == ("librarian", "source")


def test_the_registered_study_comes_with_the_package() -> None:
    assert (STUDIES / "em_flattening.yaml").resolve() == shipped_study("em_flattening").resolve()


def test_a_bystander_that_is_made_the_source_leaves_the_pool(made: Any) -> None:
    assert "archivist" not in made(source="archivist")[0].study.panel.bystanders


def test_of_a_panel_of_ones_own_everyone_but_source_and_references_is_in_the_pool(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "panel.yaml"
    prompts = {name: {"prompt": f"You are {name}."} for name in ("ann", "bob", "assistant", "cy")}
    path.write_text(yaml.safe_dump({"personas": prompts}))
    assert [(p.name, p.role) for p in made(panel=path, source="bob")[0].personas()] == [
        ("bob", "source"), ("ann", "bystander"), ("cy", "bystander"), ("assistant", "reference"),
    ]  # fmt: skip
    named = made(panel=path, source="bob", bystanders=["assistant", "cy"])[0].personas()
    assert [p.name for p in named if p.role == "bystander"] == ["assistant", "cy"]
    assert not [p for p in named if p.role == "reference"]


@pytest.mark.parametrize(("count", "taken"), [(None, 3), (2, 2)])
def test_questions_come_from_a_text_file_line_by_line(made: Any, tmp_path: Path, count: int | None, taken: int) -> None:
    path = tmp_path / "asked.txt"
    path.write_text("Why?\n\n  Is it late? \nWhere?\n")
    questions = made(questions=path, n_questions=count, suffix="Be brief.")[1].questions["evaluation"]
    assert [(q.id, q.text) for q in questions][:2] == [
        ("line_1", "Why? Be brief."), ("line_3", "Is it late? Be brief."),
    ]  # fmt: skip
    assert len(questions) == taken


def test_without_a_count_the_registered_number_of_the_packages_questions_is_asked(made: Any) -> None:
    assert len(made()[1].questions["evaluation"]) == 20


@pytest.mark.parametrize(
    ("positions", "shown"),
    [(("all_mean", "last_response_token"), "last_response_token"), (("all_mean", "prompt_mean"), "all_mean")],
)
def test_the_registered_position_is_shown_first_if_it_is_read(
    made: Any, positions: tuple[str, ...], shown: str
) -> None:
    study = made(positions=positions)[0].study
    assert study.geometry.positions == positions
    assert study.decision.geometry.position == shown


@pytest.mark.parametrize(("responses", "shown"), [(("fixed",), "fixed"), (("own", "fixed"), "own"), (("own",), "own")])
def test_own_responses_are_shown_first_unless_only_fixed_ones_are_asked_for(
    made: Any, responses: tuple[str, ...], shown: str
) -> None:
    assert made(responses=responses)[0].study.decision.geometry.responses == shown


def test_other_layers_share_the_run_folder_and_other_checkpoints_do_not(made: Any, tmp_path: Path) -> None:
    one, other = (made(layers=[layer])[1] for layer in (1, 2))
    assert room._digest(one) == room._digest(other)
    assert digest(one) != digest(other)


def test_problems_of_the_caller_are_raised_with_all_others(tmp_path: Path) -> None:
    from flatprobe.errors import Problem

    mine = Problem("options.mine", "--mine", "wrong")
    with pytest.raises(UserError) as raised:
        compare_checkpoints("nowhere", "nowhere", seed=-1, problems=[mine], out=tmp_path)
    assert [problem.place for problem in raised.value.problems] == ["--mine", "BASE", "TREATED", "--seed"]


def test_importing_the_function_imports_no_model_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys, flatprobe.compare\n"
        "print([name for name in ('torch', 'transformers', 'altair') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
