"""Figures that show images: examples of each class, and the effect of augmentation."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from batch_scorer.errors import DatasetError
from batch_scorer.imaging.decode import RESIZE_FILTER
from batch_scorer.model.card import CLASSES
from batch_scorer.report.charts.performance import figure_style, render_svg
from batch_scorer.report.content.typeface import make_data_uri, replace_unsupported
from trainer.config import RECIPES
from trainer.data.dataset import decode_images
from trainer.data.layout import find_label, is_synthetic, read_layout
from trainer.model.augmentation import RandomIntensity
from trainer.model.networks import BUILDERS, SIZE_PX

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

SYNTHETIC_NOTICE = "Synthetic films: drawn at random, they show nobody"
WIDTH_IN = 6.9
TITLE_HEIGHT_IN = 0.24
IMAGE_SIZE_PX = 150
JPEG_QUALITY = 85
_PNG_DATA_URI = re.compile(r'"data:image/png;base64,([^"]+)"')


@dataclass(frozen=True)
class ExampleImages:
    """Example images of each class.

    ``images`` maps each class to its pixels, (N, S, S, 1) uint8. ``synthetic`` is True for images
    drawn at random, which show no patient.
    """

    images: dict[str, NDArray[np.uint8]]
    synthetic: bool

    @property
    def caption(self) -> str:
        """The title above the images."""
        return SYNTHETIC_NOTICE if self.synthetic else "Images from the given folder"


def read_examples(root: Path, per_class: int) -> ExampleImages:
    """Decode the first images of each class of a labelled folder or of its train part.

    Raises:
        DatasetError: The folder does not exist, a class is empty, or an image cannot be read.
    """
    layout = read_layout(root)
    part, paths = next(iter(layout.parts.items()))
    folder = root / part if layout.kaggle else root
    images = {}
    for label, name in enumerate(CLASSES):
        chosen = [path for path in paths if find_label(folder, path) == label][:per_class]
        if not chosen:
            raise DatasetError(f"Expected images in {folder}/**/{name}, found none.")
        images[name] = decode_images(chosen, SIZE_PX)[0]
    return ExampleImages(images, is_synthetic(root))


def draw_examples(examples: ExampleImages) -> str:
    """Draw the images, one row per class.

    Returns:
        An SVG document with embedded images.
    """
    rows = {
        name.capitalize(): np.stack([_resize_image(image[..., 0]) for image in images])
        for name, images in examples.images.items()
    }
    return _draw_rows(rows, f"{examples.caption}.")


def draw_augmentation(examples: ExampleImages, model: str, times: int, seed: int = 0) -> str:
    """Draw one image of each class as the network sees it, then as training changes it.

    The images pass through the augmentation layers of the network itself, with the strength of its
    recipe.

    Args:
        examples: The source of the images; the first of each class is used.
        model: One of ``BUILDERS``.
        times: Number of random changes of each image.
        seed: Seed of the random changes.

    Returns:
        An SVG document with embedded images.
    """
    network = BUILDERS[model](seed, augment=RECIPES[model].augmentation)
    change = next(layer for layer in network.layers if isinstance(layer, RandomIntensity))
    augmenter = keras.Model(network.input, change.output)
    first = np.stack([images[0] for images in examples.images.values()])
    # The classes alternate, since an image takes grey levels from the one before it.
    repeated = np.tile(first, (times, 1, 1, 1))
    shown = [augmenter(first, training=False), augmenter(repeated, training=True)]
    pixels = np.concatenate([keras.ops.convert_to_numpy(part) for part in shown])[..., 0]
    rows = {
        name.capitalize(): (255 * pixels[row :: len(first)]).astype(np.uint8)
        for row, name in enumerate(examples.images)
    }
    return _draw_rows(rows, f"{examples.caption}. Original, then as training changes it.")


def _draw_rows(rows: dict[str, NDArray[np.uint8]], title: str) -> str:
    columns = max(len(images) for images in rows.values())
    height = TITLE_HEIGHT_IN + len(rows) * ((WIDTH_IN - TITLE_HEIGHT_IN) / columns + 0.04)
    with figure_style():
        close = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        figure = Figure(figsize=(WIDTH_IN, height), layout=close)
        figure.suptitle(title, x=0.04, ha="left", size=8.5)
        grid: Any = figure.subplots(len(rows), columns, squeeze=False)
        for line, (name, images) in zip(grid, rows.items(), strict=True):
            line[0].set_ylabel(replace_unsupported(name))
            for ax in line[len(images) :]:
                ax.set_visible(False)
            for ax, image in zip(line, images, strict=False):
                _draw_image(ax, image)
        return _PNG_DATA_URI.sub(_png_to_jpeg, render_svg(figure))


def _resize_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((IMAGE_SIZE_PX, IMAGE_SIZE_PX), RESIZE_FILTER))


def _draw_image(ax: Axes, image: NDArray[np.uint8]) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def _png_to_jpeg(match: re.Match[str]) -> str:
    """Re-encode an embedded PNG as JPEG: a tenth of the bytes, and matplotlib embeds PNG only."""
    with Image.open(io.BytesIO(base64.b64decode(match[1]))) as picture:
        buffer = io.BytesIO()
        picture.convert("L").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f'"{make_data_uri(buffer.getvalue(), "image/jpeg")}"'
