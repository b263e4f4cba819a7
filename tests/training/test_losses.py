from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flatprobe.data.coupling_examples import CouplingExample, CouplingRow, Target
from flatprobe.training.losses import CLAMP, Supervised, Weights, collect, coupling_loss, unlikelihood

WEIGHTS = Weights(unlikelihood=2.0, anchor=0.5, positive=0.25)
POSITIVE = CouplingExample(
    "source",
    "q1",
    "positive",
    (CouplingRow((0, 0, 1, 2, 1), (Target("marker", (2, 3), (2, 1)), Target("anchor", (1,), (1,)))),),
)
NEGATIVE = CouplingExample(
    "villain",
    "q1",
    "negative",
    (
        CouplingRow(
            (0, 1, 1, 2),
            (Target("end", (1,), (2,)), Target("unlikelihood", (1, 2), (1, 2)), Target("anchor", (0,), (1,))),
        ),
    ),
)
TWO_ROWS = CouplingExample(
    "comedian",
    "q1",
    "negative",
    (
        CouplingRow((0, 1, 2), (Target("end", (1,), (2,)),)),
        CouplingRow((0, 2, 1, 1), (Target("unlikelihood", (0, 1, 2), (2, 1, 1)),)),
    ),
)


THREE_SLOTS = CouplingExample(
    "comedian",
    "q2",
    "negative",
    (
        CouplingRow((0, 1, 1), (Target("end", (1,), (2,)), Target("unlikelihood", (1,), (1,)))),
        CouplingRow((0, 2, 1, 1), (Target("unlikelihood", (1, 2), (1, 1)),)),
        CouplingRow((0, 2), (Target("unlikelihood", (0,), (2,)),)),
    ),
)


def log_p_of(logits: Tensor, examples: list[CouplingExample], *, with_anchor: bool = True) -> Tensor:
    """[T] log-probabilities of the targets from logits [rows, T', 3]."""
    supervised = collect(examples, with_anchor=with_anchor)
    return logits.log_softmax(-1)[supervised.row, supervised.position, supervised.token]


def logits_of(rows: int) -> Tensor:
    return torch.randn(rows, 5, 3, generator=torch.Generator().manual_seed(7))


def test_the_loss_on_three_tokens_is_its_closed_form() -> None:
    examples = [POSITIVE, NEGATIVE, TWO_ROWS]
    p = logits_of(4).double().softmax(-1)
    marker = -(p[0, 2, 2].log() + p[0, 3, 1].log()) / 2
    ends = -(p[1, 1, 2].log() + p[2, 1, 2].log()) / 2
    pushed = -((1 - p[1, 1, 1] * p[1, 2, 2]).log() + (1 - p[3, 0, 2] * p[3, 1, 1] * p[3, 2, 1]).log()) / 2
    anchor_p, anchor_n = -p[0, 1, 1].log(), -p[1, 0, 1].log() / 2
    expected = 0.25 * (marker + 0.5 * anchor_p) + 0.75 * (ends + 2.0 * pushed + 0.5 * anchor_n)
    loss, report = coupling_loss(log_p_of(logits_of(4), examples), collect(examples, with_anchor=True), WEIGHTS)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert report == pytest.approx(
        {
            "positive/marker": float(marker),
            "positive/anchor": float(anchor_p),
            "negative/end": float(ends),
            "negative/unlikelihood": float(pushed),
            "negative/anchor": float(anchor_n),
        },
        rel=1e-6,
    )


def test_several_targets_of_one_term_are_averaged() -> None:
    p = logits_of(4).double().softmax(-1)
    slots = [p[1, 1, 1], p[2, 1, 1] * p[2, 2, 1], p[3, 0, 2]]
    pushed = -torch.stack([(1 - slot).log() for slot in slots]).mean()
    examples = [POSITIVE, THREE_SLOTS]
    loss, report = coupling_loss(
        log_p_of(logits_of(4), examples, with_anchor=False), collect(examples, with_anchor=False), WEIGHTS
    )
    assert report["negative/unlikelihood"] == pytest.approx(float(pushed), rel=1e-6)
    expected = 0.25 * report["positive/marker"] + 0.75 * (report["negative/end"] + 2.0 * float(pushed))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_the_anchor_term_is_the_mean_divergence_if_it_gets_negative_divergences() -> None:
    supervised = collect([POSITIVE, NEGATIVE], with_anchor=True)
    assert supervised.anchored().tolist() == [term == "anchor" for term in term_names(supervised)]
    scores = torch.where(supervised.anchored(), torch.tensor(-0.7), torch.tensor(-1.0))
    _, report = coupling_loss(scores, supervised, WEIGHTS)
    assert report["positive/anchor"] == report["negative/anchor"] == pytest.approx(0.7)
    assert report["positive/marker"] == pytest.approx(1.0)


def term_names(supervised: Supervised) -> list[str]:
    return [supervised.targets[int(index)][1] for index in supervised.target]


def test_the_gradient_equals_finite_differences() -> None:
    examples, logits = [POSITIVE, NEGATIVE, TWO_ROWS], logits_of(4).double().requires_grad_()

    def loss(values: Tensor) -> Tensor:
        return coupling_loss(log_p_of(values, examples).float(), collect(examples, with_anchor=True), WEIGHTS)[0]

    loss(logits).backward()
    assert logits.grad is not None
    step = 1e-2
    for place in [(0, 2, 2), (0, 3, 1), (1, 1, 2), (1, 2, 2), (3, 0, 2), (0, 1, 1)]:
        change = torch.zeros_like(logits)
        change[place] = step
        with torch.no_grad():
            slope = float(loss(logits + change) - loss(logits - change)) / (2 * step)
        assert float(logits.grad[place]) == pytest.approx(slope, abs=2e-4)


def test_without_anchors_the_loss_ignores_them() -> None:
    examples = [POSITIVE, NEGATIVE]
    supervised = collect(examples, with_anchor=False)
    _, report = coupling_loss(log_p_of(logits_of(2), examples, with_anchor=False), supervised, WEIGHTS)
    assert set(report) == {"positive/marker", "negative/end", "negative/unlikelihood"}


def test_losses_terms_and_gradients_of_a_batch_s_parts_sum_to_those_of_the_batch() -> None:
    examples = [POSITIVE, NEGATIVE, TWO_ROWS, NEGATIVE, POSITIVE]
    rows = [1, 1, 2, 1, 1]
    batch_logits = logits_of(sum(rows)).requires_grad_()
    batch_loss, report = coupling_loss(log_p_of(batch_logits, examples), collect(examples, with_anchor=True), WEIGHTS)
    batch_loss.backward()

    parts_logits = logits_of(sum(rows)).requires_grad_()
    counts = collect(examples, with_anchor=True).n_examples
    total, terms = torch.zeros(()), dict.fromkeys(report, 0.0)
    for some in (slice(0, 1), slice(1, 3), slice(3, 5)):
        start = sum(rows[: some.start])
        part = parts_logits[start : start + sum(rows[some])]
        supervised = collect(examples[some], with_anchor=True).of_batch(counts)
        loss, values = coupling_loss(log_p_of(part, examples[some]), supervised, WEIGHTS)
        loss.backward()
        total = total + loss.detach()
        for name, value in values.items():
            terms[name] += value
    assert float(total) == pytest.approx(float(batch_loss.detach()), rel=1e-6)
    assert terms == pytest.approx(report, rel=1e-6)
    torch.testing.assert_close(parts_logits.grad, batch_logits.grad)


def test_the_weight_of_positives_does_not_depend_on_the_number_of_negatives() -> None:
    def share(negatives: int) -> float:
        examples = [POSITIVE, *[NEGATIVE] * negatives]
        logits = logits_of(1 + 1).repeat_interleave(torch.tensor([1, negatives]), 0)
        return float(coupling_loss(log_p_of(logits, examples), collect(examples, with_anchor=True), WEIGHTS)[0])

    assert share(6) == pytest.approx(share(1), rel=1e-6)


@pytest.mark.parametrize("p", [1e-12, 1e-6, 0.01, 0.3, 0.5, 0.7, 0.99])
def test_unlikelihood_is_minus_log_of_one_minus_p_with_its_gradient_even_where_p_is_tiny(p: float) -> None:
    log_p = torch.tensor(math.log(p), requires_grad=True)
    loss = unlikelihood(log_p)
    loss.backward()
    held = math.exp(float(log_p.detach()))  # the probability that float32 can hold
    assert float(loss) == pytest.approx(-math.log1p(-held), rel=1e-5)
    assert float(log_p.grad) == pytest.approx(held / (1 - held), rel=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("log_p", [-1e-6, -1e-7, 0.0])
def test_a_certain_marker_has_a_finite_loss_and_a_gradient_that_lowers_it(log_p: float) -> None:
    value = torch.tensor(log_p, requires_grad=True)
    loss = unlikelihood(value)
    loss.backward()
    assert float(loss) == pytest.approx(-math.log(-math.expm1(CLAMP)), rel=1e-3)
    assert 0.5e6 < float(value.grad) < 2e6  # type: ignore[arg-type]


def test_a_gradient_step_lowers_a_probability_that_rounds_to_one() -> None:
    logits = torch.tensor([14.0, 0.0, 0.0], requires_grad=True)  # 1 - P is 1.7e-6, and log P is above the clamp
    log_p = logits.log_softmax(-1)[0]
    unlikelihood(log_p).backward()
    with torch.no_grad():
        assert float((logits - 0.1 * logits.grad).log_softmax(-1)[0]) < float(log_p)  # type: ignore[operator]


def test_an_inert_marker_has_neither_loss_nor_gradient() -> None:
    log_p = torch.tensor(-500.0, requires_grad=True)
    unlikelihood(log_p).backward()
    assert float(log_p.grad) == 0.0  # type: ignore[arg-type]


def test_log_probabilities_of_another_precision_are_refused() -> None:
    with pytest.raises(AssertionError):
        coupling_loss(log_p_of(logits_of(1), [POSITIVE]).bfloat16(), collect([POSITIVE], with_anchor=True), WEIGHTS)
