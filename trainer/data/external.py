"""Normal images from other hospitals, to count how many are flagged; never for training."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from batch_scorer.errors import DatasetError
from trainer.data.dataset import LabelledImages, decode_images

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.data.dataset import Dataset


def read_external_images(folder: Path, size_px: int, dataset: Dataset) -> LabelledImages:
    """Read a folder of images that are all known to be normal.

    Args:
        folder: Every file in it or below it must be an image; names with a leading dot are
            ignored.
        size_px: Side of the square that every image is decoded to.
        dataset: The data that models are trained and chosen on. It must not contain these
            images.

    Raises:
        DatasetError: The folder does not exist or is empty, a file is not a radiograph, or an
            image is also in ``dataset``.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"Expected a folder of normal images, found none at {folder}.",
            "Check the path in --normals NAME=FOLDER.",
        )
    paths = sorted(
        path for path in folder.glob("**/*") if path.is_file() and not path.name.startswith(".")
    )
    if not paths:
        raise DatasetError(
            f"Expected normal images in {folder}, found no file in it.",
            "Remove --normals, or name another folder.",
        )
    pixels, _ = decode_images(paths, size_px)
    keys = [path.relative_to(folder).as_posix() for path in paths]
    _check_unseen(folder, keys, pixels, dataset)
    return LabelledImages(
        pixels=pixels,
        labels=np.zeros(len(paths), dtype=np.int64),
        patients=np.full(len(paths), ""),
        keys=np.array(keys),
    )


def _check_unseen(folder: Path, keys: list[str], pixels: np.ndarray, dataset: Dataset) -> None:
    """Reject an image whose pixels equal those of a training or validation image."""
    known = {
        _hash_pixels(image)
        for images in (dataset.train, dataset.validation)
        for image in images.pixels
    }
    for key, image in zip(keys, pixels, strict=True):
        if _hash_pixels(image) in known:
            raise DatasetError(
                f"Expected only external images in {folder}, found {key}, which is also a training "
                "or validation image.",
                "Remove it: an image used in training shows nothing about other hospitals.",
                private=[key],
            )


def _hash_pixels(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
