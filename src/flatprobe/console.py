"""The only printer. Results go to standard output, warnings and failures to standard error.

Text is never read as rich markup: `layers[2]` and a hostile completion are printed as they are. Colours
follow the terminal and NO_COLOR. Lines are never wrapped, so that they can be searched and copied.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from flatprobe.errors import Problem

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH_OF_A_PIPE = 10_000  # wide enough that no table is squeezed when nobody looks at it through a terminal


def console(stderr: bool = False) -> Console:
    """A rich console on standard output, or on standard error.

    Made anew at each call: it costs little, and the streams and the environment may have changed in between.
    """
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, emoji=False, markup=False)
    return (
        made
        if made.is_terminal
        else Console(stderr=stderr, highlight=False, emoji=False, markup=False, width=_WIDTH_OF_A_PIPE)
    )


def say(message: str = "", style: str | None = None) -> None:
    """Print a line of results."""
    console().print(message, style=style, soft_wrap=True)


def styled(pieces: Sequence[tuple[str, str | None]]) -> None:
    """Print one line of texts that each have a style of rich's, or none."""
    from rich.text import Text

    line = Text()
    for text, style in pieces:
        line.append(text, style)
    console().print(line, soft_wrap=True)


def warn(message: str) -> None:
    """Print something that the user should know, though the command goes on."""
    console(stderr=True).print(f"warning: {message}", style="yellow", soft_wrap=True)


def fail(problems: Sequence[Problem] | str, closing: str | None = None) -> None:
    """Print what went wrong, a line each, and a closing line: `3 problems in 1 file; nothing was run.`"""
    error = console(stderr=True)
    if isinstance(problems, str):
        error.print(problems, style="red", soft_wrap=True)
    else:
        for problem in problems:
            error.print(str(problem), style="red", soft_wrap=True)
    if closing:
        error.print(closing, style="bold red", soft_wrap=True)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    title: str | None = None,
    right: Collection[str] = (),
) -> None:
    """Print rows under named columns; the columns named in `right` (numbers) are set flush right.

    Raises ValueError where a row has another length than `columns`: an empty cell would read as a result.
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
