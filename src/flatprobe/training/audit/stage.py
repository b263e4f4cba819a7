"""Stage: audit of one coupling's training set, token by token, and of the marker's places in its completions."""

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
SHARES = {"group": pl.String, "term": pl.String, "labelled": pl.Int64, "tokens": pl.Int64, "share": pl.Float64}
INVARIANTS = {"invariant": pl.String, "held": pl.Int64, "examples": pl.Int64}


def audit(settings: CoupleSettings, inputs: Mapping[str, Path], output: Path) -> None:
    """Audit a coupling. Inputs: `checkpoint` (for its tokenizer), `examples`, `coupling`, and its `completions`.

    Output: audit.json (decoded tokens of one example per persona, with their loss weights), contexts.parquet (tokens
    around the marker and after answers, in training and in completions), shares.parquet (shares of tokens with a loss),
    invariants.parquet (for how many examples each invariant holds).
    """
    path = checkpoint_path(inputs["checkpoint"])
    conversations = Conversations(load_tokenizer(path), path.name)
    lambda_ = read_facts(inputs["coupling"], CoupleFacts).lambda_
    answers = answers_of(settings, pl.read_parquet(inputs["examples"] / "examples.parquet"))
    examples = build_examples(settings, answers, conversations)
    decoded = audit_examples(settings.condition, examples, conversations, weights=term_weights(settings, lambda_))
    (output / "audit.json").write_text(json.dumps(decoded))
    frame = pl.read_parquet(inputs["completions"] / "completions.parquet")
    completions = frame.select("text", "finish_reason").rows()
    around = [
        *contexts.training_contexts(examples, conversations, settings.marker),
        *contexts.evaluation_contexts(completions, conversations, settings.marker),
    ]
    pl.DataFrame(around, schema=CONTEXTS).write_parquet(output / "contexts.parquet")
    shares = contexts.labelled_shares(examples)
    pl.DataFrame(shares, schema=SHARES).write_parquet(output / "shares.parquet")
    pairs = [(a.prompt, a.text) for a in answers]
    invariants = coupling_invariants(examples, pairs, conversations, marker_text(settings))
    pl.DataFrame(invariants, schema=INVARIANTS).write_parquet(output / "invariants.parquet")


def term_weights(settings: CoupleSettings, lambda_: float) -> dict[Term, float]:
    """Weight of each term in the loss of one example."""
    anchor = settings.recipe.anchor
    return {"marker": 1, "end": 1, "unlikelihood": lambda_, "anchor": 0 if anchor.kind == "none" else anchor.weight}
