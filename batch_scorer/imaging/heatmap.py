"""An evidence map laid over its film, in colours that also read in grey."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray
from typing import Annotated

import msgspec
from msgspec import Meta

from batch_scorer.system.strict_json import (
    FiniteFloat,
)

COLORMAP = "cividis"
"""Even in lightness from dark to bright, and the same to colour-blind eyes (Nuñez et al. 2018)."""
OPACITY = 0.7
"""The film is dimmed to the rest: else its own white would pass for evidence in grey print."""

MIDDLE_GREY = 128


UnitFloat = Annotated[float, Meta(ge=0, le=1)]


class Peak(msgspec.Struct, frozen=True):
    """Where an evidence map is strongest.

    ``value`` is in units of the logit; ``x`` and ``y`` are shares of the picture's width and height
    from its upper left corner.
    """

    value: FiniteFloat
    x: UnitFloat
    y: UnitFloat


def overlay_heatmap(film: Image.Image, evidence: NDArray[np.float32], top: float) -> Image.Image:
    """Lay a map over its film.

    Args:
        film: Grey, at its own proportions.
        evidence: Shape (height, width), in the coordinates of the film stretched to a square, in
            units of the logit. What is 0 or less gets the darkest colour.
        top: The evidence that gets the brightest colour.

    Returns:
        RGB, of the film's size.
    """
    smooth = Image.fromarray(evidence.astype(np.float32)).resize(
        film.size, Image.Resampling.BICUBIC
    )
    share = np.clip(np.asarray(smooth) / top, 0, 1) if top > 0 else np.zeros(film.size[::-1])
    colours = load_colormap()[np.rint(share * 255).astype(np.uint8)]
    grey = np.asarray(film.convert("L"), dtype=np.float64)[..., None]
    mixed = OPACITY * colours + (1 - OPACITY) * grey
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def draw_colour_bar() -> Image.Image:
    """The colours from no evidence to most, as they look over a grey film: one row of RGB."""
    mixed = OPACITY * load_colormap() + (1 - OPACITY) * MIDDLE_GREY
    return Image.fromarray(np.rint(mixed).astype(np.uint8)[None])


def find_peak(evidence: NDArray[np.float32]) -> Peak:
    """The strongest place of a map of shape (height, width): its evidence, and its middle."""
    height, width = evidence.shape
    row, column = divmod(int(evidence.argmax()), width)
    value = float(evidence[row, column])
    return Peak(round(value, 4), round((column + 0.5) / width, 4), round((row + 0.5) / height, 4))


@lru_cache(maxsize=1)
def load_colormap() -> NDArray[np.float64]:
    """The colours from no evidence to most, shape (256, 3), 0 to 255."""
    from matplotlib import colormaps

    steps: NDArray[np.float64] = colormaps[COLORMAP](np.linspace(0, 1, 256))[:, :3] * 255
    return steps
