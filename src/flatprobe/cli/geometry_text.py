"""What `flatprobe geometry` prints at its end: tables, and the answer in plain words."""

from __future__ import annotations

from flatprobe import console
from flatprobe.report.comparison import Compared
from flatprobe.report.comparison_words import conclusion
from flatprobe.report.tables import comparison as tables
from flatprobe.report.tables.table import Table


def show(compared: Compared) -> None:
    """Print the tables per layer, per position and per measure, then the answer."""
    pair = compared.pair
    questions = "1 question" if len(pair.questions) == 1 else f"{len(pair.questions)} questions"
    console.say(
        f"{compared.treated} against {compared.base}: source {pair.source}, {len(pair.bystanders)} bystanders, "
        f"{questions}",
        style="bold",
    )  # fmt: skip
    for table in (
        tables.layers(compared, compared.position, compared.responses),
        tables.positions(compared),
        tables.measures(compared, every_estimator=False),
    ):
        _print(table)
    for sentence in conclusion(compared):
        console.say(sentence, style="bold")


def _print(table: Table) -> None:
    heads = [head for head, _ in table.heads]
    right = [head for head, align in table.heads if align == "number"]
    console.say()
    console.table(heads, table.rows, table.caption, right)
    console.say()
