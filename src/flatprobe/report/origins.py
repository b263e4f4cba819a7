"""Where the numbers of the report come from: the function behind every table and card."""

from __future__ import annotations

ORIGINS: dict[str, str] = {
    # cards and tables of the decision
    "card-geometry": "decision.evidence:geometric_evidence",
    "card-behaviour": "decision.evidence:behavioural_evidence",
    "evidence": "decision.rule:decide",
    "distances": "decision.reasons:distances",
    "known-answers": "decision.known_answers:outcome",
    "gates-standing": "decision.gates:gate",
    "gates-passed": "decision.gates:gate",
    # leakage
    "rates": "statistics.leakage.rates:rates",
    "baseline": "statistics.leakage.rates:rates",
    "leakage": "statistics.leakage.estimators:leakage_contrast",
    "leakage-other": "statistics.leakage.estimators:leakage_contrast",
    "relative-leakage": "statistics.leakage.relative:relative_leakage",
    "false-positives": "statistics.leakage.rates:upper_bound",
    # geometry
    "layers": "statistics.geometry.tables:geometry_table",
    "effects": "statistics.geometry.contrasts:geometry_contrasts",
    "effect-tests": "statistics.geometry.inference:with_max_t",
    "aggregates": "statistics.geometry.contrasts:geometry_contrasts",
    "aggregates-elsewhere": "statistics.geometry.contrasts:geometry_contrasts",
    "massive": "statistics.geometry.massive:massive_activation_table",
    # robustness
    "specifications": "statistics.leakage.specifications:specification_curve",
    "multiplicity": "statistics.multiplicity:max_t",
    "most-influential": "statistics.leakage.leave_one_out:leave_one_out",
    "leave-one-out": "statistics.leakage.leave_one_out:leave_one_out",
    "seeds": "statistics.leakage.seeds:seed_contrast",
    # coupling
    "lambdas": "probes.select_lambda:select_lambda",
    "findings": "training.findings:findings",
    "dose-gaps": "statistics.leakage.dose:dose_gap",
    "binding": "probes.binding:measure",
    "binding-effects": "statistics.binding.effects:effects",
    "binding-by-bystander": "statistics.binding.effects:effects",
    "contexts": "training.audit.contexts:training_contexts",
    "shares": "training.audit.contexts:labelled_shares",
    "invariants": "training.audit.invariants:coupling_invariants",
    "weights": "training.weights:measure",
    # the run
    "length-match": "data.lengths:summarise",
    "manipulation-means": "probes.manipulation:check",
    "fluency": "probes.manipulation:check",
    "stages": "pipeline.manifest:Manifest",
    "panel": "study.panel:Persona",
    "questions": "study.questions:Question",
    # a study without a coupling
    "change-by-layer": "statistics.geometry.contrasts:geometry_contrasts",
    "change-by-position": "statistics.geometry.contrasts:geometry_contrasts",
    "change-by-measure": "statistics.geometry.contrasts:geometry_contrasts",
    "change-by-persona": "analysis.comparison_rows:compare",
}
"""Kind of table or card to `module:function`, below the package `flatprobe`."""
