from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from peft import PeftModel

from flatprobe.machine.local import VARIABLE, current_machine
from flatprobe.models.load import Loaded
from flatprobe.planner.contracts import FinetuneSettings
from flatprobe.study.recipe_schema import Finetune, Lora
from flatprobe.training.finetune import epoch_batches, finetune
from flatprobe.training.state_targets import answer_states

RECIPE = Finetune(
    lora=Lora(rank=4, alpha=8.0, dropout=0.0, rank_stabilised=False),
    learning_rate=5e-3,
    batch=4,
    epochs=3.0,
    precision="float32",
)
ROWS = [
    [{"role": "user", "content": f"What floats, {i}?"}, {"role": "assistant", "content": "Bread and boats. " * (1 + i)}]
    for i in range(5)
]


@pytest.fixture
def trained(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], pl.DataFrame]:
    """Runs the stage with so many rows in a forward pass and gives its losses."""

    def run(training_rows: int) -> pl.DataFrame:
        data, output = tmp_path / "data", tmp_path / f"out-{training_rows}"
        data.mkdir(exist_ok=True)
        output.mkdir()
        pl.DataFrame({"messages": [json.dumps(row) for row in ROWS]}).write_parquet(data / "rows.parquet")
        local = current_machine().model_copy(update={"training_rows": training_rows})
        monkeypatch.setenv(VARIABLE, local.model_dump_json())
        inputs = {"checkpoint": model_folder("llama"), "data": data}
        finetune(FinetuneSettings(recipe=RECIPE, seed=7, match="answers"), inputs, output)
        assert (output / "adapter" / "adapter_model.safetensors").is_file()
        facts = json.loads((output / "facts.json").read_text())
        assert (facts["steps"], facts["rows"]) == (6, 5)
        return pl.read_parquet(output / "losses.parquet").filter(pl.col("term") == "total")

    return run


def test_the_first_loss_is_the_mean_over_the_batch_s_answer_tokens(
    trained: Callable[[int], pl.DataFrame], load: Callable[[str], Loaded]
) -> None:
    loaded = load("llama")
    (batch, *_) = epoch_batches(5, 4, 3.0, np.random.default_rng(7))
    losses = []
    for number in batch:
        tokens, n_prompt = loaded.conversations.encode_messages(ROWS[number])
        labels = torch.tensor([tokens])
        with torch.no_grad():
            logits = loaded.model(labels).logits[0, n_prompt - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, labels[0, n_prompt:], reduction="none"))
    frame = trained(16)
    assert frame["value"][0] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)
    assert frame["value"][-1] < frame["value"][0]


def test_micro_batches_do_not_change_the_training(trained: Callable[[int], pl.DataFrame]) -> None:
    assert trained(1)["value"].to_list() == pytest.approx(trained(16)["value"].to_list(), rel=1e-3)


def test_part_of_an_epoch_ends_early() -> None:
    batches = epoch_batches(10, 4, 1.7, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4]
    assert sorted(number for batch in batches[:3] for number in batch) == list(range(10))


def test_there_is_always_a_step() -> None:
    assert len(epoch_batches(3, 16, 0.1, np.random.default_rng(0))) == 1


def test_states_are_matched_under_the_row_s_prompt_to_those_under_the_reference_s(
    model_folder: Callable[[str], Path], load: Callable[[str], Loaded], tmp_path: Path
) -> None:
    def under(system: str) -> list[list[dict[str, str]]]:
        return [[{"role": "system", "content": system}, *row] for row in ROWS]

    rows, references = under("You keep bees."), under("You are a librarian.")
    data, output = tmp_path / "data", tmp_path / "output"
    data.mkdir()
    output.mkdir()
    columns = {"messages": rows, "reference": references}
    pl.DataFrame({name: [json.dumps(row) for row in texts] for name, texts in columns.items()}).write_parquet(
        data / "rows.parquet"
    )
    recipe = RECIPE.model_copy(update={"epochs": 20.0, "learning_rate": 1e-2})
    inputs = {"checkpoint": model_folder("llama"), "data": data}
    finetune(FinetuneSettings(recipe=recipe, seed=7, match="states"), inputs, output)

    loaded = load("llama")
    encode, pad = loaded.conversations.encode_messages, loaded.conversations.turn_end
    before, reference = (
        answer_states(loaded.model, [encode(row) for row in some], pad).detach() for some in (rows, references)
    )
    trained = PeftModel.from_pretrained(loaded.model, output / "adapter")
    with torch.no_grad():
        reached = answer_states(trained, [encode(row) for row in rows], pad)
    assert float((reached - reference).square().sum()) < 0.2 * float((before - reference).square().sum())
