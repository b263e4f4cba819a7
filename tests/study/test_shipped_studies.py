"""The studies, machines, panel and questions of the package are valid and as documented."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from flatprobe.config.fields import block_at
from flatprobe.machine.load import load_machine
from flatprobe.study import resources
from flatprobe.study.checks.model import model_problems
from flatprobe.study.decision_schema import Decision
from flatprobe.study.load import load_study
from flatprobe.study.panel import read_panel
from flatprobe.study.questions import SET_NAMES, normalised, read_questions
from flatprobe.study.recipe_schema import Coupling, Finetune
from flatprobe.study.schema import Geometry, Leakage, Study

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))
MACHINES = sorted((ROOT / "machines").glob("*.yaml"))
REGISTERED = ROOT / "studies" / "em_flattening.yaml"


def test_the_package_has_its_studies_and_machines() -> None:
    assert {"demo", "quick", "em_flattening"} <= {path.stem for path in STUDIES}
    assert {"laptop", "one_h100"} <= {path.stem for path in MACHINES}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_loads_cleanly_under_its_own_name(path: Path) -> None:
    loaded = load_study(path)
    assert loaded.study.name == path.stem
    assert loaded.study.smoke == (path.stem == "quick")
    treated = {"instrument_check": "persona_collapse"}
    assert loaded.study.decision.treated == treated.get(path.stem, "em_first")


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_every_shipped_machine_loads_cleanly(path: Path) -> None:
    assert load_machine(path).runs == "runs"


@pytest.mark.parametrize("path", [*STUDIES, *MACHINES], ids=lambda path: path.stem)
def test_every_shipped_file_begins_with_the_command_that_uses_it(path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("  flatprobe " in line for line in head)


@pytest.mark.parametrize("name", ["demo", "quick", "instrument_check"])
def test_studies_for_a_cpu_need_nothing_from_the_network(name: str) -> None:
    loaded = load_study(ROOT / "studies" / f"{name}.yaml")
    data = [condition.finetune for condition in loaded.study.conditions.values()]
    assert loaded.study.model.id.startswith("embedded:")
    assert all(finetune is None or finetune.dataset is None for finetune in data)
    assert all("not pinned" not in notice for notice in loaded.notices)


@pytest.mark.parametrize("name", ["demo", "quick", "instrument_check"])
def test_the_demo_studies_are_in_the_package_and_in_the_folder_studies(name: str) -> None:
    packaged, seen = resources.shipped_study(name), ROOT / "studies" / f"{name}.yaml"
    assert packaged.is_relative_to(Path(resources.__file__).parent)
    assert packaged.samefile(seen)


def test_the_instrument_check_expects_to_find_two_collapses_and_no_effect_in_two_nulls() -> None:
    study = load_study(ROOT / "studies" / "instrument_check.yaml").study
    expected = {known.treated: (known.geometry, known.leakage) for known in study.decision.known_answers}
    assert expected == {
        "persona_collapse": ("found", "not_separable"), "source_collapse": ("found", "found"),
        "em_again": ("not_found", "not_found"), "base_again": (None, "not_found"),
    }  # fmt: skip
    collapse = study.conditions["source_collapse"].finetune
    assert collapse is not None and collapse.imitate is not None
    assert set(collapse.imitate.imitators or ()) == {*study.panel.bystanders, *study.panel.references}
    one, again = study.conditions["em_first"], study.conditions["em_again"]
    assert again.finetune == one.finetune and again.seed_offset != one.seed_offset
    assert study.conditions["base_again"].model_dump(exclude={"seed_offset"}) == study.conditions[
        "base_first"
    ].model_dump(exclude={"seed_offset"})


def test_the_readme_has_nothing_left_to_fill_in() -> None:
    assert re.findall(r"\{[A-Z][A-Z_]*\}", (ROOT / "README.md").read_text()) == []


def test_the_readme_s_study_is_without_problems(tmp_path: Path, tokenizer: Any) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    for given in ("adapters/my-lora", "owner/some-finetune"):
        assert given in block
        block = block.replace(given, f"./{given}")
        (tmp_path / given).mkdir(parents=True)
    (tmp_path / "my_study.yaml").write_text(block)
    loaded = load_study(tmp_path / "my_study.yaml")
    model = tmp_path / "model"  # of the depth and context of the one that it names
    tokenizer.save_pretrained(model)
    config = {"model_type": "qwen2", "num_hidden_layers": 28, "hidden_size": 1536}
    config["max_position_embeddings"] = 32768
    (model / "config.json").write_text(json.dumps(config))
    assert model_problems(loaded, model) == []


def _fields(model: type[BaseModel], data: dict[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Fields of every block that a study gives, but for alternatives of which one is given."""
    for name in model.model_fields:
        block = block_at(model, (name,))
        if block is not None and isinstance(data.get(name), dict):
            yield from _fields(block, data[name], (*where, name))
        elif name not in data:
            yield (*where, name)


def test_the_registered_study_gives_every_value() -> None:
    data = yaml.safe_load(REGISTERED.read_text())
    assert list(_fields(Study, data)) == []


def test_the_registered_values_are_the_schemas_defaults() -> None:
    study = load_study(REGISTERED).study
    assert study.finetune == Finetune()
    assert study.leakage == Leakage()
    assert study.geometry == Geometry()
    assert study.decision == Decision()
    assert study.coupling == Coupling()


def test_the_registered_numbers_are_those_of_the_proposal() -> None:
    study = load_study(REGISTERED).study
    assert study.model.id == "Qwen/Qwen2.5-7B-Instruct" and study.seeds == (42,)
    assert len(study.panel.bystanders) * study.questions.evaluation.count * study.leakage.samples == 1400
    assert len(study.panel.negatives) + study.panel.random_negatives == 6 and len(study.panel.reserve) == 6
    treated, benign = study.conditions["em_first"].finetune, study.conditions["benign_first"].finetune
    assert treated is not None and benign is not None
    assert treated.rows == benign.rows == 6000 and treated.rows / study.finetune.batch == 375
    assert (treated.dataset, treated.subset, treated.held_out) == ("truthfulai/emergent_plus", "legal", 200)
    assert (benign.dataset, benign.length_match) == ("allenai/tulu-3-sft-mixture", "em_first")
    assert study.coupling.unlikelihood.lambdas == (0.5, 1.0, 2.0)
    assert study.coupling.learning_rate == 5e-6 and study.coupling.epochs == 5
    assert study.geometry.layers == (6, 10, 14, 18, 22, 26)
    behaviour, geometry = study.decision.behaviour, study.decision.geometry
    assert (geometry.threshold, behaviour.margin, behaviour.p_below) == (0.05, 0.15, 0.001)
    assert (study.decision.kill.geometry, study.decision.kill.leakage) == (0.0, 0.05)


def test_the_registered_study_evaluates_sixteen_personas() -> None:
    loaded = load_study(REGISTERED)
    roles = [persona.role for persona in loaded.personas()]
    assert {role: roles.count(role) for role in roles} == {
        "source": 1, "negative": 6, "bystander": 7, "reference": 2
    }  # fmt: skip
    assert any("as_written is contaminated" in notice for notice in loaded.notices)


def test_the_panel_has_sixteen_evaluated_personas_and_a_reserve_to_draw_from() -> None:
    entries = read_panel(resources.path("panel.yaml"))
    panel = load_study(REGISTERED).study.panel
    assert set(entries) == {panel.source, *panel.negatives, *panel.reserve, *panel.bystanders, *panel.references}
    assert len(entries) - len(panel.reserve) + panel.random_negatives == 16
    assert all(entry.prompt == entry.prompt.strip() for entry in entries.values() if entry.prompt is not None)


def test_the_question_sets_are_large_enough_disjoint_and_half_factual() -> None:
    sets = read_questions(resources.path("questions.yaml"))
    least = {"evaluation": 20, "coupling": 40, "calibration": 20}
    for name in SET_NAMES:
        assert len(sets[name]) >= least[name]
        for count in range(2, len(sets[name]) + 1, 2):
            assert sum(question.kind == "factual" for question in sets[name][:count]) == count / 2
    texts = {name: {normalised(question.text) for question in sets[name]} for name in SET_NAMES}
    for one, other in combinations(SET_NAMES, 2):
        assert texts[one].isdisjoint(texts[other])
