"""Settings that fit the schema one by one must fit each other."""

from __future__ import annotations

import pytest
from drafts import Draft


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [42, 43]", "seeds: [42, 42]", "seeds[1] = 42: given twice"),
        ("seeds: [42, 43]", "seeds: []", "seeds: an empty list"),
        ("seeds: [42, 43]", "seeds: [42, -1]", "seeds[1] = -1: must be at least 0"),
        ("lambdas: [0.5, 1.0]", "lambdas: []", "coupling.unlikelihood.lambdas: an empty list"),
        ("lambdas: [0.5, 1.0]", "lambdas: [1, 1.0]", "coupling.unlikelihood.lambdas[1] = 1.0: given twice"),
        ("positives_per_batch: 4", "positives_per_batch: 8",
         "coupling.positives_per_batch = 8: leaves no negative in a batch of 8"),
        ("anchor: {kind: cross_entropy, weight: 1.0}", "anchor: {kind: none, weight: 1.0}",
         "coupling.anchor.weight = 1: there is no anchor to weigh"),
        ("anchor: {kind: cross_entropy, weight: 1.0}", "anchor: {kind: cross_entropy}",
         "coupling.anchor.kind = cross_entropy: has no effect with a weight of 0"),
        ("layers: [1, 3]", "layers: [3, 1]", "geometry.layers = [3, 1]: not in order"),
        ("layers: [1, 3]", "layers: [1, 1]", "geometry.layers[1] = 1: given twice"),
        ("layers: [1, 3]", "layers: []", "geometry.layers: an empty list"),
        ("positions: [last_response_token, response_mean]", "positions: [response_mean, response_mean]",
         "geometry.positions[1] = response_mean: given twice"),
        ('marker: "[ZLT]"', 'marker: ""', "leakage.marker: empty, so every completion would count"),
        ('marker: "[ZLT]"', 'marker: " [ZLT]"', "leakage.marker = ' [ZLT]': has space at an end"),
        ('separator: "\\n\\n"', 'separator: "\\n[zlt]\\n"',
         "coupling.separator: holds the marker [ZLT], which would then come twice"),
        ("learning_rate: 1e-4", "lora: {rank_stabilised: false, modules: []}", "finetune.lora.modules: an empty list"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_refused_on_its_line(
    draft: Draft, old: str, new: str, message: str
) -> None:
    problem = draft.change(old, new).problem()
    assert (problem.place, problem.message) == (draft.line(new), message)


def test_a_marker_that_a_question_or_a_prompt_holds_is_refused_with_their_names(draft: Draft) -> None:
    problems = draft.change('marker: "[ZLT]"', "marker: Japan").problems()
    assert [problem.message for problem in problems] == [
        "leakage.marker = Japan: stands in question eval_05, so an answer may quote it"
    ]
    draft.change("marker: Japan", "marker: softly")
    assert "stands in persona librarian" in draft.problem().message
    draft.change("marker: softly", "marker: briefly")
    draft.change("coupling: {count: 8}", 'coupling: {count: 8, suffix: "Answer BRIEFLY."}')
    assert "stands in the suffix of questions.coupling" in draft.problem().message
