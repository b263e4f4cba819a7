"""Page, tables and sentences of a study without a coupling, from planted rows."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from table_heads import heads_of, unexplained

from flatprobe.errors import UserError
from flatprobe.report.analysis_folder import Analysis, read
from flatprobe.report.comparison import conclusion
from flatprobe.report.headroom import headroom_words
from flatprobe.report.pages.study import render
from flatprobe.report.tables import comparison as tables
from flatprobe.statistics.geometry.measures import MEASURES, RATIOS
from flatprobe.study.decision_schema import Decision, GeometricLeg
from flatprobe.study.schema import Condition, Model, Panel, Study
from flatprobe.table_schemas import GEOMETRIC

LAYERS = (6, 10)
POSITIONS = ("last_response_token", "prompt_mean")
DESCRIPTIONS = ("headroom", "reliability", "separability", "mean_norm")
Change = Callable[[dict[str, Any]], None]


def row(measure: str, layer: int | None, position: str, **known: Any) -> dict[str, Any]:
    blank: dict[str, Any] = {
        "measure": measure, "layer": layer, "position": position, "responses": "own", "pool": "bystanders",
        "persona": None, "base": 0.9, "treated": 0.93, "difference": 0.03,
        "effect": "ratio" if measure in RATIOS else "difference", "ci_low": 0.01, "ci_high": 0.05, "p_value": 0.01,
        "adjusted_p": None, "estimator": None if measure in DESCRIPTIONS else "question_bootstrap",
        "scope": None, "n_personas": 1, "n_questions": 4, "note": None,
    }  # fmt: skip
    return blank | known


def comparison(change: Change = lambda row: None, **facts: Any) -> dict[str, Any]:
    """A comparison in which `change` has edited every row."""
    rows = [
        row(measure, layer, position)
        for position in POSITIONS
        for layer in (*LAYERS, None)
        for measure in (*MEASURES, *DESCRIPTIONS)
    ]
    rows += [
        row("cosine_difference", None, position, persona=name, estimator="question_jackknife_t")
        for position in POSITIONS
        for name in ("archivist", "assistant")
    ]
    for one in rows:
        change(one)
    unfinished = {"base_first": 0, "em_first": 0}
    return {"identical": False, "unfinished": unfinished, "unfinished_fixed": 0, "rows": rows, **facts}


@pytest.fixture
def geometry_folder(folder: Path, tmp_path: Path) -> Path:
    """The planted analysis folder as a study without a coupling leaves it."""
    folder = shutil.copytree(folder, tmp_path / "analysis")
    study = json.loads((folder / "study.json").read_text())
    study["coupling"], study["decision"]["benign"] = None, None
    (folder / "study.json").write_text(json.dumps(study))
    for name in ("verdict", "audit", "lambda"):
        (folder / f"{name}.json").unlink()
    for table in (folder / "tables").iterdir():
        if table.stem not in (*GEOMETRIC, "massive"):
            table.unlink()
    (folder / "comparison.json").write_text(json.dumps(comparison()))
    return folder


@pytest.fixture
def made(geometry_folder: Path) -> Callable[..., Analysis]:
    """`made(change, questions=1, **facts)`: the planted analysis with another comparison."""
    analysis = read(geometry_folder)

    def make(change: Change = lambda row: None, questions: int | None = None, **facts: Any) -> Analysis:
        shown = analysis.tables["questions"].head(questions) if questions else analysis.tables["questions"]
        changed = {**analysis.tables, "questions": shown}
        return dataclasses.replace(analysis, comparison=comparison(change, **facts), tables=changed)

    return make


def setting(measure: str, **known: Any) -> Change:
    def change(one: dict[str, Any]) -> None:
        if one["measure"] == measure and one["persona"] is None:
            one.update(known)

    return change


def test_the_conclusion_takes_the_cosine_apart_and_says_whether_distances_shrank(made: Callable[..., Analysis]) -> None:
    def change(one: dict[str, Any]) -> None:
        setting("translation_share", difference=0.02)(one)
        setting("noise_share", difference=-0.005)(one)
        setting("scatter_ratio", difference=0.8, ci_low=0.7, ci_high=0.95)(one)

    first, second = conclusion(made(change))
    assert first == (
        "Raw cosine rose by 0.0300 ([+0.0100, +0.0500]), of which +0.0200 is a common translation of all personas and "
        "−0.0050 is noise of the answers."
    )
    assert "× 0.800 ([0.700, 0.950]): the personas came closer together." in second


@pytest.mark.parametrize(
    ("known", "meaning"),
    [
        ({"difference": 1.3, "ci_low": 1.1, "ci_high": 1.5}, "the personas moved apart"),
        ({"difference": 0.9, "ci_low": 0.7, "ci_high": 1.2}, "no change of distances was detected"),
        (
            {"difference": 0.9, "ci_low": None, "ci_high": None, "note": "undefined on 9 resamples; ratio"},
            "nothing; undefined on 9 resamples.",
        ),
        ({"difference": None, "note": "undefined: a squared distance is not positive"}, "undefined"),
    ],
)
def test_distances_are_said_to_move_only_where_their_interval_says_so(
    made: Callable[..., Analysis], known: dict[str, Any], meaning: str
) -> None:
    [sentence] = [line for line in conclusion(made(setting("scatter_ratio", **known))) if "istances" in line]
    assert meaning in sentence


def test_equal_states_are_the_whole_conclusion(made: Callable[..., Analysis]) -> None:
    assert conclusion(made(identical=True)) == [
        "All recorded states of the two checkpoints are equal: every difference is exactly 0."
    ]


def test_one_question_low_reliability_and_unfinished_answers_limit_the_reading(made: Callable[..., Analysis]) -> None:
    analysis = made(setting("reliability", base=0.4), questions=1, unfinished={"base_first": 2, "em_first": 5})
    cautions, cells = " ".join(conclusion(analysis)[2:]), analysis.tables["panel"].height
    assert "One question: no interval" in cautions and "split-half 0.40" in cautions
    assert f"2 of {cells} own answers of base_first, 5 of {cells} own answers of em_first, 0 of 1 fixed" in cautions
    assert "fewer than two questions" in cautions
    left_out = made(setting("norm_ratio", pool="finished answers only"), unfinished_fixed=1)
    assert "“finished answers only” leaves" in conclusion(left_out)[-1]
    assert not conclusion(made())[2:]


def planted(coupling: bool, measure: Any = "cosine_difference", threshold: float = 0.05) -> Study:
    leg = GeometricLeg(measure=measure, threshold=threshold)
    without = {} if coupling else {"coupling": None}
    return Study(
        name="s", model=Model(id="m"), panel=Panel(bystanders=("a",)), conditions={"base": Condition()},
        decision=Decision(control="base", geometry=leg), **without,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("headroom", "where"),
    [
        ({3: 0.2, 9: 0.1}, "could be reached in every layer, and can be on average"),
        ({3: 0.01, 9: 0.12}, "could be reached at layer 9 only, and can be on average"),
        (
            {0: 0.2, 1: 0.2, 2: 0.2, 3: 0.01, 5: 0.2, 6: 0.2},
            "could be reached at layers 0–2, 5, 6 only, and can be on average",
        ),
        ({3: 0.01, 9: 0.02}, "could be reached in no layer, and cannot be on average"),
    ],
)
@pytest.mark.parametrize("coupling", [True, False])
def test_headroom_says_where_the_registered_rise_is_within_reach(
    headroom: dict[int, float], where: str, coupling: bool
) -> None:
    words = headroom_words(headroom, planted(coupling))
    assert where in words and "Headroom of base at last_response_token, own responses" in words
    assert ("geometric leg cannot pass" in words) == (coupling and "cannot be on average" in where)


def test_a_study_that_decides_by_contraction_has_no_such_bound() -> None:
    words = headroom_words({3: 0.01, 9: 0.02}, planted(True, "contraction", 0.223))
    assert "decides by contraction" in words and "cannot" not in words


def test_the_page_has_the_geometric_sections_and_claims_no_verdict(geometry_folder: Path, tmp_path: Path) -> None:
    render(geometry_folder, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    sections = re.findall(r'<section id="([a-z]+)"', page)
    assert sections == [
        "comparison", "geometry", "examples", "study", "record", "panel", "glossary", "limits",
    ]  # fmt: skip
    assert re.findall(r'<li><a href="#([a-z]+)">', page) == sections
    assert "No verdict: geometry only" in page
    assert "difference or ratio (×)" in heads_of(page) and unexplained(page) == set()
    assert "Raw cosine rose by" in page and "All recorded states" not in page
    for name in ("profiles", "persona-map", "cosine-pairs"):
        assert f'id="figure-{name}"' in page
    assert not re.search(r"(src|href)=\"(?!#)", page)


def test_a_missing_comparison_is_refused(geometry_folder: Path) -> None:
    (geometry_folder / "comparison.json").unlink()
    with pytest.raises(UserError) as raised:
        read(geometry_folder)
    assert [problem.place for problem in raised.value.problems] == [str(geometry_folder / "comparison.json")]


def test_every_number_of_a_row_stands_under_its_own_head(made: Callable[..., Analysis]) -> None:
    table = tables.by_layer(made(setting("cosine_difference", difference=0.25)))
    cells = dict(zip([head for head, _ in table.heads], table.rows[0], strict=True))
    assert cells["layer"] == "6" and cells["base_first"] == "0.9000" and cells["em_first"] == "0.9300"
    assert cells["difference or ratio (×)"] == "+0.2500" and cells["95 % interval"] == "[+0.0100, +0.0500]"
    assert cells["p"] == "0.010" and cells["adjusted p"] == "–"
    assert [line[0] for line in table.rows] == ["6", "10", "mean over layers"]


def test_the_positions_have_a_row_each(made: Callable[..., Analysis]) -> None:
    assert [line[0] for line in tables.by_position(made()).rows] == [f"{name}, own" for name in POSITIONS]


def test_personas_are_listed_with_their_role_once_each(made: Callable[..., Analysis]) -> None:
    rows = tables.by_persona(made()).rows
    assert [line[0] for line in rows] == ["archivist, bystander", "assistant, reference"]


def test_ratios_are_printed_as_factors_and_differences_with_a_sign(made: Callable[..., Analysis]) -> None:
    change = {line[0]: line[3] for line in tables.by_measure(made()).rows}
    assert len(change) == len(MEASURES) + len(DESCRIPTIONS)
    assert change["cosine difference"] == "+0.0300"
    assert sum(text.startswith("×") for text in change.values()) == len(RATIOS)
    assert all(text.startswith(("×", "+")) for text in change.values())
