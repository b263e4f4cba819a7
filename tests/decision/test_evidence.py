from __future__ import annotations

import polars as pl
import pytest
from planted_states import contrast_of, planted_states

from flatprobe.decision.evidence import Contrast, behavioural_evidence, geometric_evidence
from flatprobe.decision.gates import gate, required
from flatprobe.decision.rule import decide
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.states import States
from flatprobe.statistics.leakage.estimators import leakage_contrast
from flatprobe.study.decision_schema import Decision, GeometricLeg

RULE = Decision(geometry=GeometricLeg(measure="contraction", threshold=0.223))
NAME = "em_first - base_first"


def geometry(treated: States) -> list[Estimate]:
    return contrast_of(treated, planted_states("base_first"), resamples=400)


def leakage(cells: pl.DataFrame, bystanders: tuple[str, ...]) -> list[Estimate]:
    return leakage_contrast(
        cells, "em_first", "base_first", bystanders, pool="bystanders", resamples=4000, seed=1, level=0.95
    )


def planted_verdict(treated: States, cells: pl.DataFrame, bystanders: tuple[str, ...]) -> str:
    """From states and counts to the verdict, as in a study."""
    evidence = Contrast(
        geometric_evidence(geometry(treated), RULE, NAME, headroom=None),
        behavioural_evidence(
            leakage(cells, bystanders), RULE, NAME, "bystanders", source_rate_treated=0.69, source_rate_control=0.72
        ),
    )
    good = {"source_rate": 0.7, "marker_at_end": 0.9, "analysis": 1.0}
    gates = [gate(kind, arm, good.get(kind, 0.0), RULE) for kind, arm in required(RULE)]
    return decide(RULE, evidence, gates).verdict


def test_planted_flattening_in_both_probes_gives_flattened(
    published: pl.DataFrame, bystanders: tuple[str, ...]
) -> None:
    assert planted_verdict(planted_states("em_first", persona=0.6), published, bystanders) == "flattened"


def test_a_planted_null_does_not(published: pl.DataFrame, bystanders: tuple[str, ...]) -> None:
    base = published.filter(pl.col("condition") == "base_first")
    null = pl.concat([base, base.with_columns(condition=pl.lit("em_first"))])
    assert planted_verdict(planted_states("em_first"), null, bystanders) == "falsified"
    assert planted_verdict(planted_states("em_first", persona=0.6), null, bystanders) == "geometry_only"
    assert planted_verdict(planted_states("em_first"), published, bystanders) == "behaviour_only"


def test_absent_evidence_is_an_error_and_never_a_number(published: pl.DataFrame, bystanders: tuple[str, ...]) -> None:
    with pytest.raises(LookupError, match="cosine_difference"):
        geometric_evidence([], Decision(), NAME, headroom=0.1)
    with pytest.raises(LookupError, match="cell_bootstrap"):
        behavioural_evidence(leakage(published, bystanders), RULE, NAME, "as_written")


def test_geometric_evidence_has_its_interval_over_bystanders() -> None:
    rows = geometry(planted_states("em_first", persona=0.6))
    evidence = geometric_evidence(rows, RULE, NAME, headroom=None)
    [jackknife] = [
        row for row in rows if (row.quantity, row.estimator, row.layer) == ("contraction", "persona_jackknife_t", None)
    ]
    assert evidence.persona_ci_low is not None and evidence.effect is not None
    assert (evidence.persona_ci_low, evidence.persona_ci_high) == (jackknife.ci_low, jackknife.ci_high)
    assert evidence.persona_ci_low < evidence.effect
