"""The template engine of all pages: it escapes every text and refuses undefined names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from flatprobe.report import numbers
from flatprobe.report.words import spaced

_FILTERS = (
    numbers.decimal,
    numbers.signed,
    numbers.percent,
    numbers.points,
    numbers.p_value,
    numbers.plain,
    numbers.duration,
    spaced,
)


def write_html(template: str, values: dict[str, Any], output: Path) -> None:
    """Fill a template of `report/templates` and write it as one self-contained HTML file.

    Raises jinja2.UndefinedError if the template uses a value that is missing.
    """
    output.write_text(_environment().get_template(template).render(values), encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flatprobe.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({write.__name__: write for write in _FILTERS})
    environment.filters["svg"] = Markup
    style = Path(__file__).parents[1] / "style.css"
    environment.globals["style"] = Markup(style.read_text(encoding="utf-8"))
    return environment
