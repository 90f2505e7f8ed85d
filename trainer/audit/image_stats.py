"""Statistics of every image, which is read once; pixels are not kept."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import imagehash
import msgspec
from PIL import Image
from tqdm import tqdm

from batch_scorer.errors import ImageError, Unreadable
from batch_scorer.imaging.decode import open_image
from batch_scorer.imaging.file_names import parse_etiology, parse_patient
from batch_scorer.model.card import CLASSES
from batch_scorer.system.log import logs_json
from batch_scorer.system.process import available_cores
from trainer.data.layout import find_label

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from trainer.data.layout import Layout

SIZE_PX = 224
BORDER_PX = SIZE_PX // 16
HASH_SIZE = 16
HASH_BITS = HASH_SIZE**2


@dataclass(frozen=True)
class ImageStats:
    """The statistics of one image.

    ``label`` and ``cause`` are empty if hidden; ``patient`` is empty if the file name contains
    none. ``brightness`` (mean), ``contrast`` (standard deviation) and ``border`` (mean of the outer
    sixteenth on each side) are grey levels of the decoded image, 0 to 255. ``phash`` is a
    perceptual hash, (HASH_BITS,) bool.
    """

    key: str
    part: str
    label: str
    cause: str
    patient: str
    width_px: int
    height_px: int
    size_bytes: int
    brightness: float
    contrast: float
    border: float
    pixels_sha256: str
    phash: NDArray[np.bool_]


class UnusableFile(msgspec.Struct, frozen=True, rename={"image": "film"}):
    """A file in a class folder that does not decode, with the reason."""

    image: str
    reason: str
    detail: str


def measure_images(
    layout: Layout, *, open_test: bool
) -> tuple[list[ImageStats], list[UnusableFile]]:
    """Decode and measure every image of a folder.

    Args:
        layout: From ``read_layout``.
        open_test: Use the labels of the test part.

    Returns:
        The images in order of parts and names, and the files that cannot be used.

    Raises:
        DatasetError: One class folder lies inside the other.
    """
    items = [(part, path) for part, paths in layout.parts.items() for path in paths]

    def measure(item: tuple[str, Path]) -> ImageStats | UnusableFile:
        part, path = item
        hidden = part == "test" and not open_test
        label = CLASSES[find_label(layout.root, path)]
        key = path.relative_to(layout.root).as_posix()
        try:
            return _measure_image(path, key, part, "" if hidden else label)
        except ImageError as exc:
            return UnusableFile(key, exc.code, str(exc))

    with ThreadPoolExecutor(available_cores()) as pool:
        progress = {"total": len(items), "unit": "image", "desc": "Reading", "leave": False}
        found = list(tqdm(pool.map(measure, items), disable=logs_json() or None, **progress))
    images = [image for image in found if isinstance(image, ImageStats)]
    return images, [file for file in found if isinstance(file, UnusableFile)]


def find_cause(key: str, label: str) -> str:
    """Find the cause of a pneumonia in a file name of the Kermany data set.

    Returns:
        "bacterial", "viral", "unknown" if the name contains neither, "normal" for a normal
        image, and "" for an image with a hidden label.
    """
    if label != CLASSES[1]:
        return label.lower()
    return parse_etiology(key) or "unknown"


def _measure_image(path: Path, key: str, part: str, label: str) -> ImageStats:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise Unreadable(f"The file cannot be read: {exc.strerror or exc}.") from exc
    image = open_image(data)
    pixels = image.decode([SIZE_PX])[SIZE_PX]
    width_px, height_px = image.size_px
    inner = pixels[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
    border = (float(pixels.sum()) - float(inner.sum())) / (pixels.size - inner.size)
    return ImageStats(
        key=key,
        part=part,
        label=label,
        cause=find_cause(key, label),
        patient=parse_patient(key),
        width_px=width_px,
        height_px=height_px,
        size_bytes=len(data),
        brightness=float(pixels.mean()),
        contrast=float(pixels.std()),
        border=border,
        pixels_sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        phash=imagehash.phash(Image.fromarray(pixels), HASH_SIZE).hash.ravel(),
    )
