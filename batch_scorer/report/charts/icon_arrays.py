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
    INK,
    MODEL_STYLES,
    as_svg,
    house_style,
)
from batch_scorer.report.content.typeface import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from batch_scorer.report.content.domain_shift import Histogram
    from batch_scorer.report.content.reliability import Line
    from batch_scorer.report.content.report import ReportFacts

PEOPLE = 100
LABEL_LENGTH = 40


@dataclass(frozen=True)
class Crowd:
    """A hundred people, some of them marked: what stands above them, and in which colour."""

    title: str
    marked: int
    colour: str


def draw_parts(facts: ReportFacts) -> dict[str, str]:
    """Draw what the parts on people, probabilities, prevalence and drift show, by name."""
    drawn = {}
    for name, people in (("reference", facts.reference_people), ("batch", facts.batch_people)):
        if people:
            drawn[f"{name}-people"] = draw_people(
                Crowd(people.found_title, people.found, BLUE),
                Crowd(people.alarms_title, people.alarms, AMBER),
            )
    for name, worth in (("reference", facts.reliability), ("batch", facts.batch_reliability)):
        if worth and worth.lines:
            drawn[f"{name}-reliability"] = draw_reliability(worth.lines)
    for meaning in facts.clinic.meanings:
        if meaning.rows:
            drawn[f"{meaning.name}-flagged"] = draw_flagged(
                [
                    Crowd(
                        f"Where {row.ill} of 100 have it: {row.ill_of_flagged}",
                        row.ill_of_flagged,
                        BLUE,
                    )
                    for row in meaning.rows
                ]
            )
    if scores := facts.drift.histogram:
        drawn["scores"] = draw_scores(scores)
    return drawn


def draw_people(found: Crowd, alarms: Crowd) -> str:
    """Draw two crowds side by side: filled are those that the model flags.

    Returns:
        An SVG document.
    """
    return _draw_crowds((found, alarms), per_row=20, size=(6.9, 1.45))


def draw_flagged(crowds: Sequence[Crowd]) -> str:
    """Draw a hundred flagged people for each prevalence: filled are those with pneumonia.

    Returns:
        An SVG document.
    """
    return _draw_crowds(crowds, per_row=10, size=(6.9, 2.1))


def draw_reliability(lines: Sequence[Line]) -> str:
    """Draw how often films show pneumonia against how probable the models call it.

    Returns:
        An SVG document.
    """
    with house_style():
        figure = Figure(figsize=(3.15, 2.95), layout="constrained")
        place = figure.subplots()
        place.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=(0, (2, 3)))
        for index, line in enumerate(lines):
            colour, dashes = MODEL_STYLES[index % len(MODEL_STYLES)]
            label = printable(line.label)
            place.plot(
                line.curve.x,
                line.curve.y,
                color=colour,
                linestyle=dashes,
                marker="os^D"[index % 4],
                markersize=3.5,
                label=label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…",
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
        return as_svg(figure)


def draw_scores(scores: Histogram, size: tuple[float, float] = (6.9, 2.1)) -> str:
    """Draw the shares of films by probability: bars for this batch, a line for known films.

    Args:
        scores: The shares.
        size: Width and height in inches.

    Returns:
        An SVG document.
    """
    with house_style():
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
            color=INK,
            linewidth=1.5,
            label=printable(scores.known_label),
        )
        place.set(
            xlim=(0, 1), ylim=(0, None), xlabel="Probability of pneumonia", ylabel="Of 100 films"
        )
        place.set_xticks(scores.edges)
        place.grid(visible=True, axis="y")
        figure.legend(loc="outside upper right", ncols=2)
        return as_svg(figure)


def _draw_crowds(crowds: Sequence[Crowd], per_row: int, size: tuple[float, float]) -> str:
    with house_style():
        figure = Figure(figsize=size, layout="constrained")
        places = figure.subplots(1, len(crowds), squeeze=False)[0]
        for place, crowd in zip(places, crowds, strict=True):
            _draw_crowd(place, crowd, per_row)
        return as_svg(figure)


def _draw_crowd(place: Axes, crowd: Crowd, per_row: int) -> None:
    x, y = np.arange(PEOPLE) % per_row, np.arange(PEOPLE) // per_row
    marked = np.arange(PEOPLE) < crowd.marked
    for chosen, fill, edge in ((marked, crowd.colour, crowd.colour), (~marked, "none", GREY)):
        if chosen.any():
            place.scatter(
                x[chosen],
                y[chosen],
                s=88,
                marker=_person(),
                facecolor=fill,
                edgecolor=edge,
                linewidth=0.7,
                clip_on=False,
            )
    rows = PEOPLE // per_row
    place.set(xlim=(-0.7, per_row - 0.3), ylim=(rows - 0.4, -0.6))
    place.set_title(printable(crowd.title))
    place.axis("off")


@lru_cache(maxsize=1)
def _person() -> Path:
    """A head above rounded shoulders."""
    head = _circle(0.62, 0.24)
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


def _circle(y: float, radius: float) -> Path:
    """A circle above x = 0 of four curves, half as many as matplotlib's: hundreds are drawn."""
    arm = 0.5523 * radius  # of the cubic curve nearest to a quarter of a circle
    quarter = np.array([(radius, 0.0), (radius, arm), (arm, radius)])
    turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    points = np.concatenate([quarter @ turn.T for turn in turns] + [quarter[:1]])
    points[:, 1] += y
    return Path(points, [Path.MOVETO] + [Path.CURVE4] * 12)
