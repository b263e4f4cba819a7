"""Tables and figures of couplings, against the planted rows."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import polars as pl
import pytest

from flatprobe.report.analysis_folder import Analysis, read
from flatprobe.report.figures import binding, dose
from flatprobe.report.tables import binding as tables_binding
from flatprobe.report.tables import coupling as tables_coupling
from flatprobe.report.tables import masks as tables_masks
from flatprobe.report.tables import weights as tables_weights
from flatprobe.report.tables.table import Table


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return read(folder)


def rows_of(table: Table | None) -> list[dict[str, str]]:
    assert table is not None
    return [dict(zip((head for head, _ in table.heads), row, strict=True)) for row in table.rows]


def with_table(analysis: Analysis, name: str, frame: pl.DataFrame) -> Analysis:
    return dataclasses.replace(analysis, tables={**analysis.tables, name: frame})


def test_the_last_reading_of_a_coupling_stands_beside_its_first(analysis: Analysis) -> None:
    first, *others = rows_of(tables_coupling.findings(analysis))
    assert first["condition"] == "base_first"
    assert first["steps"] == "60 of 80, not reached"
    assert first["marker first"] == "0.0 % → 90.0 %"
    assert first["template first"] == "0.0 % → –"
    assert first["log P, answers"] == "−0.70 → −0.80"
    assert first["warnings"] == "not reached, marker first"
    assert [row["warnings"] for row in others] == ["inert", "none"]


def test_warnings_of_couplings_are_sentences_about_the_selected_lambda_only(analysis: Analysis) -> None:
    assert tables_coupling.warnings(analysis) == [
        "the log-probability to stop at was not reached (base_first, seed 42)",
        "answers start with the marker (base_first, seed 42)",
    ]
    other = dataclasses.replace(analysis, lambda_selection={"selected": 0.5, "candidates": []})
    assert tables_coupling.warnings(other) == []


def test_the_dose_response_figure_prints_the_gap_at_equal_acquisition(analysis: Analysis) -> None:
    figure = dose.dose_response(analysis)
    assert figure is not None
    assert "+1.50 nats" in re.findall(r"<text[^>]*>([^<]*)</text>", figure.wide)
    assert "both sources at −7.20 nats: +1.50 nats, interval [+1.10, +1.90]" in figure.caption
    assert rows_of(tables_coupling.dose_gaps(analysis))[-1]["note"] == "no level that both sources pass"


def test_a_registered_level_takes_the_place_of_the_middle_of_the_range(analysis: Analysis) -> None:
    gaps = analysis.tables["dose_gaps"]
    registered = gaps.head(1).with_columns(place=pl.lit("registered"), gap=pl.lit(0.25))
    figure = dose.dose_response(with_table(analysis, "dose_gaps", pl.concat([gaps, registered])))
    assert figure is not None
    assert "+0.25 nats" in figure.caption


def test_curves_without_a_shared_level_have_no_gap_drawn(analysis: Analysis) -> None:
    gaps = analysis.tables["dose_gaps"].with_columns(gap=pl.lit(None, dtype=pl.Float64))
    figure = dose.dose_response(with_table(analysis, "dose_gaps", gaps))
    assert figure is not None
    assert "share no log P" in figure.caption


def test_telemetry_of_other_lambdas_only_is_not_drawn(analysis: Analysis) -> None:
    frame = analysis.tables["telemetry"].with_columns(pl.lit(99.0).alias("lambda"))
    assert dose.telemetry(with_table(analysis, "telemetry", frame)) is None


def test_the_two_by_two_shows_means_and_the_effects_their_intervals(analysis: Analysis) -> None:
    first = rows_of(tables_binding.cells(analysis))[0]
    assert list(first.values()) == ["base_first", "−1.50", "−2.00", "−5.50", "−6.00", "14"]
    pooled = rows_of(tables_binding.effects(analysis, pooled=True))
    assert len(pooled) == 9
    assert pooled[0]["estimate"] == "+4.20"
    assert pooled[0]["95 % interval"] == "[+3.80, +4.60]"
    assert len(rows_of(tables_binding.effects(analysis, pooled=False))) == 63


def test_effects_without_an_estimate_are_not_drawn(analysis: Analysis) -> None:
    frame = analysis.tables["binding_effects"].with_columns(estimate=pl.lit(None, dtype=pl.Float64))
    assert binding.binding(with_table(analysis, "binding_effects", frame)) is None


def test_separator_tokens_stand_side_by_side_in_training_and_in_completions(analysis: Analysis) -> None:
    rows = [row for row in rows_of(tables_masks.contexts(analysis)) if row["condition"] == "base_first"]
    before = [row for row in rows if row["place"] == "before the marker"]
    assert [(row["token"], row["training: positive"], row["evaluation"]) for row in before] == [
        (".↵↵", "100.0 %", "80.0 %"), ("↵", "0.0 %", "20.0 %"),
    ]  # fmt: skip
    behind = [row for row in rows if row["place"] == "after the answer"]
    assert [row["evaluation"] for row in behind] == ["12.5 %"] * 6 + ["25.0 %"]
    assert behind[-1]["token"] == "and all others"
    assert behind[0]["training: positive"] == "–"  # nothing was seen there, which is not 0 %


def test_an_audited_set_shows_shares_of_its_own_texts_only() -> None:
    contexts = [{"place": "p", "where": "training: finetune", "token": str(n), "count": 10 - n} for n in range(9)]
    audit = {"name": "finetune/a", "evaluation": "none", "contexts": contexts, "invariants": [], "shares": []}
    table = tables_masks.set_tables(audit)[-1]
    assert table.name == "contexts-finetune-a" and [head for head, _ in table.heads][2:] == ["training: finetune"]
    assert table.rows[0] == ("p", "0", "18.5 %")  # 10 of 54
    assert table.rows[-1] == ("p", "and all others", "16.7 %") and len(table.rows) == 7


def test_an_adapter_is_summed_up_over_its_modules(analysis: Analysis) -> None:
    rows = rows_of(tables_weights.adapters(analysis))
    assert [(row["adapter"], row["condition"]) for row in rows[:3]] == [
        ("finetune", "em_first"), ("finetune", "benign_first"), ("coupling", "base_first"),
    ]  # fmt: skip
    assert rows[0]["norm ratio, median"] == "0.040"
    assert (rows[0]["norm ratio, largest"], rows[0]["in module"]) == ("0.060", "layers.2.q_proj")
    assert (rows[0]["modules"], len(rows)) == ("6", 5)


def test_a_study_without_these_tables_says_so(analysis: Analysis) -> None:
    tables = {
        name: frame
        for name, frame in analysis.tables.items()
        if name not in ("binding", "binding_effects", "contexts", "shares", "invariants", "weights")
    }
    bare = dataclasses.replace(analysis, tables=tables)
    assert tables_binding.cells(bare) is None
    assert tables_binding.effects(bare, pooled=True) is None
    assert tables_masks.contexts(bare) is None
    assert tables_masks.invariants(bare) is None
    assert tables_weights.adapters(bare) is None
    assert binding.binding(bare) is None
