"""The page of a comparison of two checkpoints: the report's style, without a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flatprobe.report import comparison_words as words
from flatprobe.report.comparison import Compared
from flatprobe.report.examples import WINDOW, Piece, TokenLine, visible
from flatprobe.report.figures.compared import figures
from flatprobe.report.figures.persona_map import NO_MAP
from flatprobe.report.headroom import headroom_words
from flatprobe.report.pages.environment import write_html
from flatprobe.report.tables import comparison as tables


def write_page(compared: Compared, output: Path) -> None:
    """Write one self-contained HTML file. Raises jinja2.UndefinedError where the page shows what is not there."""
    write_html("geometry.html.j2", _context(compared), output)


def _context(compared: Compared) -> dict[str, Any]:
    by_layer = compared.by_layer("headroom", compared.position, compared.responses, None)
    headroom = {layer: row["base"] for layer, row in by_layer.items() if layer is not None}
    known = {layer: value for layer, value in headroom.items() if value is not None}
    kinds = [(p, r) for r in compared.pair.responses for p in compared.pair.positions]
    shown = (compared.position, compared.responses)
    return {
        "compared": compared,
        "facts": compared.facts(),
        "conclusion": words.conclusion(compared),
        "headroom_words": headroom_words(known, *shown) if known else None,
        "tables": {
            "headroom": tables.headroom(compared),
            "layers": tables.layers(compared, *shown),
            "elsewhere": [(f"{p}, {r}", tables.layers(compared, p, r)) for p, r in kinds if (p, r) != shown],
            "positions": tables.positions(compared),
            "measures": tables.measures(compared, every_estimator=False),
            "estimators": tables.measures(compared, every_estimator=True),
            "personas": tables.personas(compared),
            "massive": tables.massive(compared),
        },
        "figures": figures(compared),
        "no_map": NO_MAP,
        "probed": {
            position: [_line(row, position) for row in rows] for position, rows in compared.preview.items()
        },
    }


def _line(row: Any, position: str) -> TokenLine:
    """Tokens around the one whose state is read; for a mean, the last one that enters it."""
    index, tokens = row["index"], row["tokens"]
    start, stop = max(0, index - WINDOW), min(len(tokens), index + WINDOW + 1)
    pieces = [Piece("… ", "cut")] if start else []
    pieces += [Piece(visible(tokens[at]), "probed" if at == index else "") for at in range(start, stop)]
    pieces += [Piece(" …", "cut")] if stop < len(tokens) else []
    note = ", a mean up to the token set off" if position.endswith("_mean") else ""
    return TokenLine(f"{row['persona']}, {row['question_id']}{note}", tuple(pieces))
