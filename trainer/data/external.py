"""Normal images from elsewhere: read to see how many are flagged, never to train or choose on."""

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
        folder: Every file in it and below it is an image; names that begin with a dot are left out.
        size_px: Side of the square that every image is decoded to.
        dataset: What the models are trained and chosen on. None of the images may be among it.

    Raises:
        DatasetError: No such folder, no image in it, a file that is no image, or one that the models
            are trained or chosen on.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"Expected a folder of normal films, found none at {folder}.",
            "Say where they are with --normals NAME=FOLDER.",
        )
    paths = sorted(
        path for path in folder.glob("**/*") if path.is_file() and not path.name.startswith(".")
    )
    if not paths:
        raise DatasetError(
            f"Expected normal films in {folder}, found no file in it.",
            "Leave --normals out, or name another folder.",
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
    """Refuse an image whose pixels are those of a training or validation image."""
    known = {
        _hash_pixels(image)
        for images in (dataset.train, dataset.validation)
        for image in images.pixels
    }
    for key, image in zip(keys, pixels, strict=True):
        if _hash_pixels(image) in known:
            raise DatasetError(
                f"Expected films from elsewhere in {folder}, found {key}, which is also among the "
                "films that the models are trained or chosen on.",
                "Remove it: what a model has seen says nothing about other hospitals.",
                private=[key],
            )


def _hash_pixels(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
