"""Recipes declare each field once; the training stage reads only what changes its result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flatprobe.study.recipe_schema import Coupling, CouplingRecipe, Finetune, Recipe
from flatprobe.study.schema import Study


def undescribed(schema: Any, where: str = "") -> Iterator[str]:
    """Dotted names of properties without a description in a JSON schema."""
    if isinstance(schema, dict):
        for name, field in schema.get("properties", {}).items():
            if "description" not in field:
                yield f"{where}.{name}"
        for name, part in schema.items():
            yield from undescribed(part, f"{where}.{name}")


def test_every_field_of_a_study_is_described_in_its_json_schema() -> None:
    assert list(undescribed(Study.model_json_schema())) == []


@pytest.mark.parametrize("recipe", [Finetune, Coupling])
def test_a_recipe_that_repeats_a_field_changes_only_its_default(recipe: type[Recipe]) -> None:
    for name, field in Recipe.model_fields.items():
        repeated = recipe.model_fields[name]
        assert (repeated.annotation, repeated.metadata) == (field.annotation, field.metadata)
        assert not repeated.is_required()


def test_the_training_stage_reads_the_coupling_without_its_sweep_and_sizes() -> None:
    coupling = Coupling(learning_rate=1e-3, positives=7)
    dumped = coupling.recipe.model_dump()
    assert dumped.pop("at") == coupling.unlikelihood.at
    assert dumped == {name: coupling.model_dump()[name] for name in dumped}
    unread = {"unlikelihood", "positives", "negatives_per_persona", "generator", "max_new_tokens", "length_match"}
    unread |= {"calibration_samples", "telemetry_questions"}
    assert Coupling.model_fields.keys() - CouplingRecipe.model_fields.keys() == unread
