"""Stage: what one coupling's training set teaches, token by token, and where the marker then stood in completions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from flatprobe.data.coupling_examples import Term
from flatprobe.facts import CoupleFacts, read_facts
from flatprobe.models.conversation import Conversations
from flatprobe.models.load import checkpoint_path, load_tokenizer
from flatprobe.planner.contracts import CoupleSettings
from flatprobe.training.audit import contexts
from flatprobe.training.audit.invariants import coupling_invariants
from flatprobe.training.audit.masks import audit_examples
from flatprobe.training.couple import answers_of, build_examples, marker_text

CONTEXTS = {"where": pl.String, "place": pl.String, "token": pl.String, "count": pl.Int64}
SHARES = {
    "group": pl.String, "term": pl.String, "labelled": pl.Int64, "tokens": pl.Int64, "share": pl.Float64,
}  # fmt: skip
INVARIANTS = {"invariant": pl.String, "held": pl.Int64, "examples": pl.Int64}


def audit(settings: CoupleSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Audit a coupling. Inputs: `checkpoint` (its tokenizer), `examples`, `coupling`, and `completions` with it.

    Output: audit.json (decoded tokens of an example of each persona, with the weight of every loss term on them),
    contexts.parquet (tokens around the marker and behind answers, in training and in the completions), shares.parquet
    (labelled tokens), invariants.parquet (how many examples each holds for).
    """
    path = checkpoint_path(inputs["checkpoint"])
    conversations = Conversations(load_tokenizer(path), path.name)
    lambda_ = read_facts(inputs["coupling"], CoupleFacts).lambda_
    answered = answers_of(settings, pl.read_parquet(inputs["examples"] / "examples.parquet"))
    examples = build_examples(settings, answered, conversations)
    shown = audit_examples(
        settings.condition, examples, conversations, weights=term_weights(settings, lambda_)
    )
    (output / "audit.json").write_text(json.dumps(shown))
    completions = pl.read_parquet(inputs["completions"] / "completions.parquet")
    sampled = completions.select("text", "finish_reason").rows()
    around = [
        *contexts.training_contexts(examples, conversations, settings.marker),
        *contexts.evaluation_contexts(sampled, conversations, settings.marker),
    ]
    pl.DataFrame(around, schema=CONTEXTS).write_parquet(output / "contexts.parquet")
    labelled = contexts.labelled_shares(examples)
    pl.DataFrame(labelled, schema=SHARES).write_parquet(output / "shares.parquet")
    pairs = [(a.prompt, a.text) for a in answered]
    held = coupling_invariants(examples, pairs, conversations, marker_text(settings))
    pl.DataFrame(held, schema=INVARIANTS).write_parquet(output / "invariants.parquet")


def term_weights(settings: CoupleSettings, lambda_: float) -> dict[Term, float]:
    """Weight of each term in the loss of one example."""
    anchor = settings.recipe.anchor
    return {
        "marker": 1, "end": 1, "unlikelihood": lambda_,
        "anchor": 0 if anchor.kind == "none" else anchor.weight,
    }  # fmt: skip
