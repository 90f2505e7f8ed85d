"""Figures as SVG text: training curves, ROC curves, confusion matrix.

All share one style. matplotlib is used without pyplot, so no global state changes. Text stays text
in the bundled typeface, which the report embeds once. The same numbers give the same bytes. Models
differ by line style and order as well as colour.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import colors, font_manager, patches
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from batch_scorer.report.content.accuracy import RocCurve
from batch_scorer.report.content.typeface import FONT_FAMILY, find_font_files, replace_unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes

    from batch_scorer.metrics.classification import ConfusionMatrix
    from batch_scorer.model.card import ModelCard

TEXT_COLOUR = "#17293a"
GREY = "#66737f"
GRID_COLOUR = "#d5dbe0"
BLUE = "#1d5b8c"
AMBER = "#c8780a"
MODEL_STYLES: tuple[tuple[str, Any], ...] = (
    (BLUE, "-"),
    (AMBER, (0, (5, 1.6))),
    ("#4a5560", (0, (1.4, 1.4))),
    ("#7fa8c9", "-"),
    ("#e0b062", (0, (5, 1.6))),
    ("#9aa5ae", (0, (1.4, 1.4))),
)
RC_PARAMS: dict[Any, Any] = {
    "svg.hashsalt": "cxr-batch",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": FONT_FAMILY,
    "font.size": 8.5,
    "text.color": TEXT_COLOUR,
    "axes.edgecolor": GREY,
    "axes.labelcolor": TEXT_COLOUR,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8.5,
    "axes.titleweight": "regular",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.color": GRID_COLOUR,
    "grid.linewidth": 0.5,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 1,
    "legend.fontsize": 8,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "butt",
}


def draw_training_curves(cards: Sequence[ModelCard]) -> str:
    """Draw loss and accuracy by epoch, training and validation, one column per model.

    Returns:
        An SVG document.
    """
    single = len(cards) == 1
    with figure_style():
        figure = Figure(figsize=(6.9, 2.4 if single else 3.2), layout="constrained")
        shape = (1, 2) if single else (2, len(cards))
        grid: Any = figure.subplots(*shape, squeeze=False, sharex="col")
        for column, card in enumerate(cards):
            axes = grid[0] if single else grid[:, column]
            for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
                _draw_history(ax, card, name, with_label=column == 0)
            if not single:
                axes[0].set_title(replace_unsupported(_truncate(card.title)), weight="semibold")
        for ax in grid[-1]:
            ax.set_xlabel("Epoch")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
        _share_y_limits(grid)
        return render_svg(figure)


def draw_roc(cards: Sequence[ModelCard]) -> str:
    """Draw each model's ROC curve on its reference set, with its operating point.

    A cross through the point spans the 95 % intervals of sensitivity and specificity.

    Returns:
        An SVG document.
    """
    return draw_roc_curves(
        [
            RocCurve(
                card.title,
                card.reference.roc,
                card.reference.metrics["recall"],
                card.reference.metrics["specificity"],
            )
            for card in cards
        ]
    )


def draw_roc_curves(curves: Sequence[RocCurve]) -> str:
    """Draw ROC curves; a curve without points is left out."""
    with figure_style():
        figure = Figure(figsize=(3.15, 2.95), layout="constrained")
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=(0, (2, 3)))
        for curve, (colour, dashes) in zip(curves, _line_styles(len(curves)), strict=True):
            if not curve.curve.x:
                continue
            ax.plot(
                curve.curve.x,
                curve.curve.y,
                color=colour,
                linestyle=dashes,
                label=replace_unsupported(_truncate(curve.label, 40)),
            )
            _draw_operating_point(ax, curve, colour)
        ax.set(
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
            xlabel="Healthy films flagged (1 − specificity)",
            ylabel="Pneumonia films found (sensitivity)",
        )
        ax.grid(visible=True)
        if ax.get_legend_handles_labels()[0]:
            # A long model name must not shrink the axes.
            ax.legend(loc="lower right", borderaxespad=0.4).set_in_layout(False)
        return render_svg(figure)


def draw_confusion(confusion: ConfusionMatrix) -> str:
    """Draw the four counts as a square, each with its share of the row.

    Returns:
        An SVG document.
    """
    cells = [
        [(confusion.true_positive, "found"), (confusion.false_negative, "missed")],
        [(confusion.false_positive, "false alarm"), (confusion.true_negative, "rightly clear")],
    ]
    with figure_style():
        figure = Figure(figsize=(2.6, 2.4), layout="constrained")
        ax = figure.subplots()
        for y, row in enumerate(cells):
            total = sum(number for number, _ in row)
            for x, (number, meaning) in enumerate(row):
                share = number / total if total else None
                _draw_cell(ax, (x, y), number, meaning, share)
        ax.set(xlim=(0, 2), ylim=(2, 0), aspect="equal")
        ax.set_xticks([0.5, 1.5], ["Flagged", "Not flagged"], color=TEXT_COLOUR)
        ax.set_yticks(
            [0.5, 1.5], ["Pneumonia", "Normal"], color=TEXT_COLOUR, rotation=90, va="center"
        )
        ax.set_ylabel("Reference standard", color=GREY)
        ax.xaxis.tick_top()
        ax.xaxis.set_label_position("top")
        ax.set_xlabel("The model's answer", color=GREY)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        return render_svg(figure)


def _draw_operating_point(ax: Axes, curve: RocCurve, colour: str) -> None:
    """Draw a ring at the threshold with its intervals; nothing where a class is missing."""
    sensitivity, specificity = curve.sensitivity, curve.specificity
    if sensitivity.value is None or specificity.value is None:
        return
    x, y = 1 - specificity.value, sensitivity.value
    if sensitivity.low is not None and sensitivity.high is not None:
        ax.plot([x, x], [sensitivity.low, sensitivity.high], **_interval_style(colour))
    if specificity.low is not None and specificity.high is not None:
        ax.plot([1 - specificity.high, 1 - specificity.low], [y, y], **_interval_style(colour))
    ax.plot(
        x,
        y,
        marker="o",
        markersize=5,
        markerfacecolor="white",
        markeredgecolor=colour,
        markeredgewidth=1.6,
        clip_on=False,
        zorder=5,
    )


def _interval_style(colour: str) -> dict[str, Any]:
    return {"color": colour, "linewidth": 1.0, "clip_on": False, "zorder": 4}


def _draw_history(ax: Axes, card: ModelCard, name: str, *, with_label: bool) -> None:
    training: list[float] = getattr(card.history, name)
    validation: list[float] = getattr(card.history, f"val_{name}")
    epochs = range(1, len(training) + 1)
    marker = "o" if len(training) == 1 else None
    ax.plot(epochs, training, color=BLUE, label="training", marker=marker)
    ax.plot(
        epochs,
        validation,
        color=AMBER,
        linestyle=(0, (4, 1.4)),
        label="validation",
        marker=marker,
    )
    best = card.training.best_epoch
    if 1 <= best <= len(training):
        ax.axvline(best, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), label="epoch kept")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    ax.grid(visible=True, axis="y")
    if with_label:
        ax.set_ylabel(name.capitalize())


def _share_y_limits(grid: Any) -> None:
    """Give all models of a row the same scale."""
    if len(grid) == 1:
        return
    for row in grid:
        limits = [ax.get_ylim() for ax in row]
        for ax in row:
            ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _draw_cell(
    ax: Axes, corner: tuple[int, int], number: int, meaning: str, share: float | None
) -> None:
    x, y = corner
    intensity = share or 0.0
    colour = tuple(1 - intensity * 0.85 * (1 - part) for part in colors.to_rgb(BLUE))
    text_colour = "white" if intensity > 0.55 else TEXT_COLOUR  # noqa: PLR2004 - white reads better on dark blue
    ax.add_patch(
        patches.Rectangle(
            (x + 0.015, y + 0.015), 0.97, 0.97, facecolor=colour, edgecolor=GRID_COLOUR
        )
    )
    ax.text(
        x + 0.5, y + 0.46, f"{number:,}", color=text_colour, size=17, weight="semibold", ha="center"
    )
    ax.text(x + 0.5, y + 0.66, meaning, color=text_colour, size=8.5, ha="center")
    part = "no such film" if share is None else f"{share:.0%} of the row"
    ax.text(x + 0.5, y + 0.83, part, color=text_colour, size=7.5, ha="center")


def _line_styles(number: int) -> list[tuple[str, Any]]:
    return [MODEL_STYLES[index % len(MODEL_STYLES)] for index in range(number)]


def _truncate(text: str, length: int = 26) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the shared style and typeface, and restore matplotlib's settings afterwards."""
    _register_fonts()
    with mpl.rc_context(RC_PARAMS):
        yield


@lru_cache(maxsize=1)
def _register_fonts() -> None:
    """Register both weights of the typeface with matplotlib under one family name."""
    for path, weight in zip(find_font_files(), ("regular", "semibold"), strict=True):
        font_manager.fontManager.ttflist.append(
            font_manager.FontEntry(
                fname=str(path), name=FONT_FAMILY, weight=weight, size="scalable"
            )
        )


def render_svg(figure: Figure) -> str:
    """Render a figure as an SVG document; the same figure gives the same bytes."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
