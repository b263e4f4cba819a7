from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from planted_evidence import behavioural, geometric

from flatprobe.decision.evidence import Contrast, Seeds
from flatprobe.decision.gates import Gate, gate, required
from flatprobe.decision.rule import decide
from flatprobe.decision.verdict import MEANINGS, KnownOutcome, Verdict
from flatprobe.study.decision_schema import Decision, Gates, GeometricLeg

RULE = Decision()
GOOD = {"source_rate": 0.8, "marker_at_end": 0.95, "spam": 0.0, "truncation": 0.0, "headroom": 0.2, "analysis": 1.0}
GEOMETRY = geometric(0.10, 0.08, 0.12, {6: 0.1, 10: 0.1}, headroom=0.2, persona_ci_low=0.05, persona_ci_high=0.15)
LEAKAGE = behavioural(0.30, 0.24, 0.36, 0.0002, 0.02, 0.9, 0.1, (0.82, 0.80))
PASSING = Contrast(GEOMETRY, LEAKAGE)
NULL = Contrast(
    geometric(-0.01, -0.03, 0.01, {6: -0.01, 10: -0.02}, headroom=0.2),
    behavioural(0.01, -0.02, 0.04, 0.6, 0.7, 0.03, 1.0, (0.82, 0.80)),
)
BETWEEN = Contrast(
    geometric(0.02, 0.01, 0.03, {6: 0.02, 10: 0.02}, headroom=0.2), replace(LEAKAGE, effect=0.1, p_value=0.01)
)


def good_gates(**changes: float | None) -> list[Gate]:
    """Every required gate at a passing value; `changes` are statistics by gate, on every arm."""
    values = {**GOOD, **changes}
    return [gate(kind, arm, values[kind], RULE) for kind, arm in required(RULE)]


def verdict(main: Contrast, gates: list[Gate] | None = None, **changes: object) -> Verdict:
    """The default rule's verdict; `changes` are keyword arguments of `decide`."""
    return decide(RULE, main, good_gates() if gates is None else gates, **changes)  # type: ignore[arg-type]


def test_both_legs_passing_is_flattened() -> None:
    result = verdict(PASSING)
    assert (result.verdict, result.confidence, result.as_registered_confidence) == ("flattened", "MODERATE", "MODERATE")
    assert result.reasons == ()


def test_the_conjunction_has_the_larger_p_of_its_legs_and_none_where_one_is_unknown() -> None:
    both = Contrast(replace(GEOMETRY, p_value=0.004), LEAKAGE)
    assert verdict(both).numbers.conjunction_p == 0.004
    assert verdict(Contrast(replace(GEOMETRY, p_value=None), LEAKAGE)).numbers.conjunction_p is None


def test_an_effect_at_its_threshold_up_to_rounding_reaches_it() -> None:
    below = 0.15 - 3e-17 - 2.8e-17
    assert below < RULE.behaviour.margin
    at_margin = Contrast(GEOMETRY, replace(LEAKAGE, effect=below))
    assert verdict(at_margin).verdict == "flattened"
    at_kill = replace(NULL.behaviour, effect=0.1 * 3 - 0.25)
    assert at_kill.effect is not None and at_kill.effect > RULE.kill.leakage
    assert verdict(replace(NULL, behaviour=at_kill)).verdict == "falsified"


def test_a_planted_null_is_falsified_and_high_only_with_equivalence_shown() -> None:
    result = verdict(NULL)
    assert (result.verdict, result.confidence) == ("falsified", "HIGH")
    unsupported = verdict(replace(NULL, behaviour=replace(NULL.behaviour, crossed_tost_p=0.2)))
    assert (unsupported.confidence, unsupported.as_registered_confidence) == ("MODERATE", "HIGH")


def test_one_leg_alone_names_the_verdict_with_a_confidence_by_seeds() -> None:
    geometry = Contrast(GEOMETRY, NULL.behaviour)
    behaviour = Contrast(NULL.geometry, LEAKAGE)
    assert (verdict(geometry).verdict, verdict(geometry).confidence) == ("geometry_only", "LOW")
    assert (verdict(behaviour).verdict, verdict(behaviour).confidence) == ("behaviour_only", "LOW")
    for contrast in (geometry, behaviour):
        assert verdict(contrast, seeds=Seeds(3, True)).confidence == "MODERATE"


@pytest.mark.parametrize(("low", "high"), [(-0.01, 0.21), (None, None)])
def test_a_geometric_effect_that_may_rest_on_few_personas_raises_no_confidence(
    low: float | None, high: float | None
) -> None:
    narrow = replace(GEOMETRY, persona_ci_low=low, persona_ci_high=high)
    alone, both = (
        verdict(Contrast(narrow, behaviour), seeds=Seeds(3, True)) for behaviour in (NULL.behaviour, LEAKAGE)
    )
    assert (alone.verdict, alone.confidence) == ("geometry_only", "LOW")
    assert (both.verdict, both.confidence) == ("flattened", "MODERATE")
    assert any(reason.startswith("few_personas: ") for reason in alone.reasons)
    other = verdict(Contrast(replace(NULL.geometry, persona_ci_low=low), LEAKAGE), seeds=Seeds(3, True))
    assert other.confidence == "MODERATE" and not any("few_personas" in reason for reason in other.reasons)


def test_between_passing_and_killing_is_inconclusive_with_distances() -> None:
    result = verdict(BETWEEN)
    assert (result.verdict, result.confidence) == ("inconclusive", "LOW")
    assert any(reason.startswith("in_between") for reason in result.reasons)
    assert result.distances["geometry_threshold"] == pytest.approx(-0.03)
    assert result.distances["leakage_margin"] == pytest.approx(-0.05)
    assert result.distances["kill_leakage"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("seeds", "crossed_p", "treated_rate", "confidence"),
    [
        (Seeds(3, True), 0.02, 0.82, "HIGH"),
        (Seeds(3, True), 0.02, 0.95, "HIGH"),
        (Seeds(3, False), 0.02, 0.82, "MODERATE"),
        (Seeds(3, None), 0.02, 0.82, "MODERATE"),
        (Seeds(3, True), 0.20, 0.82, "MODERATE"),
        (Seeds(3, True), 0.20, 0.95, "LOW"),
        (Seeds(2, True), 0.02, 0.82, "MODERATE"),
        (Seeds(1), 0.20, 0.82, "MODERATE"),
        (Seeds(1), 0.20, 0.95, "LOW"),
        (Seeds(1), None, 0.95, "LOW"),
    ],
)
def test_confidence_in_flattening(seeds: Seeds, crossed_p: float | None, treated_rate: float, confidence: str) -> None:
    leakage = replace(LEAKAGE, crossed_p=crossed_p, source_rate_treated=treated_rate)
    assert verdict(Contrast(GEOMETRY, leakage), seeds=seeds).confidence == confidence


def test_the_thresholds_are_those_of_the_rule() -> None:
    at = Contrast(replace(GEOMETRY, effect=0.05), replace(LEAKAGE, effect=0.15))
    assert verdict(at).verdict == "flattened"
    assert verdict(replace(at, geometry=replace(GEOMETRY, effect=0.0499))).verdict == "behaviour_only"
    assert verdict(replace(at, geometry=replace(GEOMETRY, ci_low=0.0))).verdict == "behaviour_only"
    assert verdict(replace(at, behaviour=replace(LEAKAGE, effect=0.1499))).verdict == "geometry_only"
    assert verdict(replace(at, behaviour=replace(LEAKAGE, p_value=0.001))).verdict == "geometry_only"
    kill = Contrast(replace(NULL.geometry, effects_by_layer={6: 0.0, 10: -0.1}), replace(NULL.behaviour, effect=0.05))
    assert verdict(kill).verdict == "falsified"
    assert verdict(replace(kill, behaviour=replace(NULL.behaviour, effect=0.0501))).verdict == "inconclusive"


def test_one_layer_above_zero_or_undefined_stops_the_kill() -> None:
    for layers in ({6: -0.1, 10: 0.001}, {6: -0.1, 10: None}, {}):
        geometry = replace(NULL.geometry, effects_by_layer=layers)
        assert verdict(replace(NULL, geometry=geometry)).verdict == "inconclusive"


def test_contraction_is_killed_by_a_ratio_of_one_or_more_in_every_layer() -> None:
    rule = Decision(geometry=GeometricLeg(measure="contraction", threshold=0.223))
    spread = geometric(-0.1, -0.2, 0.0, {6: 0.0, 10: -0.2}, measure="contraction")
    gates = [gate(kind, arm, GOOD[kind], rule) for kind, arm in required(rule)]
    assert "headroom" not in {item.name for item in gates}
    assert decide(rule, Contrast(spread, NULL.behaviour), gates).verdict == "falsified"
    closer = replace(spread, effect=0.3, ci_low=0.1, ci_high=0.5)
    assert decide(rule, Contrast(closer, LEAKAGE), gates).verdict == "flattened"


def test_no_headroom_makes_the_geometric_leg_unattainable_and_stops_the_kill() -> None:
    for contrast in (PASSING, NULL, Contrast(NULL.geometry, LEAKAGE)):
        result = verdict(contrast, good_gates(headroom=0.03))
        assert (result.verdict, result.geometric_leg) == ("inconclusive", "blocked")
        assert result.reasons[0].startswith("unattainable")


def test_a_low_source_rate_of_the_treated_condition_is_named_by_its_cause() -> None:
    gates = [item for item in good_gates() if (item.name, item.arm) != ("source_rate", "em_first")]
    gates.append(gate("source_rate", "em_first", 0.3, RULE))
    for reason in ("coupling_failed", "source_not_separable"):
        result = verdict(PASSING, gates, source_reason=reason)
        assert result.verdict == "inconclusive" and result.reasons[0].startswith(f"{reason}: em_first")
    assert verdict(PASSING, gates).reasons[0].startswith("source_rate: em_first")


def test_a_low_source_rate_of_the_control_means_that_the_coupling_failed() -> None:
    gates = [item for item in good_gates() if (item.name, item.arm) != ("source_rate", "base_first")]
    result = verdict(PASSING, [*gates, gate("source_rate", "base_first", 0.3, RULE)])
    assert result.verdict == "inconclusive" and result.reasons[0].startswith("coupling_failed: base_first")


def test_different_source_rates_are_flagged_beyond_ten_points() -> None:
    for rate, flagged in ((0.90, False), (0.901, True), (0.699, True), (None, None)):
        result = verdict(Contrast(GEOMETRY, replace(LEAKAGE, source_rate_treated=rate)))
        assert result.dose_unmatched is flagged
        assert any(reason.startswith("dose_") for reason in result.reasons) == (flagged is not False)


def test_an_absent_required_gate_counts_as_failed() -> None:
    result = verdict(PASSING, [])
    assert result.verdict == "inconclusive"
    assert {item.name for item in result.gates} == set(GOOD)
    assert all(item.passed is None for item in result.gates)


def test_low_reliability_warns_unless_the_study_makes_it_a_gate() -> None:
    warning = verdict(PASSING, [*good_gates(), gate("reliability", "base_first", 0.5, RULE)])
    assert warning.verdict == "flattened" and any("a warning" in reason for reason in warning.reasons)
    rule = Decision(gates=Gates(reliability_blocks=True))
    strict = [*good_gates(), gate("reliability", "base_first", 0.5, rule)]
    assert decide(rule, PASSING, strict).geometric_leg == "blocked"


def against_benign(geometry: tuple[float, float, float], leakage: tuple[float, float, float]) -> Contrast:
    return Contrast(geometric(*geometry), behavioural(*leakage, p_value=None))


@pytest.mark.parametrize(
    ("geometry", "leakage", "specific"),
    [
        ((0.05, 0.01, 0.09), (0.20, 0.10, 0.30), "yes"),
        ((0.02, 0.01, 0.09), (0.05, 0.01, 0.30), "yes"),
        ((0.05, 0.00, 0.09), (0.20, 0.10, 0.30), "unresolved"),
        ((0.01, 0.005, 0.03), (0.20, 0.10, 0.30), "unresolved"),
        ((0.00, -0.01, 0.019), (0.20, 0.10, 0.30), "no"),
        ((0.05, 0.01, 0.09), (0.00, -0.04, 0.04), "no"),
    ],
)
def test_em_specific_follows_both_legs_against_the_benign_condition(
    geometry: tuple[float, float, float], leakage: tuple[float, float, float], specific: str
) -> None:
    assert verdict(PASSING, treated_benign=against_benign(geometry, leakage)).em_specific == specific


def test_a_gate_of_the_benign_arm_leaves_only_em_specific_unresolved() -> None:
    gates = [*good_gates(), gate("mask_audit", "benign_first", 0.9, RULE)]
    result = verdict(PASSING, gates, treated_benign=against_benign((0.05, 0.01, 0.09), (0.2, 0.1, 0.3)))
    assert (result.verdict, result.em_specific) == ("flattened", "unresolved")


def test_gates_of_other_arms_block_nothing() -> None:
    gates = [
        *good_gates(),
        gate("mask_audit", "persona_collapse", 0.0, RULE),
        gate("spam", "persona_collapse", 1.0, RULE),
    ]
    result = verdict(PASSING, gates, treated_benign=against_benign((0.05, 0.01, 0.09), (0.2, 0.1, 0.3)))
    assert (result.verdict, result.em_specific) == ("flattened", "yes")


NUMBERS: list[float | None] = [None, -0.5, 0.0, 0.05, 0.1, 0.15, 0.6]
STATES: list[bool | None] = [True, False, None]


def plane() -> Iterator[Contrast]:
    """Every combination of effects, intervals, p-values and layers at each threshold, unknowns included."""
    for effect, low, layer in itertools.product(NUMBERS, [None, -0.1, 0.0, 0.01], [None, -0.1, 0.0, 0.2]):
        for leakage, p_value in itertools.product(NUMBERS, [None, 0.0002, 0.001, 0.5]):
            yield Contrast(
                geometric(effect, low, low, {6: layer, 10: effect}),
                behavioural(leakage, None, None, p_value, p_value, p_value, None, (0.8, 0.8)),
            )


def expected(main: Contrast, blocked: bool) -> str:
    """The table of verdicts, written independently of the rule."""
    geometry, leakage = main.geometry, main.behaviour
    if blocked or geometry.effect is None or leakage.effect is None:
        return "inconclusive"
    long, high = geometry.effect >= 0.05, leakage.effect >= 0.15
    if (long and geometry.ci_low is None) or (high and leakage.p_value is None):
        return "inconclusive"
    passes = (long and (geometry.ci_low or 0) > 0, high and (leakage.p_value or 0) < 0.001)
    if any(passes):
        return {(True, True): "flattened", (True, False): "geometry_only", (False, True): "behaviour_only"}[passes]
    killed = all(value is not None and value <= 0 for value in geometry.effects_by_layer.values())
    return "falsified" if killed and leakage.effect <= 0.05 else "inconclusive"


def test_the_whole_plane_has_exactly_one_verdict_everywhere() -> None:
    seen = set()
    gates = good_gates()
    for main in plane():
        result = verdict(main, gates)
        assert result.verdict == expected(main, blocked=False)
        assert result.confidence in ("HIGH", "MODERATE", "LOW") and result.em_specific == "unresolved"
        seen.add(result.verdict)
    assert seen == set(MEANINGS)


def test_every_gate_in_every_state_on_every_arm_blocks_as_documented() -> None:
    kinds = {
        "mask_audit": ("em_first", "base_first"), "merge_kl": ("em_first", "base_first"),
        "manipulation": ("em_first",),
        "source_rate": ("em_first", "base_first"), "marker_at_end": ("em_first", "base_first"),
        "spam": ("em_first", "base_first"), "headroom": ("base_first",), "reliability": (),
        "engine_parity": ("em_first", "base_first"), "analysis": ("study",), "role_overlap": ("study",),
    }  # fmt: skip
    contrasts = (PASSING, NULL, BETWEEN, Contrast(GEOMETRY, NULL.behaviour), Contrast(NULL.geometry, LEAKAGE))
    for (kind, blocking), state, main in itertools.product(kinds.items(), STATES, contrasts):
        for arm in ("study",) if "study" in blocking else ("em_first", "base_first", "benign_first", "extra"):
            stated = replace(gate(kind, arm, 0.0, RULE), passed=state)
            others = [item for item in good_gates() if (item.name, item.arm) != (kind, arm)]
            blocked = arm in blocking and state is not True
            assert verdict(main, [*others, stated]).verdict == expected(main, blocked), (kind, arm, state)


def test_the_verdict_is_json_with_everything_it_was_decided_on() -> None:
    result = verdict(PASSING, smoke=True, registered="confirmatory", source="librarian", seeds=Seeds(3, True))
    body = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert body["numbers"]["main"]["geometry"]["effect"] == 0.1
    assert body["legs"] == {"geometric": "pass", "behavioural": "pass"}
    assert body["headline"].startswith("SMOKE RUN") and body["smoke"] is True
    assert "librarian" in body["scope"] and "new questions" in body["scope"]
    assert len(body["gates"]) == len(required(RULE))


def test_a_verdict_read_from_its_json_is_the_same_verdict() -> None:
    main = Contrast(replace(GEOMETRY, effects_by_layer={6: None, 10: 0.1}), LEAKAGE)
    known = KnownOutcome(
        treated="a",
        control="b",
        verdict="inconclusive",
        legs={"geometry": "reversed", "leakage": "blocked"},
        expected={"geometry": "found", "leakage": None},
        as_expected=False,
        evidence=main,
        reasons=("analysis: failed",),
    )
    numbers = replace(verdict(main).numbers, treated_benign=NULL, manipulation={"em_first": "broad"})
    written = replace(verdict(main), numbers=numbers, known_answers=(known,))
    assert Verdict.from_json(json.loads(json.dumps(written.to_json()))) == written


@pytest.mark.parametrize("change", [{"verdict": "flat"}, {"legs": None}, {"gates": [{"name": "spam"}]}])
def test_a_json_object_that_is_no_verdict_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Verdict.from_json(verdict(PASSING).to_json() | change)
