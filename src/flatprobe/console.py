"""The only module that prints. Results go to standard output, warnings and failures to standard error.

Text is never parsed as rich markup: `layers[2]` and a hostile completion are printed unchanged. Colours follow the
terminal and NO_COLOR. Lines are never wrapped, so that they can be searched and copied.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from flatprobe.errors import Problem

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 10_000  # wide enough that no table is squeezed when the output is not a terminal


def console(stderr: bool = False) -> Console:
    """A rich console on standard output or standard error.

    Each call makes a new one: that is cheap, and the streams and the environment may have changed.
    """
    from rich.console import Console

    terminal = Console(stderr=stderr, highlight=False, emoji=False, markup=False)
    if terminal.is_terminal:
        return terminal
    return Console(stderr=stderr, highlight=False, emoji=False, markup=False, width=_PIPE_WIDTH)


def duration(seconds: float) -> str:
    """`59.2 s`, `12 min 05 s`, `3 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def counted(number: int, noun: str) -> str:
    """`1 problem`, `2,000 problems`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def say(message: str = "", style: str | None = None) -> None:
    """Print a line of results."""
    console().print(message, style=style, soft_wrap=True)


def styled(pieces: Sequence[tuple[str, str | None]]) -> None:
    """Print one line made of texts, each with a rich style or None."""
    from rich.text import Text

    line = Text()
    for text, style in pieces:
        line.append(text, style)
    console().print(line, soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning; the command continues."""
    console(stderr=True).print(f"warning: {message}", style="yellow", soft_wrap=True)


def fail(problems: Sequence[Problem] | str, closing: str | None = None) -> None:
    """Print one line per problem, and a closing line: `3 problems in 1 file; nothing was run.`"""
    error = console(stderr=True)
    if isinstance(problems, str):
        error.print(problems, style="red", soft_wrap=True)
    else:
        for problem in problems:
            error.print(str(problem), style="red", soft_wrap=True)
    if closing:
        error.print(closing, style="bold red", soft_wrap=True)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None, right: Collection[str] = ()
) -> None:
    """Print rows under column heads. Columns named in `right` (numbers) are right-aligned.

    Raises:
        ValueError: a row has another length than `columns`. An empty cell would look like a result.
    """
    from rich.table import Table
    from rich.text import Text

    printed = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        printed.add_column(Text(column), justify="right" if column in right else "left")
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} cells under {len(columns)} columns: {row!r}")
        printed.add_row(*(Text(str(cell)) for cell in row))
    console().print(printed)
