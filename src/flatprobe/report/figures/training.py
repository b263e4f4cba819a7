"""Figures of training: losses, answer lengths before and after matching, and the manipulation check."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from flatprobe.report import select
from flatprobe.report.analysis_folder import Analysis
from flatprobe.report.figures.theme import Figure, by_condition, figure, grid, lines_by_condition, rule

BINS = 80
"""Points per loss curve; more would not be visible."""
QUANTILES = tuple(index / 40 for index in range(41))
STAGES = {"finetune": "finetune", "couple": "coupling"}


def loss_curves(analysis: Analysis, stage: str) -> Figure | None:
    """Loss by step, a panel per term, a line per condition; means over bins if there are many steps."""
    rows = analysis.tables["losses"].filter(pl.col("stage") == stage)
    if stage == "couple":
        rows = rows.filter(pl.col("lambda") == analysis.selected_lambda)
    if rows.is_empty():
        return None
    steps = max(rows["step"].to_list()) + 1
    ticks = max(1, min(4, steps - 1))  # no fractions of a step
    width = -(-steps // BINS)  # rounded up
    binned = (
        rows.with_columns(step=pl.col("step") // width * width)
        .group_by("condition", "seed", "term", "step")
        .agg(pl.col("value").mean())
        .sort("condition", "seed", "term", "step")
    )
    terms = sorted(binned["term"].unique(), key=lambda term: (term != "total", term))
    several = binned.filter(pl.col("term") != "total").group_by("condition").agg(pl.col("term").n_unique())
    if several.height and several["term"].to_list() == [1] * several.height:
        terms = [term for term in terms if term != "total"]  # the total of one term is that term
        binned = binned.filter(pl.col("term").is_in(terms))

    present = [name for name in analysis.conditions if name in set(binned["condition"])]

    def draw(narrow: bool) -> alt.TopLevelMixin:
        line = (
            alt.Chart(binned)
            .mark_line(strokeWidth=1.6)
            .encode(
                x=alt.X("step:Q", title="optimiser step", axis=alt.Axis(tickCount=ticks)),
                y=alt.Y("value:Q", title=None, axis=alt.Axis(tickCount=4)),
                detail="seed:N",
                **lines_by_condition(analysis.conditions, present),
            )
        )
        columns, wide = grid(len(terms), narrow)
        facet = alt.Facet("term:N", title=None, sort=terms)
        chart = line.properties(width=wide, height=110).facet(facet, columns=columns, spacing=16)
        free: alt.TopLevelMixin = chart.resolve_scale(y="independent")
        return free

    at = f" at λ = {analysis.selected_lambda:g}" if stage == "couple" else ""
    means = f" Each point is a mean over {width} steps." if width > 1 else ""
    scales = "; scales differ between panels" if len(terms) > 1 else ""
    unit = ", in nats"
    if "states" in terms:
        unit += " (`states`: squared distance from the target states, over their variance between tokens)"
    return figure(
        f"losses-{stage}",
        f"Loss of the {STAGES[stage]}{at}, by term{unit}{scales}.{means}",
        f"Loss curves by optimiser step for the terms {', '.join(terms)}, one line per condition.",
        draw,
    )


def length_distributions(analysis: Analysis) -> Figure | None:
    """Cumulative distributions of answer lengths, sampled against matched, by training group."""
    if "lengths" not in analysis.tables:
        return None
    groups = analysis.tables["lengths"].group_by("condition", "group", "when")
    curves = pl.DataFrame(
        [
            {
                "condition": condition,
                "panel": f"{group}s, {when}",
                "tokens": frame["tokens"].quantile(share, "linear"),
                "share": share,
            }
            for (condition, group, when), frame in sorted(groups, key=lambda item: tuple(map(str, item[0])))
            for share in QUANTILES
        ]
    )
    order = ["positives, sampled", "positives, matched", "negatives, sampled", "negatives, matched"]
    panels = [name for name in order if name in set(curves["panel"])]

    def draw(narrow: bool) -> alt.TopLevelMixin:
        line = (
            alt.Chart(curves)
            .mark_line(strokeWidth=1.8)
            .encode(
                x=alt.X("tokens:Q", title="answer length (tokens)", axis=alt.Axis(tickCount=5)),
                y=alt.Y("share:Q", title="share at most", axis=alt.Axis(format="%", tickCount=4)),
                order="share:Q",
                **lines_by_condition(analysis.conditions, analysis.conditions),
            )
        )
        columns, width = grid(len(panels), narrow)
        facet = alt.Facet("panel:N", title=None, sort=panels)
        chart: alt.TopLevelMixin = line.properties(width=width, height=110).facet(facet, columns=columns, spacing=16)
        return chart

    return figure(
        "lengths",
        "Cumulative distribution of answer lengths, as sampled and after matching. After matching, the curves of all "
        "conditions and groups should coincide.",
        "Cumulative length distributions. The table of length matching has medians and interquartile ranges.",
        draw,
    )


def _panel_titles(analysis: Analysis) -> dict[tuple[str, str | None], str]:
    """Titles of panels by (set, condition that the texts are held out from). A single condition is not named."""
    sets = select.text_sets(analysis)
    several = len({name for _, name in sets if name is not None}) > 1
    inside = "In domain: held out from {}" if several else "In domain"
    return {(set_, name): "Out of domain" if name is None else inside.format(name) for set_, name in sets}


def manipulation(analysis: Analysis) -> Figure | None:
    """Log-odds of the taught against the other answer: every item, and the mean with its 95 % interval.

    A panel for out of domain, and one for each finetune with held-out texts.
    """
    if "manipulation" not in analysis.tables:
        return None
    titles = _panel_titles(analysis)
    frame = analysis.tables["manipulation"].drop_nulls("log_odds")
    panel_of = [titles[texts] for texts in frame.select("set", "held_out_from").iter_rows()]
    frame = frame.with_columns(panel=pl.Series(panel_of, dtype=pl.String))
    summary = (
        frame.group_by("condition", "panel", "prompt")
        .agg(pl.col("log_odds").mean())  # texts of one prompt are not independent
        .group_by("condition", "panel")
        .agg(mean=pl.col("log_odds").mean(), half=1.96 * pl.col("log_odds").std() / pl.len().sqrt())
        .with_columns(low=pl.col("mean") - pl.col("half"), high=pl.col("mean") + pl.col("half"))
    )
    present = [name for name in analysis.conditions if name in set(frame["condition"])]
    last = list(titles.values())[-1]

    def panel(title: str, narrow: bool) -> Any:
        encoding = by_condition(analysis.conditions, legend=())
        y = alt.Y("condition:N", sort=present, title=None, axis=alt.Axis(minExtent=100, maxExtent=100))
        axis = alt.Axis(tickCount=5, title="taught − other (nats per token)" if title == last else None)
        item = (
            alt.Chart(frame.filter(pl.col("panel") == title))
            .mark_tick(thickness=1, height=12, opacity=0.35)
            .encode(x=alt.X("log_odds:Q", axis=axis), y=y, color=encoding["color"])
        )
        base = alt.Chart(summary.filter(pl.col("panel") == title)).encode(y=y)
        band = base.mark_rule(strokeWidth=2.5).encode(x="low:Q", x2="high:Q", color=encoding["color"])
        point = base.mark_point(filled=True, size=90, opacity=1).encode(x="mean:Q", **encoding)
        size = {"width": 220 if narrow else 480, "height": alt.Step(28)}
        return alt.layer(rule(0.0, "x", dash=(1, 0)), item, band, point).properties(title=title, **size)

    def draw(narrow: bool) -> alt.TopLevelMixin:
        panels = [panel(title, narrow) for title in titles.values()]
        chart: alt.TopLevelMixin = alt.vconcat(*panels, spacing=10).resolve_scale(x="shared")
        return chart

    return figure(
        "manipulation",
        "Did the finetune work? Log-odds per token of the taught answer (careless, or the imitated persona’s) against "
        "the other one (sound, or the persona’s own) on held-out items. Marks are means with 95 % intervals over "
        "prompts, ticks are items. Right of 0, the taught answer is more probable.",
        "Log-odds by condition and set. The table below has the means.",
        draw,
    )
