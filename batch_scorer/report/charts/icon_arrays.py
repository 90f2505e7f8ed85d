"""More figures as SVG text: people counted out of a hundred, reliability, probabilities compared.

In the one style of ``figures``. A figure tells its parts apart by shape and fill, so that it can be
read in greyscale print.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.path import Path

from batch_scorer.report.charts.performance import (
    AMBER,
    BLUE,
    GREY,
    MODEL_STYLES,
    TEXT_COLOUR,
    figure_style,
    render_svg,
)
from batch_scorer.report.content.typeface import replace_unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from batch_scorer.report.content.domain_shift import ProbabilityHistogram
    from batch_scorer.report.content.reliability import ReliabilityCurve
    from batch_scorer.report.content.report import ReportFacts

N_ICONS = 100
MAX_LABEL_CHARS = 40


@dataclass(frozen=True)
class IconArray:
    """A hundred people, some of them marked: what stands above them, and in which colour."""

    title: str
    n_filled: int
    colour: str


def draw_report_charts(facts: ReportFacts) -> dict[str, str]:
    """Draw what the parts on people, probabilities, prevalence and drift show, by name."""
    drawn = {}
    for name, people in (
        ("reference", facts.reference_icon_arrays),
        ("batch", facts.batch_icon_arrays),
    ):
        if people:
            drawn[f"{name}-people"] = draw_performance_icons(
                IconArray(people.detected_title, people.found, BLUE),
                IconArray(people.false_alarms_title, people.false_alarms, AMBER),
            )
    for name, worth in (("reference", facts.reliability), ("batch", facts.batch_reliability)):
        if worth and worth.lines:
            drawn[f"{name}-reliability"] = draw_reliability(worth.lines)
    for meaning in facts.predictive_values.tables:
        if meaning.rows:
            drawn[f"{meaning.name}-flagged"] = draw_ppv_icons(
                [
                    IconArray(
                        f"Where {row.ill_per_100} of 100 have it: {row.ill_per_100_flagged}",
                        row.ill_per_100_flagged,
                        BLUE,
                    )
                    for row in meaning.rows
                ]
            )
    if scores := facts.drift.histogram:
        drawn["scores"] = draw_score_histogram(scores)
    return drawn


def draw_performance_icons(found: IconArray, alarms: IconArray) -> str:
    """Draw two crowds side by side: filled are those that the model flags.

    Returns:
        An SVG document.
    """
    return _draw_icon_arrays((found, alarms), per_row=20, size=(6.9, 1.45))


def draw_ppv_icons(crowds: Sequence[IconArray]) -> str:
    """Draw a hundred flagged people for each prevalence: filled are those with pneumonia.

    Returns:
        An SVG document.
    """
    return _draw_icon_arrays(crowds, per_row=10, size=(6.9, 2.1))


def draw_reliability(lines: Sequence[ReliabilityCurve]) -> str:
    """Draw how often films show pneumonia against how probable the models call it.

    Returns:
        An SVG document.
    """
    with figure_style():
        figure = Figure(figsize=(3.15, 2.95), layout="constrained")
        place = figure.subplots()
        place.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=(0, (2, 3)))
        for index, line in enumerate(lines):
            colour, dashes = MODEL_STYLES[index % len(MODEL_STYLES)]
            label = replace_unsupported(line.label)
            place.plot(
                line.curve.x,
                line.curve.y,
                color=colour,
                linestyle=dashes,
                marker="os^D"[index % 4],
                markersize=3.5,
                label=label
                if len(label) <= MAX_LABEL_CHARS
                else label[: MAX_LABEL_CHARS - 1] + "…",
                clip_on=False,
            )
        place.set(
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
            xlabel="Probability that the model gave",
            ylabel="Share of films with pneumonia",
        )
        place.grid(visible=True)
        place.legend(loc="upper left", borderaxespad=0.4).set_in_layout(False)
        return render_svg(figure)


def draw_score_histogram(
    scores: ProbabilityHistogram, size: tuple[float, float] = (6.9, 2.1)
) -> str:
    """Draw the shares of films by probability: bars for this batch, a line for known films.

    Args:
        scores: The shares.
        size: Width and height in inches.

    Returns:
        An SVG document.
    """
    with figure_style():
        figure = Figure(figsize=size, layout="constrained")
        place = figure.subplots()
        left, width = np.asarray(scores.edges[:-1]), np.diff(scores.edges)
        place.bar(
            left + 0.05 * width,
            100 * np.asarray(scores.batch),
            width=0.9 * width,
            align="edge",
            color="#a9c4db",
            label="this batch",
        )
        place.stairs(
            100 * np.asarray(scores.known),
            scores.edges,
            baseline=None,
            color=TEXT_COLOUR,
            linewidth=1.5,
            label=replace_unsupported(scores.reference_label),
        )
        place.set(
            xlim=(0, 1), ylim=(0, None), xlabel="Probability of pneumonia", ylabel="Of 100 films"
        )
        place.set_xticks(scores.edges)
        place.grid(visible=True, axis="y")
        figure.legend(loc="outside upper right", ncols=2)
        return render_svg(figure)


def _draw_icon_arrays(crowds: Sequence[IconArray], per_row: int, size: tuple[float, float]) -> str:
    with figure_style():
        figure = Figure(figsize=size, layout="constrained")
        places = figure.subplots(1, len(crowds), squeeze=False)[0]
        for place, crowd in zip(places, crowds, strict=True):
            _draw_icon_array(place, crowd, per_row)
        return render_svg(figure)


def _draw_icon_array(place: Axes, crowd: IconArray, per_row: int) -> None:
    x, y = np.arange(N_ICONS) % per_row, np.arange(N_ICONS) // per_row
    marked = np.arange(N_ICONS) < crowd.n_filled
    for chosen, fill, edge in ((marked, crowd.colour, crowd.colour), (~marked, "none", GREY)):
        if chosen.any():
            place.scatter(
                x[chosen],
                y[chosen],
                s=88,
                marker=_make_person_icon(),
                facecolor=fill,
                edgecolor=edge,
                linewidth=0.7,
                clip_on=False,
            )
    rows = N_ICONS // per_row
    place.set(xlim=(-0.7, per_row - 0.3), ylim=(rows - 0.4, -0.6))
    place.set_title(replace_unsupported(crowd.title))
    place.axis("off")


@lru_cache(maxsize=1)
def _make_person_icon() -> Path:
    """A head above rounded shoulders."""
    head = _make_circle(0.62, 0.24)
    left, top, right, bottom = -0.4, 0.28, 0.4, -0.8
    body = Path(
        [
            *((left, bottom), (left, -0.1), (left, top), (0, top)),
            *((right, top), (right, -0.1), (right, bottom), (left, bottom)),
        ],
        [
            *(Path.MOVETO, Path.LINETO, Path.CURVE3, Path.CURVE3),
            *(Path.CURVE3, Path.CURVE3, Path.LINETO, Path.CLOSEPOLY),
        ],
    )
    return Path.make_compound_path(head, body)


def _make_circle(y: float, radius: float) -> Path:
    """A circle above x = 0 of four curves, half as many as matplotlib's: hundreds are drawn."""
    arm = 0.5523 * radius  # of the cubic curve nearest to a quarter of a circle
    quarter = np.array([(radius, 0.0), (radius, arm), (arm, radius)])
    turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    points = np.concatenate([quarter @ turn.T for turn in turns] + [quarter[:1]])
    points[:, 1] += y
    return Path(points, [Path.MOVETO] + [Path.CURVE4] * 12)
