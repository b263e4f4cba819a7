"""The kinds of stages: the function that computes each, and the version of its meaning."""

from __future__ import annotations

from typing import NamedTuple


class StageKind(NamedTuple):
    """The function behind a kind. Keys hash the kind and the version, so the function may move to another file."""

    function: str
    """Import string `module:function`."""
    version: int
    """Raise it when the function gives another result for the same settings and inputs. Otherwise artifacts of the
    older version are reused."""


KINDS = {
    "audit": StageKind("flatprobe.training.audit.stage:audit", 1),
    "binding": StageKind("flatprobe.probes.binding:measure", 2),
    "checkpoint": StageKind("flatprobe.training.checkpoint:use_checkpoint", 1),
    "couple": StageKind("flatprobe.training.couple:couple", 5),
    "coupling_data": StageKind("flatprobe.data.coupling_set:build", 4),
    "decide": StageKind("flatprobe.analysis.decide:decide_study", 9),
    "estimate": StageKind("flatprobe.analysis.estimate:estimate", 8),
    "finetune": StageKind("flatprobe.training.finetune:finetune", 3),
    "finetune_data": StageKind("flatprobe.data.finetuning:prepare", 3),
    "gather": StageKind("flatprobe.analysis.gather:gather", 7),
    "imitation_data": StageKind("flatprobe.data.imitation:prepare", 4),
    "manipulation": StageKind("flatprobe.probes.manipulation:check", 3),
    "merge": StageKind("flatprobe.training.checkpoint:merge", 2),
    "sample": StageKind("flatprobe.generation.sample:sample", 3),
    "select_lambda": StageKind("flatprobe.probes.select_lambda:select_lambda", 2),
    "states": StageKind("flatprobe.probes.states:capture", 4),
    "weights": StageKind("flatprobe.training.weights:measure", 2),
}

FORMER_KINDS = {
    "audit": "training.audit_stage:audit",
    "binding": "probes.binding:measure",
    "checkpoint": "models.stages:use_checkpoint",
    "couple": "training.couple:couple",
    "coupling_data": "data.stages:build",
    "decide": "analysis.decide:decide_study",
    "estimate": "analysis.estimate:estimate",
    "finetune": "training.finetune:finetune",
    "finetune_data": "data.finetuning:prepare",
    "gather": "analysis.gather:gather",
    "imitation_data": "data.imitation:prepare",
    "manipulation": "probes.manipulation:check",
    "merge": "training.merge:merge",
    "sample": "generation.stages:sample",
    "select_lambda": "probes.leakage:select_lambda",
    "states": "probes.geometry:capture",
    "weights": "training.weights_stage:measure",
}
"""What keys of version 0.1.0 hashed instead of a kind: the function's import string then. Artifacts under such keys are
still reused."""
