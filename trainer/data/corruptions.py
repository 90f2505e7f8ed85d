"""Validation images as another hospital might send them: the shifted validation set.

Validation images resemble training images, so nearly every network classifies them well. Weaknesses
on new images show on these corruptions: darker, brighter, lower contrast, cropped, bordered,
blurred, enlarged from a small image, compressed, rotated. Networks and calibration are evaluated on
them too, which needs no test image.
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


def corrupt_images(images: LabelledImages) -> LabelledImages:
    """Apply each of ``CORRUPTIONS`` to every image.

    Args:
        images: N images.

    Returns:
        N images per corruption, one corruption after the other. Patients stay the same; keys
        end with the corruption's name.
    """
    n_corruptions = len(CORRUPTIONS)
    return LabelledImages(
        pixels=np.concatenate([_corrupt(images.pixels, change) for change in CORRUPTIONS.values()]),
        labels=np.tile(images.labels, n_corruptions),
        patients=np.tile(images.groups, n_corruptions),
        keys=np.array([f"{key} {name}" for name in CORRUPTIONS for key in images.keys]),
    )


def _corrupt(
    pixels: NDArray[np.uint8], change: Callable[[Image.Image], Image.Image]
) -> NDArray[np.uint8]:
    shifted = [np.asarray(change(Image.fromarray(image[:, :, 0]))) for image in pixels]
    return np.stack(shifted)[..., None]


def _gamma(image: Image.Image, exponent: float) -> Image.Image:
    return image.point([round(255 * (level / 255) ** exponent) for level in range(256)])


def _reduce_contrast(image: Image.Image) -> Image.Image:
    mean = np.asarray(image).mean()
    return image.point([round(mean + 0.6 * (level - mean)) for level in range(256)])


def _crop(image: Image.Image) -> Image.Image:
    edge = image.width * (1 - CROP_SHARE) / 2
    box = (edge, edge, image.width - edge, image.width - edge)
    return image.resize(image.size, Image.Resampling.BILINEAR, box=box)


def _add_border(image: Image.Image) -> Image.Image:
    inner = round(image.width * CROP_SHARE)
    edge = (image.width - inner) // 2
    bordered = Image.new("L", image.size)
    bordered.paste(image.resize((inner, inner), Image.Resampling.BILINEAR), (edge, edge))
    return bordered


def _downsample(image: Image.Image) -> Image.Image:
    small = image.resize((LOW_RESOLUTION_PX, LOW_RESOLUTION_PX), Image.Resampling.BILINEAR)
    return small.resize(image.size, Image.Resampling.BILINEAR)


def _compress_jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Image.open(buffer)


CORRUPTIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "darker": lambda image: _gamma(image, 1.5),
    "brighter": lambda image: _gamma(image, 1 / 1.5),
    "flatter": _reduce_contrast,
    "cropped": _crop,
    "bordered": _add_border,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(BLUR_PX)),
    "enlarged": _downsample,
    "compressed": _compress_jpeg,
    "turned": lambda image: image.rotate(TURN_DEGREES, Image.Resampling.BILINEAR),
}
