"""Validation films as another hospital might send them: the shifted validation.

Validation films are like training films, and nearly every network reads them well. What breaks on
new films shows on these: the same validation films, darker, brighter, flatter, cropped, bordered,
blurred, enlarged from a small picture, compressed, or turned. Networks and calibration are judged
on them as well, and no test film is needed for that.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from trainer.data.dataset import LabelledImages

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CROP_SHARE = 0.85
LOW_RESOLUTION_PX = 80
BLUR_PX = 2.0
TURN_DEGREES = 8
JPEG_QUALITY = 25


def corrupt_images(films: LabelledImages) -> LabelledImages:
    """Every film in each of the ways of ``CORRUPTIONS``, one way after the other.

    Args:
        films: N films.

    Returns:
        N films for each way; patients stay what they are, keys say the way.
    """
    ways = len(CORRUPTIONS)
    return LabelledImages(
        pixels=np.concatenate([_corrupt(films.pixels, change) for change in CORRUPTIONS.values()]),
        labels=np.tile(films.labels, ways),
        patients=np.tile(films.groups, ways),
        keys=np.array([f"{key} {name}" for name in CORRUPTIONS for key in films.keys]),
    )


def _corrupt(
    pixels: NDArray[np.uint8], change: Callable[[Image.Image], Image.Image]
) -> NDArray[np.uint8]:
    shifted = [np.asarray(change(Image.fromarray(film[:, :, 0]))) for film in pixels]
    return np.stack(shifted)[..., None]


def _gamma(film: Image.Image, exponent: float) -> Image.Image:
    return film.point([round(255 * (level / 255) ** exponent) for level in range(256)])


def _reduce_contrast(film: Image.Image) -> Image.Image:
    mean = np.asarray(film).mean()
    return film.point([round(mean + 0.6 * (level - mean)) for level in range(256)])


def _crop(film: Image.Image) -> Image.Image:
    edge = film.width * (1 - CROP_SHARE) / 2
    box = (edge, edge, film.width - edge, film.width - edge)
    return film.resize(film.size, Image.Resampling.BILINEAR, box=box)


def _add_border(film: Image.Image) -> Image.Image:
    inner = round(film.width * CROP_SHARE)
    edge = (film.width - inner) // 2
    bordered = Image.new("L", film.size)
    bordered.paste(film.resize((inner, inner), Image.Resampling.BILINEAR), (edge, edge))
    return bordered


def _downsample(film: Image.Image) -> Image.Image:
    small = film.resize((LOW_RESOLUTION_PX, LOW_RESOLUTION_PX), Image.Resampling.BILINEAR)
    return small.resize(film.size, Image.Resampling.BILINEAR)


def _compress_jpeg(film: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    film.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Image.open(buffer)


CORRUPTIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "darker": lambda film: _gamma(film, 1.5),
    "brighter": lambda film: _gamma(film, 1 / 1.5),
    "flatter": _reduce_contrast,
    "cropped": _crop,
    "bordered": _add_border,
    "blurred": lambda film: film.filter(ImageFilter.GaussianBlur(BLUR_PX)),
    "enlarged": _downsample,
    "compressed": _compress_jpeg,
    "turned": lambda film: film.rotate(TURN_DEGREES, Image.Resampling.BILINEAR),
}
