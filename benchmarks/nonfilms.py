"""Out-of-distribution images: photos, colours, noise, text, and transformed chest X-rays.

All are made in memory. Every generator takes a random generator and gives the same images for the
same seed. The photos come with scikit-learn and scikit-image; nothing is downloaded.
"""

from __future__ import annotations

import io
import string
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

from benchmarks.command import require_packages

with require_packages():
    from skimage import data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

WHOLE_PHOTOS = "photos, whole"
SKIMAGE_PHOTOS = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "clock",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "retina",
    "rocket",
)
SIDE_RANGE_PX = (120, 900)
CROP_SHARE_RANGE = (0.2, 0.8)
GRAIN_AMPLITUDE = 3
GRAIN_SIZES_PX = (1, 4, 16, 64)
PAGE_SIZE_PX = (850, 1100)
FONT_RANGE_PX = (12, 40)
MAX_LINE_CHARS = 160


def load_photos(rng: np.random.Generator, number: int) -> Iterator[NDArray[np.uint8]]:  # noqa: ARG001 - one signature
    """Load every photo once, whole; ``number`` is ignored."""
    yield from load_sample_images().images
    for name in SKIMAGE_PHOTOS:
        yield getattr(data, name)()
    yield from data.stereo_motorcycle()[:2]


def crop_photos(rng: np.random.Generator, number: int) -> Iterator[NDArray[np.uint8]]:
    """Crop rectangles from the photos, each side 20 to 80 % of the photo's."""
    whole = list(load_photos(rng, number))
    for index in range(number):
        photo = whole[index % len(whole)]
        height, width = (round(side * rng.uniform(*CROP_SHARE_RANGE)) for side in photo.shape[:2])
        top = rng.integers(photo.shape[0] - height + 1)
        left = rng.integers(photo.shape[1] - width + 1)
        yield photo[top : top + height, left : left + width]


def make_plain_colours(rng: np.random.Generator, number: int) -> Iterator[NDArray[np.uint8]]:
    """Make plain colours, black and white first; every second pair has faint scanner grain."""
    for index in range(number):
        shape = (*_draw_size(rng), 3)
        colour = (0, 255)[index] if index < 2 else rng.integers(256, size=3)  # noqa: PLR2004 - two
        grain = rng.integers(-GRAIN_AMPLITUDE, GRAIN_AMPLITUDE + 1, shape) if index // 2 % 2 else 0
        yield np.clip(np.full(shape, colour) + grain, 0, 255).astype(np.uint8)


def make_noise(rng: np.random.Generator, number: int) -> Iterator[NDArray[np.uint8]]:
    """Make grey noise with grains of 1 to 64 pixels, interpolated smoothly."""
    for index in range(number):
        height, width = _draw_size(rng)
        grain = GRAIN_SIZES_PX[index % len(GRAIN_SIZES_PX)]
        grains = rng.integers(256, size=(height // grain + 1, width // grain + 1), dtype=np.uint8)
        yield np.asarray(Image.fromarray(grains).resize((width, height), Image.Resampling.BICUBIC))


def make_text_pages(rng: np.random.Generator, number: int) -> Iterator[NDArray[np.uint8]]:
    """Make pages of random words, dark on light, in fonts of many sizes."""
    letters = np.array(list(string.ascii_lowercase + 6 * " "))
    for _ in range(number):
        size_px = int(rng.integers(*FONT_RANGE_PX))
        margin = int(rng.integers(20, 120))
        paper, ink = int(rng.integers(200, 256)), int(rng.integers(60))
        column = Image.new("L", (PAGE_SIZE_PX[0] - 2 * margin, PAGE_SIZE_PX[1] - 2 * margin), paper)
        rows = column.height // size_px + 1
        text = "\n".join("".join(rng.choice(letters, MAX_LINE_CHARS)) for _ in range(rows))
        font = ImageFont.load_default(size_px)
        ImageDraw.Draw(column).text((0, 0), text, fill=ink, font=font)
        page = Image.new("L", PAGE_SIZE_PX, paper)
        page.paste(column, (margin, margin))
        yield np.asarray(page)


OOD_GENERATORS: dict[str, Callable[[np.random.Generator, int], Iterator[NDArray[np.uint8]]]] = {
    WHOLE_PHOTOS: load_photos,
    "photos, cropped": crop_photos,
    "plain colours": make_plain_colours,
    "noise": make_noise,
    "text pages": make_text_pages,
}
OOD_TRANSFORMS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "images inverted": lambda image: 255 - image,
    "images rotated 90 degrees": np.rot90,
    "images rotated 180 degrees": lambda image: np.rot90(image, 2),
    "images rotated 270 degrees": lambda image: np.rot90(image, 3),
}
"""Transforms of a chest X-ray, (height, width), that the model must reject."""


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image, grey or colour, as PNG, which keeps every pixel."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _draw_size(rng: np.random.Generator) -> tuple[int, int]:
    height, width = rng.integers(*SIDE_RANGE_PX, size=2)
    return int(height), int(width)
