"""A small logistic regression, and how well it ranks cases that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Values = NDArray[np.float64]
RIDGE = 1.0
"""Penalty on standardised coefficients: finite where the classes can be told apart without error."""
STEPS, TOLERANCE = 100, 1e-10


def fit(features: Values, labels: Values, ridge: float) -> Values:
    """Coefficients [1 + F], intercept first, that maximise log-likelihood - ridge / 2 * |slopes|^2.

    Newton's method (iteratively reweighted least squares) with steps halved until the objective rises.

    Args:
        features: [N, F]; labels: [N] of 0 and 1; ridge: above 0, so that the maximum exists; the intercept has none,
            so both labels must occur.
    """
    design = np.column_stack([np.ones(len(features)), features])
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 0.0
    found = np.zeros(design.shape[1])
    value = _objective(found, design, labels, penalty)
    for _ in range(STEPS):
        rates = _logistic(design @ found)
        slope = design.T @ (labels - rates) - penalty * found
        curvature = (design * (rates * (1 - rates))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, slope)
        while (after := _objective(found + step, design, labels, penalty)) < value and np.abs(
            step
        ).max() > TOLERANCE:
            step = step / 2
        found, value = found + step, max(value, after)
        if np.abs(step).max() <= TOLERANCE:
            break
    return found


def cross_validated_auc(
    features: Values, labels: Values, groups: Sequence[str], folds: int = 5, ridge: float = RIDGE
) -> float | None:
    """Area under the ROC curve of scores from models that saw none of a case's group: .5 is chance.

    Groups (questions) are dealt to the folds in sorted order; features are standardised by the training part. Only
    pairs of cases of one fold are compared: scores of different models differ in their intercepts, which would put an
    area without any information below .5. None where there are fewer than two groups, a training part lacks one of the
    labels, or no fold has both.
    """
    names = sorted(set(groups))
    folds = min(folds, len(names))
    if folds < 2:
        return None
    fold_of = {name: index % folds for index, name in enumerate(names)}
    fold = np.array([fold_of[name] for name in groups])
    ordered = pairs = 0.0
    for held_out in range(folds):
        training, test = fold != held_out, fold == held_out
        if len(np.unique(labels[training])) < 2:
            return None
        mean, spread = features[training].mean(0), features[training].std(0)
        scaled = (features - mean) / np.where(spread > 0, spread, 1.0)
        found = fit(scaled[training], labels[training], ridge)
        area = auc(scaled[test] @ found[1:], labels[test])
        if area is not None:
            ones = float(labels[test].sum())
            ordered += area * ones * (int(test.sum()) - ones)
            pairs += ones * (int(test.sum()) - ones)
    return ordered / pairs if pairs else None


def auc(scores: Values, labels: Values) -> float | None:
    """Probability that a case of label 1 scores higher than one of label 0, ties counted half (Mann and Whitney 1947);
    None where a label is missing."""
    ones = int(labels.sum())
    zeros = len(labels) - ones
    if ones == 0 or zeros == 0:
        return None
    ranks = rankdata(scores)
    return float((ranks[labels == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _logistic(x: Values) -> Values:
    rates: Values = 0.5 * (1 + np.tanh(x / 2))
    return rates


def _objective(found: Values, design: Values, labels: Values, penalty: Values) -> float:
    x = design @ found
    return float((labels * x - np.logaddexp(0, x)).sum() - 0.5 * (penalty * found**2).sum())
