"""`flatprobe audit`: what every training set of a study teaches, token by token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flatprobe import console
from flatprobe.cli.options import output_problems
from flatprobe.errors import Problem, UserError
from flatprobe.machine.load import load_machine

STYLES = {
    "marker": "bold red", "end": "bold green", "unlikelihood": "bold magenta", "anchor": "blue", "answer": "blue",
}  # fmt: skip
EDGE = 160
"""Characters of either end that are printed of a long run of tokens without a change of terms."""
TOP = 6
"""Tokens listed per place; the rest is summed up."""


@dataclass(frozen=True)
class Request:
    """What the command was asked."""

    study: Path
    machine: Path | None
    runs: Path | None
    examples: int
    json: Path | None
    html: Path | None


def audit(request: Request) -> None:
    """Audit every training set of a study and print, or write, what was found.

    Raises:
        UserError: wrong options, a study with problems, or examples that break an invariant (after they are shown).
    """
    from flatprobe.cli.audit_sets import audit_sets
    from flatprobe.models.conversation import load_conversations
    from flatprobe.prepare import prepare

    _check(request)
    prepared = prepare(request.study, load_machine(request.machine), request.runs, check_model=True)
    resolved = prepared.resolved
    name = resolved.study.model.id
    place = prepared.loaded.place("model", "id")
    conversations = load_conversations(resolved.description(resolved.model), name, place)
    found: dict[str, Any] = {
        "study": str(request.study), "model": name, "folder": str(prepared.folder),
        **asdict(conversations.system_turn),
        "folded": [p.name for p in resolved.personas if p.system is not None]
        if conversations.system_turn.system != "own"
        else [],
        "turn_end": conversations.pieces([conversations.turn_end])[0],
        "sets": list(audit_sets(prepared, conversations, request.examples)),
    }  # fmt: skip
    if request.html is not None:
        from flatprobe.report.pages.audit import write_page

        write_page(found, request.html)
    if request.json is not None and str(request.json) != "-":
        request.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if str(request.json) == "-":
        console.say(json.dumps(found, indent=1))
    else:
        _show(found)
    _require(found["sets"])


def _check(request: Request) -> None:
    problems: list[Problem] = []
    if request.examples < 1:
        problems.append(
            Problem("audit.TODO", "--examples", f"{request.examples} shows nothing", "at least 1")
        )
    inputs = [request.study, *([request.machine] if request.machine else [])]
    if request.html is not None:
        problems += output_problems("--html", request.html, inputs, (".html",))
        inputs.append(request.html)
    if request.json is not None and str(request.json) != "-":
        problems += output_problems("--json", request.json, inputs)
    if problems:
        raise UserError(problems)


def _require(sets: Sequence[Mapping[str, Any]]) -> None:
    broken = [
        Problem(
            "audit.TODO",
            found["name"],
            f"{count['invariant']}: {count['held']} of {count['examples']} examples",
        )
        for found in sets
        for count in found["invariants"]
        if count["held"] < count["examples"]
    ]
    if broken:
        error = UserError(broken)
        error.add_note("a coupling would stop at its mask audit")
        raise error


def _show(found: Mapping[str, Any]) -> None:
    where = {
        "own": "a turn of its own", "folded_by_template": "the user's turn, by the template",
        "folded": "the head of the user's turn, as the template has no system role",
    }[found["system"]]  # fmt: skip
    default = "none" if found["default"] is None else repr(found["default"])
    console.say(
        f"{found['model']}: a system prompt stands in {where}; the template's own default: {default}."
    )
    console.say(f"A turn ends with {found['turn_end']}.")
    for one in found["sets"]:
        _show_set(one)


def _show_set(one: Mapping[str, Any]) -> None:
    console.say()
    console.say(f"{one['name']}: {one['size']} examples from {one['origin']}", style="bold")
    console.table(
        ("invariant", "held", "of"),
        [(count["invariant"], count["held"], count["examples"]) for count in one["invariants"]],
        right=("held", "of"),
    )
    console.say()
    console.table(
        ("group", "term", "labelled tokens", "of", "share"),
        [(s["group"], s["term"], s["labelled"], s["tokens"], f"{s['share']:.2%}") for s in one["shares"]],
        right=("labelled tokens", "of", "share"),
    )
    console.say()
    console.say(f"Tokens around the marker and behind answers (evaluation: {one['evaluation']})")
    console.table(
        ("place", "in", "token", "count"),
        [
            (c["place"], c["where"], "and others" if c["token"] is None else repr(c["token"]), c["count"])
            for c in frequent(one["contexts"])
        ],
        right=("count",),
    )
    for example in one["examples"]:
        console.say()
        title = ", ".join(
            part for part in (example["group"], example["persona"], example["question_id"]) if part
        )
        console.say(f"{title}:")
        console.styled(runs(example["tokens"]))


def frequent(found: Sequence[Mapping[str, Any]], top: int = TOP) -> list[dict[str, Any]]:
    """The most frequent tokens of each place and set, then the count of all others under no token."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for context in found:
        groups.setdefault((context["place"], context["where"]), []).append(context)
    rows: list[dict[str, Any]] = []
    for (place, where), some in sorted(groups.items()):
        rows += [dict(context) for context in some[:top]]
        if rest := sum(context["count"] for context in some[top:]):
            rows.append({"place": place, "where": where, "token": None, "count": rest})
    return rows


def runs(tokens: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    """Text with its style: tokens under the same terms together, set in brackets with the terms and their weights, so
    that they can be told without colours. Tokens under a term are set apart by bars."""
    pieces: list[tuple[str, str | None]] = []
    start = 0
    while start < len(tokens):
        label, stop = _label(tokens[start]), start
        while stop < len(tokens) and _label(tokens[stop]) == label:
            stop += 1
        texts = [_visible(token["text"]) for token in tokens[start:stop]]
        if label:
            first = next(name for name, weight in tokens[start]["weights"].items() if weight)
            pieces.append((f"⟦{_short('│'.join(texts))}⟧", STYLES[first]))
            pieces.append((f"{label} ", "dim"))
        else:
            pieces.append((_short("".join(texts)), "dim"))
        start = stop
    return pieces


def _label(token: Mapping[str, Any]) -> str:
    terms = [f"{name}×{weight:g}" for name, weight in token["weights"].items() if weight]
    return "+".join(terms) + (" instead" if token["alternative"] and terms else "")


def _visible(text: str) -> str:
    return text.replace("\n", "↵")


def _short(text: str) -> str:
    if len(text) <= 2 * EDGE:
        return text
    return f"{text[:EDGE]} … {len(text) - 2 * EDGE} characters … {text[-EDGE:]}"
