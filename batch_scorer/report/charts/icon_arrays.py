"""Figures as SVG text: icon arrays, reliability curves, histograms of probabilities.

All figures share the style of ``charts.performance``. Parts differ by shape and fill, so that a
figure can be read in greyscale print.
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
    """One array of 100 icons: its title, the number of filled icons, and their colour."""

    title: str
    n_filled: int
    colour: str


def draw_report_charts(facts: ReportFacts) -> dict[str, str]:
    """Draw the icon arrays, reliability curves and histogram of a report, by name."""
    drawn = {}
    for name, icon_arrays in (
        ("reference", facts.reference_icon_arrays),
        ("batch", facts.batch_icon_arrays),
    ):
        if icon_arrays:
            drawn[f"{name}-people"] = draw_performance_icons(
                IconArray(icon_arrays.detected_title, icon_arrays.detected, BLUE),
                IconArray(icon_arrays.false_alarms_title, icon_arrays.false_alarms, AMBER),
            )
    for name, reliability in (("reference", facts.reliability), ("batch", facts.batch_reliability)):
        if reliability and reliability.curves:
            drawn[f"{name}-reliability"] = draw_reliability(reliability.curves)
    for table in facts.predictive_values.tables:
        if table.rows:
            drawn[f"{table.name}-flagged"] = draw_ppv_icons(
                [
                    IconArray(
                        f"Where {row.ill_per_100} of 100 have it: {row.ill_per_100_flagged}",
                        row.ill_per_100_flagged,
                        BLUE,
                    )
                    for row in table.rows
                ]
            )
    if scores := facts.drift.histogram:
        drawn["scores"] = draw_score_histogram(scores)
    return drawn


def draw_performance_icons(detected: IconArray, false_alarms: IconArray) -> str:
    """Draw two icon arrays side by side; filled icons were flagged by the model.

    Returns:
        An SVG document.
    """
    return _draw_icon_arrays((detected, false_alarms), per_row=20, size=(6.9, 1.45))


def draw_ppv_icons(arrays: Sequence[IconArray]) -> str:
    """Draw 100 flagged patients for each prevalence; filled icons have pneumonia.

    Returns:
        An SVG document.
    """
    return _draw_icon_arrays(arrays, per_row=10, size=(6.9, 2.1))


def draw_reliability(curves: Sequence[ReliabilityCurve]) -> str:
    """Draw the share of images with pneumonia against the models' probability.

    Returns:
        An SVG document.
    """
    with figure_style():
        figure = Figure(figsize=(3.15, 2.95), layout="constrained")
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=(0, (2, 3)))
        for index, curve in enumerate(curves):
            colour, dashes = MODEL_STYLES[index % len(MODEL_STYLES)]
            label = replace_unsupported(curve.label)
            ax.plot(
                curve.curve.x,
                curve.curve.y,
                color=colour,
                linestyle=dashes,
                marker="os^D"[index % 4],
                markersize=3.5,
                label=label
                if len(label) <= MAX_LABEL_CHARS
                else label[: MAX_LABEL_CHARS - 1] + "…",
                clip_on=False,
            )
        ax.set(
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
            xlabel="Probability that the model gave",
            ylabel="Share of films with pneumonia",
        )
        ax.grid(visible=True)
        ax.legend(loc="upper left", borderaxespad=0.4).set_in_layout(False)
        return render_svg(figure)


def draw_score_histogram(
    scores: ProbabilityHistogram, size: tuple[float, float] = (6.9, 2.1)
) -> str:
    """Draw the shares of images by probability: bars for this batch, a line for the reference.

    Args:
        scores: The shares.
        size: Width and height in inches.

    Returns:
        An SVG document.
    """
    with figure_style():
        figure = Figure(figsize=size, layout="constrained")
        ax = figure.subplots()
        left, width = np.asarray(scores.edges[:-1]), np.diff(scores.edges)
        ax.bar(
            left + 0.05 * width,
            100 * np.asarray(scores.batch),
            width=0.9 * width,
            align="edge",
            color="#a9c4db",
            label="this batch",
        )
        ax.stairs(
            100 * np.asarray(scores.reference),
            scores.edges,
            baseline=None,
            color=TEXT_COLOUR,
            linewidth=1.5,
            label=replace_unsupported(scores.reference_label),
        )
        ax.set(
            xlim=(0, 1), ylim=(0, None), xlabel="Probability of pneumonia", ylabel="Of 100 films"
        )
        ax.set_xticks(scores.edges)
        ax.grid(visible=True, axis="y")
        figure.legend(loc="outside upper right", ncols=2)
        return render_svg(figure)


def _draw_icon_arrays(arrays: Sequence[IconArray], per_row: int, size: tuple[float, float]) -> str:
    with figure_style():
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(arrays), squeeze=False)[0]
        for ax, array in zip(axes, arrays, strict=True):
            _draw_icon_array(ax, array, per_row)
        return render_svg(figure)


def _draw_icon_array(ax: Axes, array: IconArray, per_row: int) -> None:
    x, y = np.arange(N_ICONS) % per_row, np.arange(N_ICONS) // per_row
    marked = np.arange(N_ICONS) < array.n_filled
    for chosen, fill, edge in ((marked, array.colour, array.colour), (~marked, "none", GREY)):
        if chosen.any():
            ax.scatter(
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
    ax.set(xlim=(-0.7, per_row - 0.3), ylim=(rows - 0.4, -0.6))
    ax.set_title(replace_unsupported(array.title))
    ax.axis("off")


@lru_cache(maxsize=1)
def _make_person_icon() -> Path:
    """Make the outline of a head above rounded shoulders."""
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
    """Make a circle of four curves, half as many as matplotlib's, because hundreds are drawn."""
    arm = 0.5523 * radius  # cubic approximation of a quarter circle
    quarter = np.array([(radius, 0.0), (radius, arm), (arm, radius)])
    turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    points = np.concatenate([quarter @ turn.T for turn in turns] + [quarter[:1]])
    points[:, 1] += y
    return Path(points, [Path.MOVETO] + [Path.CURVE4] * 12)
