"""The audit's charts as SVG text, in the style of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from batch_scorer.model.card import CLASSES
from batch_scorer.report.charts.performance import (
    AMBER,
    BLUE,
    GREY,
    GRID_COLOUR,
    TEXT_COLOUR,
    figure_style,
    render_svg,
)
from batch_scorer.report.content.typeface import replace_unsupported
from trainer.audit.confounders import ALL_PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from batch_scorer.metrics.classification import Estimate
    from trainer.audit.audit import Audit, Distribution, ImageCount, SharedPatients

WIDTH_IN = 6.9
LIGHT_BLUE = "#b5cde0"
LIGHT_GREY = "#e6eaed"
CAUSE_STYLES = (
    ("normal", LIGHT_BLUE, TEXT_COLOUR),
    ("bacterial", BLUE, "white"),
    ("viral", AMBER, TEXT_COLOUR),
    ("unknown", "#8d99a3", TEXT_COLOUR),
    ("", LIGHT_GREY, TEXT_COLOUR),
)
CAUSE_NAMES = {
    "normal": "normal",
    "bacterial": "pneumonia, bacterial",
    "viral": "pneumonia, viral",
    "unknown": "pneumonia, cause unknown",
    "": "label hidden",
}
CLASS_COLOURS = dict(zip(CLASSES, (BLUE, AMBER), strict=True))
MAX_BARS = 10
MIN_LABELLED_SHARE = 0.05
PROPERTY_UNITS = {
    "brightness": (1.0, "Brightness (mean grey)"),
    "contrast": (1.0, "Contrast (standard deviation of grey)"),
    "border": (1.0, "Border (mean grey of the outer sixteenth)"),
    "width": (1.0, "Width (pixels)"),
    "height": (1.0, "Height (pixels)"),
    "file size": (1 / 1000, "File size (kB)"),
}


def draw_counts(counts: Sequence[ImageCount]) -> str:
    """Draw the share of each class and cause, one bar per part.

    Returns:
        An SVG document.
    """
    parts = dict.fromkeys(count.part for count in counts)
    totals = {part: sum(c.images for c in counts if c.part == part) for part in parts}
    with figure_style():
        figure = Figure(figsize=(WIDTH_IN, 0.75 + 0.42 * len(totals)), layout="constrained")
        ax = figure.subplots()
        left = dict.fromkeys(totals, 0.0)
        for cause, colour, text_colour in CAUSE_STYLES:
            label = CAUSE_NAMES[cause]
            for count in (c for c in counts if c.cause == cause):
                share = count.images / totals[count.part]
                start, row = left[count.part], list(totals).index(count.part)
                ax.barh(row, share, 0.66, start, color=colour, edgecolor="white", label=label)
                if share > MIN_LABELLED_SHARE:
                    middle = start + share / 2
                    text = f"{count.images:,}"
                    ax.text(middle, row, text, color=text_colour, ha="center", va="center")
                left[count.part] += share
                label = ""
        names = [f"{part}\n{total:,} images" for part, total in totals.items()]
        ax.set_yticks(range(len(names)), names, color=TEXT_COLOUR)
        ax.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
        _add_legend(figure, ax)
        return render_svg(figure)


def draw_images_per_patient(audit: Audit) -> str:
    """Draw the number of patients by their number of images, for each class.

    Returns:
        An SVG document.
    """
    tables = audit.patients.images_per_patient
    most = max(max(table) for table in tables.values())
    last = min(most, MAX_BARS)
    with figure_style():
        figure = Figure(figsize=(WIDTH_IN, 2.3), layout="constrained")
        ax = figure.subplots()
        width = 0.8 / len(tables)
        for index, (label, table) in enumerate(tables.items()):
            shown = [table.get(images, 0) for images in range(1, last)]
            shown.append(sum(number for images, number in table.items() if images >= last))
            bars = ax.bar(
                [images + (index - (len(tables) - 1) / 2) * width for images in range(1, last + 1)],
                shown,
                width,
                color=CLASS_COLOURS.get(label, GREY),
                label=label or CAUSE_NAMES[""],
            )
            texts = [f"{number:,}" if number else "" for number in shown]
            ax.bar_label(bars, texts, padding=1, fontsize=7, color=TEXT_COLOUR)
        names = [str(images) for images in range(1, last + 1)]
        if most > last:
            names[-1] += " or more"
        ax.set_xticks(range(1, last + 1), names)
        ax.set(xlabel="Images of one patient number in one part", ylabel="Patients")
        ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        ax.grid(visible=True, axis="y")
        _add_legend(figure, ax)
        return render_svg(figure)


def draw_shared_patients(shared: Sequence[SharedPatients], audit: Audit) -> str:
    """Draw the share of each part's images whose patient number also appears in another part.

    Returns:
        An SVG document.
    """
    rows = [
        (f"{part}\n(shared with {other})", images, _count_images(audit, part))
        for pair in shared
        for part, other, images in zip(pair.parts, pair.parts[::-1], pair.images, strict=True)
    ]
    with figure_style():
        figure = Figure(figsize=(WIDTH_IN, 0.45 + 0.42 * len(rows)), layout="constrained")
        ax = figure.subplots()
        for row, (_, images, total) in enumerate(rows):
            share = images / total
            ax.barh(row, 1, 0.66, color=LIGHT_GREY)
            ax.barh(row, share, 0.66, color=AMBER)
            inside = share > 1 / 2
            ax.text(
                share - 0.01 if inside else share + 0.01,
                row,
                f"{images:,} of {total:,} images",
                color=TEXT_COLOUR,
                ha="right" if inside else "left",
                va="center",
            )
        ax.set_yticks(range(len(rows)), [name for name, _, _ in rows], color=TEXT_COLOUR)
        ax.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
        return render_svg(figure)


def draw_appearance(audit: Audit) -> str:
    """Draw the spread of each property that varies, by part and class.

    Returns:
        An SVG document.
    """
    names = list_varying(audit)
    rows = len({(s.part, s.label) for s in audit.appearance})
    with figure_style():
        lines = -(-len(names) // 2)
        figure = Figure(figsize=(WIDTH_IN, lines * (0.65 + 0.2 * rows)), layout="constrained")
        grid: Any = figure.subplots(lines, 2, squeeze=False, sharey=True)
        axes = list(grid.flat)
        for ax, name in zip(axes, names, strict=False):
            _draw_distributions(ax, [s for s in audit.appearance if s.name == name])
            ax.set_title(PROPERTY_UNITS[name][1])
        for ax in axes[len(names) :]:
            ax.set_visible(False)
        return render_svg(figure)


def list_varying(audit: Audit) -> list[str]:
    """List the properties that differ between images."""
    ranges: dict[str, set[float]] = {}
    for spread in audit.appearance:
        ranges.setdefault(spread.name, set()).update([*spread.quantiles, spread.mean])
    return [name for name, values in ranges.items() if len(values) > 1]


def draw_shortcut(audit: Audit) -> str:
    """Draw the AUC of the image-blind model, for each property and for all together.

    Returns:
        An SVG document.
    """
    found = audit.shortcut
    names = [*(name for name in found.cross_validation if name != ALL_PROPERTIES), ALL_PROPERTIES]
    apart = 0.14 if found.test else 0.0
    series = [("cross-validated by patient", found.cross_validation, BLUE, "o", -apart)]
    if found.test:
        series.append(("on the test part", found.test, AMBER, "D", apart))
    with figure_style():
        figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.36 * len(names)), layout="constrained")
        ax = figure.subplots()
        ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (2, 3)))
        ax.text(0.5, -0.72, "chance", color=GREY, ha="center", fontsize=7.5)
        for label, estimates, colour, marker, shift in series:
            _draw_estimates(ax, [estimates[name] for name in names], colour, marker, shift, label)
        shown = [
            f"all {len(names) - 1} {name}" if name == ALL_PROPERTIES else name for name in names
        ]
        ax.set_yticks(range(len(names)), [text.capitalize() for text in shown], color=TEXT_COLOUR)
        ax.set(ylim=(len(names) - 0.4, -0.6), xlabel="AUC")
        ax.set_xlim(min(0.4, ax.get_xlim()[0]), 1.0)
        ax.grid(visible=True, axis="x")
        _add_legend(figure, ax)
        return render_svg(figure)


def _draw_estimates(
    ax: Axes,
    estimates: Sequence[Estimate],
    colour: str,
    marker: str,
    shift: float,
    label: str,
) -> None:
    for row, estimate in enumerate(estimates):
        if estimate.value is None or estimate.low is None or estimate.high is None:
            continue
        ax.plot([estimate.low, estimate.high], [row + shift] * 2, color=colour, linewidth=1.5)
        ax.plot(
            estimate.value,
            row + shift,
            marker=marker,
            color=colour,
            linestyle="",
            label=label,
            clip_on=False,
        )
        label = ""


def _draw_distributions(ax: Axes, spreads: Sequence[Distribution]) -> None:
    """Draw a line per part and class: 5 to 95 % thin, the middle half thick, the median white."""
    scale = PROPERTY_UNITS[spreads[0].name][0]
    for row, spread in enumerate(spreads):
        low, first, median, third, high = (value * scale for value in spread.quantiles)
        colour = CLASS_COLOURS[spread.label]
        ax.plot([low, high], [row, row], color=colour, linewidth=1.2)
        ax.plot([first, third], [row, row], color=colour, linewidth=7)
        ax.plot(median, row, marker="o", color=colour, markerfacecolor="white", markersize=5)
    names = [
        replace_unsupported(f"{s.part} {s.label}" if s.part != "all" else s.label) for s in spreads
    ]
    ax.set_yticks(range(len(spreads)), names, color=TEXT_COLOUR)
    ax.set_ylim(len(spreads) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    ax.grid(visible=True, axis="x", color=GRID_COLOUR)


def _count_images(audit: Audit, part: str) -> int:
    return sum(c.images for c in audit.counts if c.part == part)


def _add_legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3)
