"""Simulated studies of both probes: how often the registered rule gives each verdict.

Counts come from a population as in `truth`, hidden states from `planted_pair`. The functions that analyse and decide
real studies analyse and decide these. Every gate passes, because the inference is tested and not the safeguards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np

from flatprobe.decision.evidence import Contrast, behavioural_evidence, geometric_evidence
from flatprobe.decision.gates import Gate, gate, required
from flatprobe.decision.rule import decide
from flatprobe.decision.verdict import VerdictName
from flatprobe.simulation.cells import StudySize, draw
from flatprobe.simulation.leakage import Share, share
from flatprobe.simulation.planted_states import SOURCE, planted_pair
from flatprobe.simulation.truth import Truth
from flatprobe.statistics.bootstrap import Array
from flatprobe.statistics.estimate import Estimate
from flatprobe.statistics.geometry.contrasts import GeometryOptions, geometry_contrasts
from flatprobe.statistics.geometry.states import StateKind
from flatprobe.statistics.leakage.estimators import contrast_cells
from flatprobe.study.decision_schema import Decision
from flatprobe.study.panel import PRIMARY_POOL

JointTruth = Literal["null", "geometry", "behaviour", "both"]
TRUTHS: tuple[JointTruth, ...] = get_args(JointTruth)
"""Which legs have a true effect: none, one or both."""
VERDICTS: tuple[VerdictName, ...] = get_args(VerdictName)

DIFFERENCE = 0.30
"""Population difference of rates where the behavioural effect is true: 30 pp, as in the published experiment."""
CONTRACTION = 0.8
"""Where the geometric effect is true, every persona's deviation from the mean shrinks by this factor: the scatter ratio
is .64, and cosines rise by about .11."""
JITTER: Mapping[str, float] = {"none": 0.0, "mild": 0.1, "parent": 0.3}
"""Share of every persona's deviation that the treated finetune redraws, by regime, so that personas differ in their
geometric response too. Chosen, not estimated: there are no published states to estimate it from."""
GEOMETRY_RESAMPLES = 400
"""Question resamples of the geometric interval; few suffice, because the rule reads only the sign of its lower end."""
_LAYERS, _HIDDEN, _COMMON, _NOISE = 2, 32, 1.2, 1.0
"""Planted states have control cosines near .6, so the registered threshold of +.05 is attainable."""
_TREATED, _CONTROL = "treated", "control"


@dataclass(frozen=True)
class JointCell:
    """One cell of the grid: which effects are true, and the rule that decides."""

    variance: str
    """Name of the regime of variance components, a key of `JITTER`."""
    truth: JointTruth
    population: Truth
    """Population of the counts: with `DIFFERENCE` where the behavioural effect is true, else without a difference."""
    size: StudySize
    resamples: int
    rule: Decision

    @property
    def label(self) -> str:
        """The name from which, with the seed, the cell's random numbers are derived: independent of the grid."""
        return f"joint/{self.variance}/{self.truth}"


@dataclass(frozen=True, kw_only=True)
class JointRow:
    """How often the rule gave each verdict in the studies of one cell."""

    variance: str
    truth: JointTruth
    studies: int
    verdicts: dict[str, Share]
    """Share by verdict. Unless both effects are true, the share of `flattened` is the false-positive rate."""
    geometric_leg: Share
    """Share of studies whose geometric leg passes."""
    behavioural_leg: Share
    """Share of studies whose behavioural leg passes."""
    mean_geometry: float
    """Mean of the deciding geometric measure."""
    mean_leakage: float
    """Mean of the leakage differences."""

    def to_json(self) -> dict[str, object]:
        """The row as a JSON object."""
        return asdict(self)


def simulated_rule(rule: Decision) -> Decision:
    """The same rule about two conditions named `treated` and `control`, without a benign one."""
    return rule.model_copy(update={"treated": _TREATED, "control": _CONTROL, "benign": None})


def simulate_joint(cell: JointCell, generator: np.random.Generator) -> Array:
    """One study, shape (5,): index into `VERDICTS`, whether each leg passed, both effects."""
    rule = simulated_rule(cell.rule)
    estimates = [*_geometry(cell, rule, generator), *_leakage(cell, rule, generator)]
    contrast = f"{_TREATED} - {_CONTROL}"
    evidence = Contrast(
        geometric_evidence(estimates, rule, contrast, headroom=None),
        behavioural_evidence(estimates, rule, contrast, PRIMARY_POOL),
    )
    outcome = decide(rule, evidence, passing_gates(rule))
    effects = (evidence.geometry.effect, evidence.behaviour.effect)
    return np.array(
        [
            VERDICTS.index(outcome.verdict),
            outcome.geometric_leg == "pass",
            outcome.behavioural_leg == "pass",
            *(np.nan if effect is None else effect for effect in effects),
        ],
        dtype=np.float64,
    )


def joint_row(cell: JointCell, outcomes_SF: Array) -> JointRow:
    """Summarise a cell's studies; `outcomes_SF` stacks the results of `simulate_joint`."""
    studies = len(outcomes_SF)
    verdict_S = outcomes_SF[:, 0].astype(int)
    return JointRow(
        variance=cell.variance,
        truth=cell.truth,
        studies=studies,
        verdicts={name: share(int((verdict_S == index).sum()), studies) for index, name in enumerate(VERDICTS)},
        geometric_leg=share(int(outcomes_SF[:, 1].sum()), studies),
        behavioural_leg=share(int(outcomes_SF[:, 2].sum()), studies),
        mean_geometry=float(np.nanmean(outcomes_SF[:, 3])),
        mean_leakage=float(np.nanmean(outcomes_SF[:, 4])),
    )


def passing_gates(rule: Decision) -> list[Gate]:
    """Every required gate, with a statistic that passes."""
    gates = []
    for name, arm in required(rule):
        unevaluated = gate(name, arm, None, rule)
        passing = unevaluated.threshold + (1 if unevaluated.comparison == ">" else 0)
        gates.append(gate(name, arm, passing, rule, "simulated studies pass every gate"))
    return gates


def _geometry(cell: JointCell, rule: Decision, generator: np.random.Generator) -> list[Estimate]:
    treated, control = planted_pair(
        generator,
        personas=1 + cell.size.personas,
        questions=cell.size.questions,
        layers=_LAYERS,
        hidden=_HIDDEN,
        contraction=CONTRACTION if cell.truth in ("geometry", "both") else 1.0,
        noise=_NOISE,
        jitter=JITTER[cell.variance],
        common=_COMMON,
    )
    bystanders = [persona for persona in treated.personas if persona != SOURCE]
    options = GeometryOptions(
        kind=StateKind(rule.geometry.responses, rule.geometry.position),
        pool=PRIMARY_POOL,
        resamples=GEOMETRY_RESAMPLES,
        seed=int(generator.integers(2**32)),
        level=rule.geometry.level,
        measures=(rule.geometry.measure,),
    )
    states = {_TREATED: treated, _CONTROL: control}
    return geometry_contrasts(states, [(_TREATED, _CONTROL)], SOURCE, bystanders, options)


def _leakage(cell: JointCell, rule: Decision, generator: np.random.Generator) -> list[Estimate]:
    drawn = draw(cell.population, cell.size, generator)
    return contrast_cells(
        drawn.cells,
        resamples=cell.resamples,
        seed=int(generator.integers(2**32)),
        level=rule.behaviour.level,
        estimators=sorted({rule.behaviour.estimator, "crossed_anova"}),
        treated=_TREATED,
        control=_CONTROL,
        pool=PRIMARY_POOL,
    )
