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

from trainer.data.dataset import Films

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CROP = 0.85
SMALL_PX = 80
BLUR_PX = 2.0
TURN_DEGREES = 8
JPEG_QUALITY = 25


def shift_films(films: Films) -> Films:
    """Every film in each of the ways of ``SHIFTS``, one way after the other.

    Args:
        films: N films.

    Returns:
        N films for each way; patients stay what they are, keys say the way.
    """
    ways = len(SHIFTS)
    return Films(
        pixels=np.concatenate([_shift(films.pixels, change) for change in SHIFTS.values()]),
        labels=np.tile(films.labels, ways),
        patients=np.tile(films.groups, ways),
        keys=np.array([f"{key} {name}" for name in SHIFTS for key in films.keys]),
    )


def _shift(
    pixels: NDArray[np.uint8], change: Callable[[Image.Image], Image.Image]
) -> NDArray[np.uint8]:
    shifted = [np.asarray(change(Image.fromarray(film[:, :, 0]))) for film in pixels]
    return np.stack(shifted)[..., None]


def _gamma(film: Image.Image, exponent: float) -> Image.Image:
    return film.point([round(255 * (level / 255) ** exponent) for level in range(256)])


def _flatten(film: Image.Image) -> Image.Image:
    mean = np.asarray(film).mean()
    return film.point([round(mean + 0.6 * (level - mean)) for level in range(256)])


def _crop(film: Image.Image) -> Image.Image:
    edge = film.width * (1 - CROP) / 2
    box = (edge, edge, film.width - edge, film.width - edge)
    return film.resize(film.size, Image.Resampling.BILINEAR, box=box)


def _border(film: Image.Image) -> Image.Image:
    inner = round(film.width * CROP)
    edge = (film.width - inner) // 2
    bordered = Image.new("L", film.size)
    bordered.paste(film.resize((inner, inner), Image.Resampling.BILINEAR), (edge, edge))
    return bordered


def _enlarge(film: Image.Image) -> Image.Image:
    small = film.resize((SMALL_PX, SMALL_PX), Image.Resampling.BILINEAR)
    return small.resize(film.size, Image.Resampling.BILINEAR)


def _compress(film: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    film.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Image.open(buffer)


SHIFTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "darker": lambda film: _gamma(film, 1.5),
    "brighter": lambda film: _gamma(film, 1 / 1.5),
    "flatter": _flatten,
    "cropped": _crop,
    "bordered": _border,
    "blurred": lambda film: film.filter(ImageFilter.GaussianBlur(BLUR_PX)),
    "enlarged": _enlarge,
    "compressed": _compress,
    "turned": lambda film: film.rotate(TURN_DEGREES, Image.Resampling.BILINEAR),
}
