"""The layers of a network as a list and as a figure, read from the network itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from keras import layers
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from batch_scorer.report.charts.performance import BLUE, GREY, TEXT_COLOUR, figure_style, render_svg
from batch_scorer.report.content.text import format_count
from trainer.model.networks import BUILDERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUTPUT_TITLES = {"pneumonia": "Output: pneumonia?", "viral": "Output: if so, viral?"}
LAYER_TITLES = {
    layers.InputLayer: "X-ray, in grey levels",
    layers.Concatenate: "Three views of it",
    layers.Conv2D: "Convolution",
    layers.MaxPooling2D: "Halve: largest of four",
    layers.Flatten: "Lay out as one list",
    layers.GlobalAveragePooling2D: "Mean over all positions",
}
MAX_CHANNELS = 512
MAX_SIDE_PX = 224
ROW_HEIGHT_IN = 0.27
MAX_BAR_WIDTH = 0.3
"""Width of the widest bar as a share of the figure, centred."""


@dataclass(frozen=True)
class Stage:
    """One step of a network, or several consecutive steps of the same kind and size.

    ``side_px`` is the side of the square output, 1 for a flat vector; ``channels`` the number of
    values at each position; ``weights`` the number of learned weights.
    """

    name: str
    side_px: int
    channels: int
    weights: int
    times: int = 1

    def is_same_kind(self, other: Stage) -> bool:
        """Return True if both stages have the same name and output size."""
        kind = (self.name, self.side_px, self.channels)
        return kind == (other.name, other.side_px, other.channels)

    @property
    def title(self) -> str:
        """The name of the step and its count."""
        return self.name if self.times == 1 else f"{self.times} × {self.name}"

    @property
    def size(self) -> str:
        """The output size: "40 × 40 × 128", or "128 numbers"."""
        if self.side_px == 1:
            return format_count(self.channels, "number")
        return f"{self.side_px} × {self.side_px} × {self.channels}"


def list_stages(name: str) -> list[Stage]:
    """List the steps of one of the networks of ``BUILDERS``, in order of computation.

    Layers that change neither size nor number of weights are left out, and so is dropout, which
    acts in training only. Weights of a batch normalisation count with its convolution.
    """
    stages: list[Stage] = []
    for layer in BUILDERS[name](0, augment=0.0).layers:
        last = stages[-1] if stages else None
        stage = _read_stage(layer)
        if last and isinstance(layer, layers.BatchNormalization):
            stages[-1] = replace(last, weights=last.weights + stage.weights)
        elif last and stage.is_same_kind(last):
            weights = last.weights + stage.weights
            stages[-1] = replace(last, weights=weights, times=last.times + 1)
        elif stage.name:
            stages.append(stage)
    return stages


def draw_architecture(name: str) -> str:
    """Draw a network from top to bottom: bar width shows the image size, darkness the channels.

    Returns:
        An SVG document.
    """
    stages = list_stages(name)
    with figure_style():
        figure = Figure(figsize=(6.9, 0.5 + ROW_HEIGHT_IN * len(stages)), layout="constrained")
        ax = figure.subplots()
        for row, stage in enumerate(stages):
            _draw_stage(ax, row, stage)
        for x, align, text in (
            (0.0, "left", "Step"),
            (0.8, "right", "Output size"),
            (1.0, "right", "Weights"),
        ):
            ax.text(x, -1, text, color=GREY, ha=align, va="center")
        ax.set(xlim=(0, 1), ylim=(len(stages) - 0.4, -1.5))
        ax.axis("off")
        return render_svg(figure)


def _read_stage(layer: Any) -> Stage:
    shape = layer.output.shape
    side = shape[1] if len(shape) > 2 else 1  # noqa: PLR2004 - a batch of vectors has two axes
    weights = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
    return Stage(_format_layer_title(layer), side, shape[-1], weights)


def _format_layer_title(layer: Any) -> str:
    """Format the title of a layer; empty for a layer without a row of its own."""
    if layer.name in OUTPUT_TITLES:
        return OUTPUT_TITLES[layer.name]
    if isinstance(layer, layers.Dense):
        return "Dense layer" if layer.trainable else ""  # the fixed ones belong to the downsampling
    if isinstance(layer, layers.Reshape):
        return "Shrink" if len(layer.output.shape) == 4 else ""  # noqa: PLR2004 - a batch of images
    if isinstance(layer, layers.Conv2D) and layer.strides != (1, 1):
        return "Convolution, every second position"
    return next((text for kind, text in LAYER_TITLES.items() if isinstance(layer, kind)), "")


def _draw_stage(ax: Axes, row: int, stage: Stage) -> None:
    width = MAX_BAR_WIDTH * max(stage.side_px / MAX_SIDE_PX, 0.012)
    intensity = math.log2(stage.channels + 1) / math.log2(MAX_CHANNELS + 1)
    ax.add_patch(
        FancyBboxPatch(
            (0.5 - width / 2, row - 0.36),
            width,
            0.72,
            boxstyle="square,pad=0",
            facecolor=BLUE,
            alpha=0.15 + 0.85 * min(1.0, intensity),
            edgecolor="none",
        )
    )
    ax.text(0.0, row, stage.title, color=TEXT_COLOUR, ha="left", va="center")
    ax.text(0.8, row, stage.size, color=TEXT_COLOUR, ha="right", va="center")
    weights = f"{stage.weights:,}" if stage.weights else "–"
    ax.text(1.0, row, weights, color=TEXT_COLOUR, ha="right", va="center")
