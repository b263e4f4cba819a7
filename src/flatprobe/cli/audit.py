"""`flatprobe audit`: what every training set of a study teaches, token by token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flatprobe import console
from flatprobe.cli.options import check_problems, json_problems, output_problems, put_out
from flatprobe.errors import Problem, UserError
from flatprobe.machine.load import load_machine

STYLES = {"marker": "bold red", "end": "bold green", "unlikelihood": "bold magenta", "anchor": "blue", "answer": "blue"}
EDGE = 160
"""Characters printed of either end of a long run of tokens under the same terms."""


@dataclass(frozen=True)
class AuditOptions:
    """The command line; None where an option was left out."""

    study: Path
    machine: Path | None
    runs: Path | None
    examples: int
    json: Path | None
    html: Path | None


def audit(options: AuditOptions) -> None:
    """Audit every training set of a study and print, or write, the result.

    Raises:
        UserError: wrong options, a study with problems, or examples that break an invariant (after they are shown).
    """
    from flatprobe.cli.audit_sets import audit_sets
    from flatprobe.models.conversation import load_conversations
    from flatprobe.prepare import prepare

    _check(options)
    prepared = prepare(options.study, load_machine(options.machine), options.runs, check_model=True)
    resolved = prepared.resolved
    name = resolved.study.model.id
    place = prepared.loaded.place("model", "id")
    conversations = load_conversations(resolved.description(resolved.model), name, place)
    report: dict[str, Any] = {
        "study": str(options.study),
        "model": name,
        "folder": str(prepared.folder),
        **asdict(conversations.system_turn),
        "folded": [p.name for p in resolved.personas if p.system is not None]
        if conversations.system_turn.system != "own"
        else [],
        "turn_end": conversations.pieces([conversations.turn_end])[0],
        "sets": list(audit_sets(prepared, conversations, options.examples)),
    }
    if options.html is not None:
        from flatprobe.report.pages.audit import write_page

        write_page(report, options.html)
    if not put_out(json.dumps(report, indent=1), options.json):
        _show(report)
    _require(report["sets"])


def _check(options: AuditOptions) -> None:
    enough = (options.examples >= 1, "--examples", f"{options.examples} shows nothing", "at least 1")
    problems = check_problems([enough])
    if options.html is not None:
        inputs = [path for path in (options.study, options.machine) if path is not None]
        problems += output_problems("--html", options.html, inputs, (".html",))
    problems += json_problems(options.json, [options.study, options.machine, options.html])
    if problems:
        raise UserError(problems)


def _require(sets: Sequence[Mapping[str, Any]]) -> None:
    broken = [
        Problem(
            "training_set.invariant",
            audited["name"],
            f"{count['invariant']}: {count['held']} of {count['examples']} examples",
        )
        for audited in sets
        for count in audited["invariants"]
        if count["held"] < count["examples"]
    ]
    if broken:
        error = UserError(broken)
        error.add_note("a run would stop at the coupling's mask audit")
        raise error


def _show(report: Mapping[str, Any]) -> None:
    where = {
        "own": "a system turn",
        "folded_by_template": "the user's turn, by the template",
        "folded": "the start of the user's turn, because the template has no system role",
    }[report["system"]]
    default = "none" if report["default"] is None else repr(report["default"])
    console.say(f"{report['model']}: the system prompt is in {where}; the template's own default: {default}.")
    console.say(f"A turn ends with {report['turn_end']}.")
    for one in report["sets"]:
        _show_set(one)


def _show_set(one: Mapping[str, Any]) -> None:
    from flatprobe.report.tables.masks import set_tables

    console.say()
    console.say(f"{one['name']}: {one['size']} examples from {one['origin']}", style="bold")
    for table in set_tables(one):
        console.say()
        console.say(table.caption)
        heads = [head for head, _ in table.heads]
        console.table(heads, table.rows, right=[head for head, align in table.heads if align == "number"])
    for example in one["examples"]:
        console.say()
        title = ", ".join(part for part in (example["group"], example["persona"], example["question_id"]) if part)
        console.say(f"{title}:")
        console.styled(runs(example["tokens"]))


def runs(tokens: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    """Pieces of text with their style. Tokens under the same terms are in brackets, with bars between them, followed by
    the terms and their weights; so colours are not needed."""
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
