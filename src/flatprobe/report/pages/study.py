"""The page of a study: reads an analysis folder, prepares every section, and fills the template.

A hostile completion stays text and a missing number stops the build. The page loads nothing: style and figures are
in it, and its policy forbids everything else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from flatprobe.decision.verdict import MEANINGS
from flatprobe.report import comparison, examples, glossary, select, words
from flatprobe.report import gates as gating
from flatprobe.report.analysis_folder import Analysis, read
from flatprobe.report.figures import (
    binding,
    coupling,
    dose,
    geometry,
    leakage,
    leave_one_out,
    personas,
    plane,
    specifications,
    training,
)
from flatprobe.report.figures.persona_map import NO_MAP
from flatprobe.report.pages.environment import write_html
from flatprobe.report.tables import binding as tables_binding
from flatprobe.report.tables import comparison as tables_comparison
from flatprobe.report.tables import coupling as tables_coupling
from flatprobe.report.tables import geometry as tables_geometry
from flatprobe.report.tables import known_answers as tables_known
from flatprobe.report.tables import leakage as tables_leakage
from flatprobe.report.tables import legs as cards
from flatprobe.report.tables import masks as tables_masks
from flatprobe.report.tables import robustness as tables_robustness
from flatprobe.report.tables import run as tables_run
from flatprobe.report.tables import weights as tables_weights


def render(folder: Path, output: Path) -> None:
    """Write the report of an analysis folder as one self-contained HTML file.

    Raises UserError with every missing file, column or key of the folder, and jinja2.UndefinedError if a row lacks a
    value of the page.
    """
    write_html("study.html.j2", _context(read(folder)), output)


def _context(analysis: Analysis) -> dict[str, Any]:
    """The template's values: those of every study, and those of a study with a coupling or without."""
    context = {
        "analysis": analysis,
        "study": analysis.study,
        "registration": analysis.registration,
        "words": words,
        "glossary": glossary,
        "contrast": select.contrast_name(analysis.treated, analysis.control),
        "most_massive": tables_geometry.most_massive(analysis),
        "checkpoints": {
            name: {key: value for key, value in facts.items() if key != "couplings"}
            for name, facts in analysis.models.items()
        },
        "listing": yaml.safe_dump(dict(analysis.study), sort_keys=False, allow_unicode=True, width=100),
        "seconds": sum(stage["seconds"] for stage in analysis.stages),
        "figures": _geometric_figures(analysis),
        "no_map": NO_MAP,
        "tables": _geometric_tables(analysis),
        "answers": examples.answers(analysis),
        "probed": examples.probed(analysis),
    }
    if not analysis.has_coupling:
        return {
            **context,
            "conclusion": comparison.conclusion(analysis),
            "tables": {**context["tables"], **_comparison_tables(analysis)},
        }
    return {
        **context,
        "verdict": analysis.verdict,
        "meaning": MEANINGS[analysis.verdict.verdict],
        "legs": cards.legs(analysis),
        "conjunction": cards.conjunction(analysis),
        "specifications": specifications.summary(analysis),
        "reasons": gating.reasons(analysis),
        "em_specific": gating.em_specific(analysis),
        "manipulation": tables_run.manipulation_outcomes(analysis),
        "warnings": tables_coupling.warnings(analysis),
        "inert": tables_run.inert_couplings(analysis),
        "figures": {**context["figures"], **_figures(analysis)},
        "tables": {**context["tables"], **_tables(analysis)},
        "estimates": [
            (f"Leakage difference {select.contrast_name(*pair)}", tables_leakage.leakage_estimates(analysis, *pair))
            for pair in analysis.decision.contrasts
        ],
        "completions": examples.completions(analysis),
        "masks": examples.masks(analysis),
    }


def _geometric_figures(analysis: Analysis) -> dict[str, Any]:
    return {
        "by_layer": geometry.by_layer(analysis),
        "effect_by_layer": geometry.effect_by_layer(analysis),
        "persona_map": personas.persona_map(analysis),
        "cosine_pairs": personas.cosine_pairs(analysis),
        "profiles": personas.main_profiles(analysis),
        "other_profiles": personas.other_profiles(analysis),
    }


def _geometric_tables(analysis: Analysis) -> dict[str, Any]:
    return {
        "layers": tables_geometry.layers(analysis),
        "effects": tables_geometry.effects(analysis),
        "effect_tests": tables_geometry.effect_tests(analysis),
        "massive": tables_geometry.massive(analysis),
        "aggregates": tables_geometry.aggregates(analysis, registered=True),
        "elsewhere": tables_geometry.aggregates(analysis, registered=False),
        "stages": tables_run.stages(analysis),
        "panel": tables_run.panel(analysis),
        "questions": tables_run.questions(analysis),
    }


def _comparison_tables(analysis: Analysis) -> dict[str, Any]:
    return {
        "by_layer": tables_comparison.by_layer(analysis),
        "by_position": tables_comparison.by_position(analysis),
        "by_measure": tables_comparison.by_measure(analysis),
        "by_persona": tables_comparison.by_persona(analysis),
    }


def _figures(analysis: Analysis) -> dict[str, Any]:
    return {
        "plane": plane.decision_plane(analysis),
        "leakage": leakage.leakage_by_persona(analysis),
        "specifications": specifications.specification_curve(analysis),
        "leave_one_out": leave_one_out.leave_one_out(analysis),
        "lambda": coupling.lambda_selection(analysis),
        "acquisition": coupling.acquisition(analysis),
        "telemetry": dose.telemetry(analysis),
        "dose_response": dose.dose_response(analysis),
        "binding": binding.binding(analysis),
        "losses_finetune": training.loss_curves(analysis, "finetune"),
        "losses_couple": training.loss_curves(analysis, "couple"),
        "lengths": training.length_distributions(analysis),
        "manipulation": training.manipulation(analysis),
    }


def _tables(analysis: Analysis) -> dict[str, Any]:
    return {
        "gates_standing": gating.gate_table(analysis, passed=False),
        "gates_passed": gating.gate_table(analysis, passed=True),
        "evidence": cards.evidence(analysis),
        "known_answers": tables_known.known_answers(analysis),
        "distances": cards.distances(analysis),
        "rates": tables_leakage.rates(analysis, coupled=True),
        "baseline": tables_leakage.rates(analysis, coupled=False),
        "relative_leakage": tables_leakage.relative(analysis),
        "false_positives": tables_leakage.false_positives(analysis),
        "other_leakage": tables_leakage.other_leakage(analysis),
        "specifications": tables_robustness.specifications(analysis),
        "chosen": tables_robustness.chosen_among_several(analysis),
        "most_influential": tables_robustness.most_influential(analysis),
        "leave_one_out": tables_robustness.leave_one_out(analysis),
        "seeds": tables_robustness.seeds(analysis),
        "lambdas": tables_run.lambda_candidates(analysis),
        "findings": tables_coupling.findings(analysis),
        "dose_gaps": tables_coupling.dose_gaps(analysis),
        "binding": tables_binding.cells(analysis),
        "binding_effects": tables_binding.effects(analysis, pooled=True),
        "binding_by_bystander": tables_binding.effects(analysis, pooled=False),
        "contexts": tables_masks.contexts(analysis),
        "shares": tables_masks.shares(analysis),
        "invariants": tables_masks.invariants(analysis),
        "weights": tables_weights.adapters(analysis),
        "length_match": tables_run.length_match(analysis),
        "manipulation": tables_run.manipulation(analysis),
        "fluency": tables_run.fluency(analysis),
    }
