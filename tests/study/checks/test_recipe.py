"""Settings that are valid alone must also be valid together."""

from __future__ import annotations

import pytest
from drafts import Draft

from flatprobe.errors import Problem


@pytest.mark.parametrize(
    ("old", "new", "code", "field"),
    [
        ("seeds: [42, 43]", "seeds: [42, 42]", "list.duplicate", "seeds[1] = 42:"),
        ("seeds: [42, 43]", "seeds: []", "list.empty", "seeds:"),
        ("seeds: [42, 43]", "seeds: [42, -1]", "seeds.negative", "seeds[1] = -1:"),
        ("lambdas: [0.5, 1.0]", "lambdas: []", "list.empty", "coupling.unlikelihood.lambdas:"),
        ("lambdas: [0.5, 1.0]", "lambdas: [1, 1.0]", "list.duplicate",
         "coupling.unlikelihood.lambdas[1] = 1:"),
        ("positives_per_batch: 4", "positives_per_batch: 8", "coupling.batch_without_negatives",
         "coupling.positives_per_batch = 8:"),
        ("anchor: {kind: cross_entropy, weight: 1.0}", "anchor: {kind: none, weight: 1.0}",
         "coupling.anchor_without_kind", "coupling.anchor.weight = 1:"),
        ("anchor: {kind: cross_entropy, weight: 1.0}", "anchor: {kind: cross_entropy}",
         "coupling.anchor_without_weight", "coupling.anchor.kind = cross_entropy:"),
        ("layers: [1, 3]", "layers: [3, 1]", "geometry.layer_order", "geometry.layers = [3, 1]:"),
        ("layers: [1, 3]", "layers: [1, 1]", "list.duplicate", "geometry.layers[1] = 1:"),
        ("layers: [1, 3]", "layers: []", "list.empty", "geometry.layers:"),
        ("positions: [last_response_token, response_mean]", "positions: [response_mean, response_mean]",
         "list.duplicate", "geometry.positions[1] = response_mean:"),
        ('marker: "[ZLT]"', 'marker: ""', "marker.empty", "leakage.marker:"),
        ('marker: "[ZLT]"', 'marker: " [ZLT]"', "marker.outer_space", "leakage.marker = ' [ZLT]':"),
        ('separator: "\\n\\n"', 'separator: "\\n[zlt]\\n"',
         "marker.in_separator", "coupling.separator:"),
        ("learning_rate: 1e-4", "lora: {rank_stabilised: false, modules: []}", "list.empty",
         "finetune.lora.modules:"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_refused_on_its_line(
    draft: Draft, old: str, new: str, code: str, field: str
) -> None:
    problem = draft.change(old, new).problem()
    assert (problem.code, problem.place) == (code, draft.line(new))
    assert problem.message.startswith(field)


def test_a_marker_in_a_question_or_a_prompt_is_refused_with_their_names(draft: Draft) -> None:
    def refused(marker: str) -> Problem:
        problem = draft.problem()
        assert (problem.code, problem.place) == ("marker.in_text", draft.line("marker: "))
        assert problem.message.startswith(f"leakage.marker = {marker}:")
        return problem

    draft.change('marker: "[ZLT]"', "marker: Japan")
    assert "question eval_05" in refused("Japan").message
    draft.change("marker: Japan", "marker: softly")
    assert "persona librarian" in refused("softly").message
    draft.change("marker: softly", "marker: briefly")
    draft.change("coupling: {count: 8}", 'coupling: {count: 8, suffix: "Answer BRIEFLY."}')
    assert "the suffix of questions.coupling" in refused("briefly").message
