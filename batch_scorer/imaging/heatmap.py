"""Evidence maps: an overlay in colours that also work in grey print, and the peak."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
from msgspec import Meta
from PIL import Image

from batch_scorer.system.strict_json import FiniteFloat

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLORMAP = "cividis"
"""Uniform in lightness, and the same to colour-blind readers (Nuñez et al. 2018)."""
OPACITY = 0.7
"""The opacity of the map. It dims the X-ray, whose white would look like evidence in grey print."""
MIDDLE_GREY = 128

UnitFloat = Annotated[float, Meta(ge=0, le=1)]


class Peak(msgspec.Struct, frozen=True):
    """The strongest cell of an evidence map.

    ``value`` is in units of the logit; ``x`` and ``y`` are the cell's centre as proportions of the
    image's width and height, from the upper left corner.
    """

    value: FiniteFloat
    x: UnitFloat
    y: UnitFloat


def overlay_heatmap(
    image: Image.Image, evidence: NDArray[np.float32], max_evidence: float
) -> Image.Image:
    """Overlay an evidence map on its image.

    Args:
        image: A grey image at its own aspect ratio.
        evidence: Shape (height, width), in units of the logit, in the coordinates of the image
            stretched to a square. Values of 0 or less get the darkest colour.
        max_evidence: The evidence that gets the brightest colour.

    Returns:
        An RGB image of the same size.
    """
    smooth = Image.fromarray(evidence.astype(np.float32)).resize(
        image.size, Image.Resampling.BICUBIC
    )
    strength = (
        np.clip(np.asarray(smooth) / max_evidence, 0, 1)
        if max_evidence > 0
        else np.zeros(image.size[::-1])
    )
    colours = load_colormap()[np.rint(strength * 255).astype(np.uint8)]
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    mixed = OPACITY * colours + (1 - OPACITY) * grey
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def draw_colour_bar() -> Image.Image:
    """Draw the colours from no to most evidence over middle grey: one row of RGB."""
    mixed = OPACITY * load_colormap() + (1 - OPACITY) * MIDDLE_GREY
    return Image.fromarray(np.rint(mixed).astype(np.uint8)[None])


def find_peak(evidence: NDArray[np.float32]) -> Peak:
    """Find the strongest cell of an evidence map of shape (height, width)."""
    height, width = evidence.shape
    row, column = divmod(int(evidence.argmax()), width)
    value = float(evidence[row, column])
    return Peak(round(value, 4), round((column + 0.5) / width, 4), round((row + 0.5) / height, 4))


@lru_cache(maxsize=1)
def load_colormap() -> NDArray[np.float64]:
    """Load the colours from no to most evidence: shape (256, 3), 0 to 255."""
    from matplotlib import colormaps

    steps: NDArray[np.float64] = colormaps[COLORMAP](np.linspace(0, 1, 256))[:, :3] * 255
    return steps
