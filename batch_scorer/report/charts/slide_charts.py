"""Figures that only the slides have: class balance, network outlines, augmented images.

All share the style of ``charts.performance``. A sketch of a network shows how it sees an image, not
the number of its layers, which the slide takes from the model card.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import patches
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

from batch_scorer.model.card import draw_self_test_images
from batch_scorer.report.charts.performance import (
    AMBER,
    BLUE,
    GREY,
    GRID_COLOUR,
    TEXT_COLOUR,
    figure_style,
    render_svg,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from batch_scorer.report.content.slides import ClassCounts

IMAGE_SIZE_PX = 240
AUGMENTATION_LABELS = (
    "as it is",
    "mirrored",
    "turned and moved",
    "stretched",
    "brighter, flatter",
    "grainy",
)
"""The augmentations of ``_AUGMENTATIONS``, in their order."""
_LIGHT_BLUE = "#a9c4db"
_NORMAL_COLOUR = "#e0b062"


def draw_class_balance(bars: Sequence[ClassCounts]) -> str:
    """Draw the numbers of normal and pneumonia images in each part of a data set.

    Returns:
        An SVG document.
    """
    with figure_style():
        figure = Figure(figsize=(6.9, 0.7 + 0.4 * len(bars)), layout="constrained")
        ax = figure.subplots()
        y = np.arange(len(bars))
        for offset, label, colour, values in (
            (-0.2, "normal", _NORMAL_COLOUR, [bar.normal for bar in bars]),
            (0.2, "with pneumonia", BLUE, [bar.pneumonia for bar in bars]),
        ):
            drawn = ax.barh(y + offset, values, 0.36, color=colour, label=label)
            ax.bar_label(drawn, [f"{value:,}" for value in values], padding=3, color=TEXT_COLOUR)
        ax.set_yticks(y, [bar.part.capitalize() for bar in bars], color=TEXT_COLOUR)
        ax.set_xlabel("Films")
        ax.margins(x=0.1)
        ax.invert_yaxis()
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_formatter("{x:,.0f}")
        figure.legend(loc="outside upper right", ncols=2)
        return render_svg(figure)


def draw_network(kind: str) -> str:
    """Draw the outline of a network, from the image to the probability.

    Args:
        kind: "dense", "convolutional" or "deep"; any other is drawn as a box.

    Returns:
        An SVG document.
    """
    with figure_style():
        figure = Figure(figsize=(3.4, 1.75), layout="constrained")
        ax = figure.subplots()
        ax.set(xlim=(0, 10), ylim=(-3.1, 2.3), aspect="equal")
        ax.axis("off")
        _draw_input_image(ax)
        _NETWORK_DRAWINGS.get(kind, _draw_unknown_network)(ax)
        ax.add_patch(patches.Circle((9.25, 0), 0.32, facecolor=BLUE, edgecolor=BLUE))
        for x, text in ((0.85, "film"), (5.0, "layers"), (9.25, "answer")):
            ax.text(x, -3.0, text, ha="center", color=GREY, size=12)
        return render_svg(figure)


def augment_image(jpeg: bytes | None) -> list[bytes]:
    """Return an image as it is and augmented, one for each of ``AUGMENTATION_LABELS``.

    The changes are larger than in training, so that they can be seen.

    Args:
        jpeg: A JPEG image; None for the drawn chest of the self-test.

    Returns:
        Square greyscale JPEGs; the same bytes for the same image.
    """
    if jpeg is None:
        image = Image.fromarray(draw_self_test_images(IMAGE_SIZE_PX)[2, :, :, 0])
    else:
        with Image.open(io.BytesIO(jpeg)) as opened:
            image = opened.convert("L").resize(
                (IMAGE_SIZE_PX, IMAGE_SIZE_PX), Image.Resampling.BILINEAR
            )
    return [_encode_jpeg(change(image)) for change in _AUGMENTATIONS]


def _flip(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _rotate(image: Image.Image) -> Image.Image:
    """Rotate and shift; uncovered areas are filled from the edge, as in training."""
    margin = IMAGE_SIZE_PX // 4
    wide = Image.fromarray(np.pad(np.asarray(image), margin, mode="edge"))
    turned = wide.rotate(9, Image.Resampling.BILINEAR, translate=(12, -8))
    return turned.crop((margin, margin, margin + IMAGE_SIZE_PX, margin + IMAGE_SIZE_PX))


def _stretch(image: Image.Image) -> Image.Image:
    return image.crop((24, 12, IMAGE_SIZE_PX - 24, IMAGE_SIZE_PX - 12)).resize(
        (IMAGE_SIZE_PX, IMAGE_SIZE_PX), Image.Resampling.BILINEAR
    )


def _reduce_contrast(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    return _to_image(pixels.mean() + 0.6 * (pixels - pixels.mean()) + 45)


def _add_noise(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image.filter(ImageFilter.BoxBlur(1.5)), dtype=np.float64)
    return _to_image(pixels - 20 + np.random.default_rng(0).normal(0, 14, pixels.shape))


_AUGMENTATIONS: tuple[Callable[[Image.Image], Image.Image], ...] = (
    lambda image: image,
    _flip,
    _rotate,
    _stretch,
    _reduce_contrast,
    _add_noise,
)


def _to_image(pixels: Any) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _encode_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _draw_input_image(ax: Axes) -> None:
    ax.add_patch(
        patches.Rectangle((0.05, -0.8), 1.6, 1.6, facecolor=TEXT_COLOUR, edgecolor=TEXT_COLOUR)
    )
    for x in (0.52, 1.18):
        ax.add_patch(patches.Ellipse((x, 0), 0.46, 1.15, facecolor=_LIGHT_BLUE, edgecolor="none"))


def _draw_dense(ax: Axes) -> None:
    """Draw columns of units, each connected to all units of the next."""
    columns = [(1.65, 4, 1.4), (3.0, 5, 3.0), (4.6, 5, 3.0), (6.2, 6, 3.6), (7.8, 7, 3.8)]
    units = [
        [(x, y) for y in np.linspace(-height / 2, height / 2, number)]
        for x, number, height in columns
    ]
    for left, right in zip(units, [*units[1:], [(9.25, 0.0)]], strict=True):
        for one in left:
            for two in right:
                ax.plot(*zip(one, two, strict=True), color=GRID_COLOUR, linewidth=0.4, zorder=0)
    for column in units[1:]:
        for unit in column:
            ax.add_patch(patches.Circle(unit, 0.2, facecolor="white", edgecolor=BLUE))


def _draw_convolutions(ax: Axes) -> None:
    _draw_feature_maps(ax, [(2.3, 1.7), (3.6, 1.4), (4.8, 1.1), (5.9, 0.85), (6.9, 0.6)])


def _draw_deep(ax: Axes) -> None:
    blocks = [(2, 1.75), (2, 1.4), (3, 1.1), (3, 0.8), (3, 0.55)]
    planes, x = [], 2.1
    for number, height in blocks:
        planes += [(x + 0.33 * index, height) for index in range(number)]
        x += 0.33 * number + 0.3
    _draw_feature_maps(ax, planes)


def _draw_feature_maps(ax: Axes, planes: Sequence[tuple[float, float]]) -> None:
    """Draw ever smaller feature maps and the pooled vector behind the last."""
    for x, half in planes:
        corners = [(x, -half), (x + 0.55, 0.55 - half), (x + 0.55, 0.2 + half), (x, half - 0.35)]
        ax.add_patch(patches.Polygon(corners, facecolor=_LIGHT_BLUE, edgecolor=BLUE, linewidth=0.8))
    ax.plot([7.75, 8.85], [0, 0], color=GREY, linewidth=0.8)
    ax.add_patch(patches.Rectangle((7.72, -0.9), 0.28, 1.8, facecolor=AMBER, edgecolor="none"))


def _draw_unknown_network(ax: Axes) -> None:
    ax.plot([1.65, 9.0], [0, 0], color=GREY, linewidth=0.8, zorder=0)
    ax.add_patch(patches.Rectangle((3.2, -1.1), 3.6, 2.2, facecolor="white", edgecolor=BLUE))
    ax.text(5.0, 0, "network", ha="center", va="center", size=12)


_NETWORK_DRAWINGS: dict[str, Callable[[Axes], None]] = {
    "dense": _draw_dense,
    "convolutional": _draw_convolutions,
    "deep": _draw_deep,
}
