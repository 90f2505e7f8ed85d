"""Labelled folders -> pixels, labels, patients and splits.

Reads the Kaggle layout (``train``, ``val``, ``test``, each with ``NORMAL`` and ``PNEUMONIA``) or
any folder with the two class folders. The official test images stay separate. The official
validation split has 16 images, too few to choose anything on. Therefore train and val are pooled
and split again: by patient, seeded, stratified by class.
"""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from batch_scorer.errors import DatasetError, ImageError
from batch_scorer.imaging.decode import decode_radiograph
from batch_scorer.imaging.file_names import parse_etiology, parse_patient
from batch_scorer.model.card import CLASSES
from batch_scorer.system.process import available_cores
from trainer.data.layout import WHOLE_SET, count_classes, find_label, read_layout

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

    from numpy.typing import NDArray

    from batch_scorer.model.card_sections import DataAudit
    from trainer.data.layout import Layout

log = logging.getLogger(__name__)
N_FOLDS = 8
MIN_IMAGES_PER_CLASS = 2 * N_FOLDS


@dataclass(frozen=True)
class LabelledImages:
    """A set of N labelled images.

    ``pixels`` is (N, S, S, 1) uint8, ``labels`` (N,) with 1 for pneumonia, ``patients`` and
    ``keys`` (N,) strings; a patient is empty if the file name contains none.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    keys: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> LabelledImages:
        """Select the images at ``indices``."""
        return LabelledImages(
            self.pixels[indices], self.labels[indices], self.patients[indices], self.keys[indices]
        )

    @property
    def groups(self) -> NDArray[np.str_]:
        """The patient of each image, (N,); an image without one forms its own group."""
        return np.where(self.patients == "", self.keys, self.patients)

    @property
    def etiology(self) -> NDArray[np.str_]:
        """The cause of each image's pneumonia from its file name, (N,); empty if unknown."""
        return np.array([parse_etiology(key) for key in self.keys])

    @property
    def pneumonia(self) -> int:
        """The number of images labelled pneumonia."""
        return int(self.labels.sum())


@dataclass(frozen=True)
class Dataset:
    """Training, validation and, if the folder has them, official test images.

    ``external`` maps names to normal images from other hospitals, for evaluation only. ``audit``
    summarises the faults of the data, for the model card. ``withheld`` states why a model of this
    split may not be exported; empty if it may.
    """

    name: str
    fingerprint: str
    split_policy: str
    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages | None
    external: dict[str, LabelledImages] = field(default_factory=dict)
    audit: DataAudit | None = None
    withheld: str = ""

    def counts(self) -> dict[str, int]:
        """Count the images by split and class."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            f"{name} {CLASSES[label]}": int((images.labels == label).sum())
            for name, images in splits.items()
            if images is not None
            for label in (0, 1)
        }


def read_dataset(root: Path, size_px: int, seed: int) -> Dataset:
    """Read, decode and split a labelled folder.

    Args:
        root: A folder with NORMAL and PNEUMONIA, or with train, val and test that have them.
        size_px: Side of the square that every image is decoded to.
        seed: Seed of the split.

    Raises:
        DatasetError: The folder does not exist, a class is missing or too small, a folder is
            not a class, or an image cannot be read.
    """
    layout = read_layout(root)
    check_strays(layout)
    parts = (WHOLE_SET, "train", "val")
    paths = [path for part in parts for path in layout.parts.get(part, [])]
    held_out = layout.parts.get("test", [])
    check_class_sizes(root, paths)
    if held_out:
        check_both_classes(root / "test", held_out)
    images, hashes = read_images(root, paths, size_px)
    if unknown := _describe_missing_patients(images):
        log.warning("            Warning: %s", unknown)
    train, validation = _split_by_patient(images, hashes, seed)
    test, test_hashes = read_images(root, held_out, size_px) if held_out else (None, [])
    return Dataset(
        name=root.resolve().name,
        fingerprint=hash_dataset([(images, hashes), *([(test, test_hashes)] if test else [])]),
        split_policy=_describe_split_policy(images, kaggle=layout.kaggle, held_out=bool(held_out)),
        train=images.take(train),
        validation=images.take(validation),
        test=test,
    )


def hash_dataset(parts: list[tuple[LabelledImages, list[str]]]) -> str:
    """Hash the content, label, patient and part (train or test) of every image."""
    lines = [
        f"{part} {content} {label} {patient}"
        for part, (images, hashes) in enumerate(parts)
        for content, label, patient in zip(hashes, images.labels, images.patients, strict=True)
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _describe_split_policy(images: LabelledImages, *, kaggle: bool, held_out: bool) -> str:
    """Describe how the images were split, for the model card."""
    whole = "Official train and val pooled, then split" if kaggle else "Split"
    parts = [
        f"{whole} {N_FOLDS - 1} : 1 by patient, stratified by class, seeded; films with identical "
        "content stay together."
    ]
    if unknown := _describe_missing_patients(images):
        parts.append(unknown)
    if held_out:
        parts.append("Official test kept apart.")
    return " ".join(parts)


def _describe_missing_patients(images: LabelledImages) -> str:
    """Describe how many images have no patient and how they were split; empty if all have one."""
    unknown = int((images.patients == "").sum())
    if not unknown:
        return ""
    return (
        f"{unknown:,} of {len(images):,} file names contain no patient: each of these images "
        "counts as a separate patient."
    )


def check_strays(layout: Layout) -> None:
    """Reject images without a label; warn of folders beside train, val and test."""
    for stray in layout.strays:
        if stray.kind == "part":
            log.warning(
                "            Warning: ignored, not a part of the data set: %s", stray.sentence
            )
            continue
        meant = stray.path.name.upper()
        raise DatasetError(
            f"Expected only the class folders {CLASSES[0]} and {CLASSES[1]}, "
            f"found {stray.sentence}.",
            f"Rename it to {meant}."
            if stray.kind == "class" and meant in CLASSES
            else "Move it out of the data set: it has no label, and no file is skipped silently.",
            private=[stray.path.name],
        )


def check_both_classes(root: Path, paths: list[Path]) -> Counter[int]:
    """Count the images of each class; reject a part that lacks one."""
    counts = count_classes(root, paths)
    for label, name in enumerate(CLASSES):
        if not counts[label]:
            raise DatasetError(
                f"Expected images in {root}/**/{name}, found none.",
                f"The folder needs the two class folders {CLASSES[0]} and {CLASSES[1]}.",
            )
    return counts


def check_class_sizes(root: Path, paths: list[Path]) -> None:
    """Reject a part with too few images of a class to train on."""
    counts = check_both_classes(root, paths)
    for label, name in enumerate(CLASSES):
        if counts[label] < MIN_IMAGES_PER_CLASS:
            raise DatasetError(
                f"Expected at least {MIN_IMAGES_PER_CLASS} images of {name} to train and validate "
                f"on, found {counts[label]} in {root}."
            )


def read_images(root: Path, paths: list[Path], size_px: int) -> tuple[LabelledImages, list[str]]:
    """Decode every labelled image.

    Returns:
        The images, and the SHA-256 of each file's content.
    """
    pixels, hashes = decode_images(paths, size_px)
    keys = [path.relative_to(root).as_posix() for path in paths]
    return (
        LabelledImages(
            pixels=pixels,
            labels=np.array([find_label(root, path) for path in paths]),
            patients=np.array([parse_patient(key) for key in keys]),
            keys=np.array(keys),
        ),
        hashes,
    )


def decode_images(paths: list[Path], size_px: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Decode every image.

    Returns:
        Pixels, shape (N, size_px, size_px, 1) uint8, and the SHA-256 of each file's content.

    Raises:
        DatasetError: A file cannot be read or is not a radiograph.
    """
    pixels = np.empty((len(paths), size_px, size_px, 1), dtype=np.uint8)

    def read(index: int) -> str:
        try:
            data = paths[index].read_bytes()
            pixels[index, :, :, 0] = decode_radiograph(data, size_px)
        except (ImageError, OSError) as exc:
            raise DatasetError(
                f"{paths[index]} cannot be used: {exc}",
                "Repair or remove the file; no file is skipped silently.",
                private=[str(paths[index])],
            ) from exc
        return hashlib.sha256(data).hexdigest()

    with ThreadPoolExecutor(available_cores()) as pool:
        return pixels, list(pool.map(read, range(len(paths))))


def _split_by_patient(
    images: LabelledImages, hashes: list[str], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    groups = find_connected_groups(images.groups, hashes)
    if len(np.unique(groups)) < N_FOLDS:
        raise DatasetError(
            f"Expected images of at least {N_FOLDS} patients to split by patient, "
            f"found {len(np.unique(groups))}."
        )
    folds = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    train, validation = next(folds.split(images.keys, images.labels, groups))
    for part, name in ((train, "training"), (validation, "validation")):
        if len(np.unique(images.labels[part])) != len(CLASSES):
            raise DatasetError(
                f"The split by patient left only one class in the {name} part.",
                "Provide images of several patients in each class.",
            )
    return train, validation


def find_connected_groups(patients: NDArray[np.str_], hashes: list[str]) -> NDArray[np.int32]:
    """Group images that share a patient or identical content.

    Args:
        patients: Shape (N,), one id per image.
        hashes: N hashes of the contents.

    Returns:
        Shape (N,): the number of each image's connected component in the graph of patients and
        contents.
    """
    by_patient = np.unique(patients, return_inverse=True)[1]
    by_content = np.unique(hashes, return_inverse=True)[1] + by_patient.max() + 1
    size = int(by_content.max()) + 1
    graph = coo_array((np.ones(len(hashes)), (by_patient, by_content)), shape=(size, size))
    groups: NDArray[np.int32] = connected_components(graph, directed=False)[1][by_patient]
    return groups
