"""Page and sentences of a comparison of two checkpoints, from rows that are made up."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flatprobe.config.blocks import Position
from flatprobe.models.reference import Reference
from flatprobe.report.comparison import Compared
from flatprobe.report.comparison_words import conclusion
from flatprobe.report.headroom import headroom_words, study_headroom_words
from flatprobe.report.pages.comparison import write_page
from flatprobe.report.tables import comparison as compared_tables
from flatprobe.statistics.geometry.measures import MEASURES, RATIOS
from flatprobe.study.decision_schema import GeometricLeg
from flatprobe.study.pair import Pair
from flatprobe.study.panel import Persona
from flatprobe.study.questions import Question

LAYERS = (3, 9)
POSITIONS: tuple[Position, ...] = ("prompt_mean", "last_response_token")
PERSONAS = (
    Persona(name="librarian", role="source", system="You are a librarian."),
    Persona(name="villain", role="bystander", system="You gloat."),
    Persona(name="assistant", role="reference", system="You help."),
)


def row(measure: str, layer: int | None, position: str, **known: Any) -> dict[str, Any]:
    described = measure in ("headroom", "reliability", "separability", "mean_norm")
    blank: dict[str, Any] = {
        "measure": measure, "layer": layer, "position": position, "responses": "own", "pool": "bystanders",
        "persona": None, "base": 0.9, "treated": 0.93, "difference": 0.03,
        "effect": "ratio" if measure in RATIOS else "difference", "ci_low": 0.01, "ci_high": 0.05, "p_value": 0.01,
        "adjusted_p": None, "estimator": None if described else "question_bootstrap",
        "scope": None if described else "new questions", "n_personas": 1, "n_questions": 4, "note": None,
    }  # fmt: skip
    return blank | known


Change = Callable[[dict[str, Any]], None]


def made(change: Change = lambda row: None, **fields: Any) -> Compared:
    """A comparison in which `change` has edited every row."""
    rows = [
        row(measure, layer, position)
        for position in POSITIONS
        for layer in (*LAYERS, None)
        for measure in (*MEASURES, "headroom", "reliability", "separability", "mean_norm")
    ]
    rows += [
        row("cosine_difference", None, position, persona=name, estimator="question_jackknife_t")
        for position in POSITIONS
        for name in ("villain", "assistant")
    ]
    for one in rows:
        change(one)
    questions = fields.pop("questions", 4)
    pair = Pair(
        base=Reference(kind="hub", id="org/base", fingerprint="c0" * 20),
        treated=Reference(kind="local", id="<b>tuned</b>", fingerprint="f1" * 32), adapter=None, personas=PERSONAS,
        questions=tuple(Question(id=f"q{n}", kind="factual", text="?") for n in range(questions)), layers=LAYERS,
        positions=POSITIONS, responses=("own",), samples=1, max_new_tokens=9, resamples=10, level=0.9, seed=0,
        precision="float32",
    )  # fmt: skip
    massive = pl.DataFrame(
        {
            "condition": ["base", "treated"], "layer": [3, 3], "position": ["last_response_token"] * 2,
            "responses": ["own"] * 2, "rank": [1, 1], "dimension": [7, 7], "ratio_to_median": [55.0, 54.0],
            "share_of_squared_norm": [0.8, 0.7],
        }
    )  # fmt: skip
    pairs = pl.DataFrame(
        [
            {
                "condition": side, "layer": layer, "position": "last_response_token", "responses": "own",
                "persona": one, "other": other, "cosine": 0.9, "relative_squared_distance": distance,
            }
            for side in ("base", "treated")
            for layer in LAYERS
            for one, other, distance in (
                ("librarian", "villain", 0.2), ("librarian", "assistant", 0.1), ("villain", "assistant", 0.15)
            )
        ]
    )  # fmt: skip
    preview = {
        p: [{"persona": "villain", "question_id": "q0", "tokens": ["<s>", "Hi", "."], "index": 2}]
        for p in POSITIONS
    }
    known: dict[str, Any] = {
        "identical": False, "unfinished": {"base": 0, "treated": 0}, "unfinished_fixed": 0, "massive": massive,
        "persona_pairs": pairs, "preview": preview, "seconds": 3.0,
    }  # fmt: skip
    return Compared(pair=pair, rows=rows, **(known | fields))


def setting(measure: str, **known: Any) -> Change:
    def change(one: dict[str, Any]) -> None:
        if one["measure"] == measure and one["persona"] is None:
            one.update(known)

    return change


def test_the_answer_takes_the_cosine_apart_and_says_whether_distances_shrank() -> None:
    def change(one: dict[str, Any]) -> None:
        setting("translation_share", difference=0.02)(one)
        setting("noise_share", difference=-0.005)(one)
        setting("scatter_ratio", difference=0.8, ci_low=0.7, ci_high=0.95)(one)

    first, second = conclusion(made(change))
    assert first == (
        "Raw cosine rose by 0.0300 ([+0.0100, +0.0500]), of which +0.0200 is a common shift of all personas and "
        "−0.0050 is noise of the answers."
    )
    assert "× 0.800 ([0.700, 0.950]): the personas came closer together." in second


@pytest.mark.parametrize(
    ("known", "meaning"),
    [
        ({"difference": 1.3, "ci_low": 1.1, "ci_high": 1.5}, "the personas moved apart"),
        ({"difference": 0.9, "ci_low": 0.7, "ci_high": 1.2}, "no change of distances is shown"),
        (
            {"difference": 0.9, "ci_low": None, "ci_high": None, "note": "undefined on 9 resamples; ratio"},
            "nothing; undefined on 9 resamples.",
        ),
        ({"difference": None, "note": "undefined: a squared distance is not positive"}, "undefined"),
    ],
)
def test_distances_are_said_to_move_only_where_their_interval_says_so(
    known: dict[str, Any], meaning: str
) -> None:
    [sentence] = [line for line in conclusion(made(setting("scatter_ratio", **known))) if "istances" in line]
    assert meaning in sentence


def test_equal_states_are_the_whole_answer() -> None:
    assert conclusion(made(identical=True)) == [
        "All recorded states of the two checkpoints are equal: every difference is exactly 0."
    ]


def test_one_question_low_reliability_and_unfinished_answers_are_said() -> None:
    compared = made(
        setting("reliability", base=0.4), questions=1, unfinished={"base": 2, "treated": 5}
    )  # fmt: skip
    said = " ".join(conclusion(compared)[2:])
    assert "One question: no interval" in said and "split-half 0.40" in said and "(--samples)" in said
    assert "2 of 3 own ones of base, 5 of 3 own ones of treated, 0 of 1 fixed ones" in said
    assert "fewer than two would be left" in said
    left_out = made(unfinished_fixed=1)
    left_out.rows[0]["pool"] = "bystanders, finished answers only"  # type: ignore[index]
    assert "1 of 4 fixed ones; rows named “finished answers only” leave" in conclusion(left_out)[-1]
    assert not conclusion(made())[2:]


@pytest.mark.parametrize(
    ("headroom", "said"),
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
def test_headroom_says_where_the_registered_rise_is_within_reach(
    headroom: dict[int, float], said: str
) -> None:
    assert said in headroom_words(headroom, "all_mean", "own")


def test_a_study_without_room_for_its_rise_hears_that_its_leg_cannot_pass() -> None:
    little, enough = {3: 0.01, 9: 0.02}, {3: 0.2, 9: 0.1}
    cosine, contraction = GeometricLeg(), GeometricLeg(measure="contraction", threshold=0.223)
    assert study_headroom_words(little, "base_first", cosine) == (
        "Headroom of base_first at last_response_token, own responses: 0.0150 on average. A cosine rise of 0.05 could "
        "be reached in no layer, and cannot be on average: the geometric leg cannot pass."
    )
    assert study_headroom_words(enough, "base_first", cosine).endswith("and can be on average.")
    assert "decides by contraction, which is not bounded" in study_headroom_words(
        little, "base_first", contraction
    )


def test_the_page_is_one_file_that_loads_nothing_and_keeps_names_as_text(tmp_path: Path) -> None:
    unknown = made().persona_pairs.with_columns(relative_squared_distance=pl.lit(None, dtype=pl.Float64))
    write_page(made(persona_pairs=unknown), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "No persona map: an unbiased distance is undefined" in page
    assert 'id="figure-persona-map"' not in page
    for name in ("profiles", "profiles-others", "levels", "cosine-pairs"):
        assert f'id="figure-{name}"' in page
    assert "&lt;b&gt;tuned&lt;/b&gt;" in page and "<b>tuned</b>" not in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert 'class="tok probed">.</span>' in page
    for title in ("Answer", "Headroom", "Layers", "Positions", "Personas", "Measures", "Tokens", "Record"):
        assert f"<h2>{title}</h2>" in page


def test_every_number_of_a_row_stands_under_its_own_head() -> None:
    compared = made(setting("contraction", difference=0.25))
    table = compared_tables.layers(compared, "last_response_token", "own")
    cells = dict(zip([head for head, _ in table.heads], table.rows[0], strict=True))
    assert cells["layer"] == "3" and cells["base cosine"] == "0.9000" and cells["contraction"] == "+0.250"
    assert cells["90 % interval"] == "[+0.0100, +0.0500]" and cells["adjusted p"] == "–"
    assert [line[0] for line in table.rows] == ["3", "9", "mean"]


def test_personas_are_listed_with_their_role_once_each() -> None:
    rows = compared_tables.personas(made()).rows
    assert [line[:2] for line in rows] == [("villain", "bystander"), ("assistant", "reference")]


def test_ratios_are_printed_without_a_sign_and_differences_with_one() -> None:
    table = compared_tables.measures(made(), every_estimator=False)
    change = {line[0]: line[3] for line in table.rows}
    assert len(change) == len(MEASURES) + 4
    assert change["cosine difference"] == "+0.0300"
    assert sum(not text.startswith("+") for text in change.values()) == len(RATIOS)
