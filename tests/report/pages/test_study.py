"""The page: complete, self-contained, safe against hostile completions, and refused if a number is missing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from planted_rows import HOSTILE

from flatprobe.errors import UserError
from flatprobe.report.analysis_folder import read
from flatprobe.report.pages.study import render
from flatprobe.report.tables import run as tables_run

SECTIONS = (
    "decision",
    "gates",
    "leakage",
    "geometry",
    "robustness",
    "dose",
    "binding",
    "training",
    "masks",
    "weights",
    "manipulation",
    "examples",
    "study",
    "record",
    "panel",
    "glossary",
    "limits",
)
FIGURES = (
    "decision-plane",
    "leakage",
    "cosine-by-layer",
    "effect-by-layer",
    "persona-map",
    "cosine-pairs",
    "profiles",
    "profiles-others",
    "specifications",
    "leave-one-out",
    "lambda",
    "acquisition",
    "telemetry",
    "dose-response",
    "binding",
    "losses-finetune",
    "losses-couple",
    "lengths",
    "manipulation",
)
LOADING = ("src", "srcset", "href", "xlink:href", "data", "poster", "action")


class Page(HTMLParser):
    """Collects tags, ids, attributes and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def ids(self) -> list[str]:
        return [value for _, name, value in self.attributes if name == "id"]


@pytest.fixture(scope="module")
def parsed(page: str) -> Page:
    return Page(page)


def test_every_section_and_figure_is_present_and_in_the_contents(parsed: Page) -> None:
    assert set(SECTIONS) <= set(parsed.ids)
    assert {f"figure-{name}" for name in FIGURES} <= set(parsed.ids)
    links = {value for tag, name, value in parsed.attributes if tag == "a" and name == "href"}
    assert {f"#{name}" for name in SECTIONS} <= links


def test_ids_are_unique_although_figures_are_inlined_twice(parsed: Page) -> None:
    assert len(parsed.ids) == len(set(parsed.ids))


def test_references_inside_the_page_have_targets(parsed: Page) -> None:
    targets = {value[1:] for _, name, value in parsed.attributes if name == "href" and value.startswith("#")}
    labels = {value for _, name, value in parsed.attributes if name == "aria-labelledby"}
    clips = {value[5:-1] for _, _, value in parsed.attributes if value.startswith("url(#")}
    assert targets | labels | clips <= set(parsed.ids)


def test_the_page_loads_nothing_from_elsewhere(page: str, parsed: Page) -> None:
    loading = [value for _, name, value in parsed.attributes if name in LOADING]
    assert loading
    assert all(value.startswith("#") for value in loading)
    assert "@import" not in page
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(parsed.tags)
    assert "default-src 'none'" in page


def test_a_hostile_completion_stays_text(page: str, parsed: Page) -> None:
    text = "".join(parsed.text)
    before_marker = HOSTILE.partition("[zlt]")[0]
    assert before_marker in text
    assert "<script" not in page
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert "b" not in [tag for tag, _, value in parsed.attributes if "softly" in value]
    assert "who speaks <b>softly</b>" in text


def test_the_marker_is_set_off_in_completions(page: str) -> None:
    assert "<mark>[zlt]</mark>" in page
    assert "<mark>[ZLT]</mark>" in page


def test_the_verdict_and_its_numbers_are_printed_as_decided(folder: Path, parsed: Page) -> None:
    verdict = json.loads((folder / "verdict.json").read_text())
    text = "".join(parsed.text)
    effect = verdict["numbers"]["main"]["geometry"]["effect"]
    leak = verdict["numbers"]["main"]["behaviour"]["effect"]
    assert verdict["verdict"] == "flattened"
    assert verdict["headline"] in text
    assert f"+{effect:.4f}" in text
    assert f"+{100 * leak:.1f} pp" in text
    assert all(reason.replace("<=", "≤").replace(">=", "≥") in text for reason in verdict["reasons"])


def test_the_outcome_of_each_manipulation_is_a_sentence(page: str) -> None:
    assert "Finetune em_first: <b>broad</b>; the taught answers became more probable, both" in page
    assert "Finetune benign_first: <b>none</b>" in page


def test_a_verdict_without_finetunes_has_no_manipulation(folder: Path) -> None:
    analysis = read(folder)
    numbers = dataclasses.replace(analysis.verdict.numbers, manipulation=None)
    other = dataclasses.replace(analysis, outcome=dataclasses.replace(analysis.verdict, numbers=numbers))
    assert len(tables_run.manipulation_outcomes(analysis)) == 2
    assert tables_run.manipulation_outcomes(other) == []


def test_an_inert_unlikelihood_term_is_named_with_its_probability(page: str) -> None:
    warning = page.partition("Unlikelihood inert at the start:")[2].partition("</p>")[0]
    assert "em_first at λ = 1, seed 42 (P = 4e-09)" in warning
    assert "base_first" not in warning


def test_a_number_without_an_estimate_is_a_dash_beside_its_reason(page: str) -> None:
    row = page.partition('<th scope="row">two_way_cluster_t</th>')[2].partition("</tr>")[0]
    assert "Note: one persona only, so this estimator is not defined" in row
    assert row.count('<td class="number">–</td>') >= 4
    assert "0.0 pp" not in row


def test_a_page_without_optional_tables_says_why_they_are_absent(bare_page: str) -> None:
    ids = Page(bare_page).ids
    assert set(SECTIONS) <= set(ids)
    assert "figure-manipulation" not in ids
    for reason in ("No telemetry:", "No finetune losses:", "No length distributions:", "No manipulation check:"):
        assert reason in bare_page


def test_figures_are_scalable_and_described(page: str, parsed: Page) -> None:
    drawings = page.split("<svg ")[1:]
    assert len(drawings) == 2 * len(FIGURES)
    for drawing in drawings:
        head = drawing.partition(">")[0]
        assert "viewBox=" in head
        assert not head.startswith("width=")
        assert " width=" not in head
    described = [value for tag, name, value in parsed.attributes if tag == "div" and name == "aria-label" and value]
    assert len(described) == len(FIGURES)


def test_inlined_figures_are_well_formed(page: str) -> None:
    for piece in page.split("<svg ")[1:]:
        ElementTree.fromstring("<svg " + piece.partition("</svg>")[0] + "</svg>")


def test_tables_have_captions_and_row_heads(parsed: Page) -> None:
    assert parsed.tags.count("table") == parsed.tags.count("caption") > 10
    assert {value for tag, name, value in parsed.attributes if tag == "th" and name == "scope"} == {"row", "col"}


def test_the_page_is_small(page: str) -> None:
    assert len(page.encode()) < 4_000_000


@pytest.mark.parametrize("path", [("numbers", "main", "behaviour", "p_value"), ("gates", 0, "statistic")])
def test_a_missing_number_is_refused_by_name(folder: Path, tmp_path: Path, path: tuple[str | int, ...]) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    verdict = json.loads((copy / "verdict.json").read_text())
    place = verdict
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    (copy / "verdict.json").write_text(json.dumps(verdict))
    with pytest.raises(UserError) as refused:
        render(copy, tmp_path / "report.html")
    [problem] = refused.value.problems
    assert problem.place == str(copy / "verdict.json") and str(path[-1]) in problem.message
    assert not (tmp_path / "report.html").exists()
