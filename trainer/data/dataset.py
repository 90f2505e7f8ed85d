"""Labelled folders -> pixels, labels, patients and splits.

Reads the Kaggle layout (``train``, ``val``, ``test``, each with ``NORMAL`` and ``PNEUMONIA``) or
any folder that has the two class folders. The official test films are kept apart. The official
validation split has 16 films, too few to choose anything on, so train and val are pooled and split
again: by patient, seeded, stratified by class.
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
    """A set of labelled films, all arrays of length N.

    ``pixels`` is (N, S, S, 1) uint8, ``labels`` (N,) 1 for pneumonia, ``patients`` and ``keys`` one
    string per film; a patient is empty where the file name tells none.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    keys: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> LabelledImages:
        """The films at ``indices``."""
        return LabelledImages(
            self.pixels[indices], self.labels[indices], self.patients[indices], self.keys[indices]
        )

    @property
    def groups(self) -> NDArray[np.str_]:
        """The patient of each film; a film without one is a group of its own."""
        return np.where(self.patients == "", self.keys, self.patients)

    @property
    def etiology(self) -> NDArray[np.str_]:
        """What caused each film's pneumonia, as the file name tells; empty where it does not."""
        return np.array([parse_etiology(key) for key in self.keys])

    @property
    def pneumonia(self) -> int:
        """How many films are labelled pneumonia."""
        return int(self.labels.sum())


@dataclass(frozen=True)
class Dataset:
    """Training, validation and (where the folder has one) official test films.

    ``external`` holds normal films of other places by name, for evaluation alone; ``audit`` is
    what is wrong with the films, for the card. ``withheld`` says why a model of this split may not
    be exported; empty for all that may.
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
        """Films by split and class."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            f"{name} {CLASSES[label]}": int((films.labels == label).sum())
            for name, films in splits.items()
            if films is not None
            for label in (0, 1)
        }


def read_dataset(root: Path, size_px: int, seed: int) -> Dataset:
    """Read, decode and split a labelled folder.

    Args:
        root: A folder with NORMAL and PNEUMONIA, or with train, val and test that have them.
        size_px: Side of the square that every film is decoded to.
        seed: Of the split.

    Raises:
        DatasetError: No such folder, a class missing or too small, a folder that is no class, or a
            film that cannot be read.
    """
    layout = read_layout(root)
    check_strays(layout)
    own = (WHOLE_SET, "train", "val")
    paths = [path for part in own for path in layout.parts.get(part, [])]
    held_out = layout.parts.get("test", [])
    check_class_sizes(root, paths)
    if held_out:
        check_both_classes(root / "test", held_out)
    films, hashes = read_images(root, paths, size_px)
    if unknown := _describe_missing_patients(films):
        log.warning("            Warning: %s", unknown)
    train, validation = _split_by_patient(films, hashes, seed)
    test, test_hashes = read_images(root, held_out, size_px) if held_out else (None, [])
    return Dataset(
        name=root.resolve().name,
        fingerprint=hash_dataset([(films, hashes), *([(test, test_hashes)] if test else [])]),
        split_policy=_describe_split_policy(films, kaggle=layout.kaggle, held_out=bool(held_out)),
        train=films.take(train),
        validation=films.take(validation),
        test=test,
    )


def hash_dataset(parts: list[tuple[LabelledImages, list[str]]]) -> str:
    """A hash of every film's content, label and patient, and of which films are test films."""
    lines = [
        f"{part} {content} {label} {patient}"
        for part, (films, hashes) in enumerate(parts)
        for content, label, patient in zip(hashes, films.labels, films.patients, strict=True)
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _describe_split_policy(films: LabelledImages, *, kaggle: bool, held_out: bool) -> str:
    """How the films were split, in a sentence or two that hold for this data set."""
    whole = "Official train and val pooled, then split" if kaggle else "Split"
    parts = [
        f"{whole} {N_FOLDS - 1} : 1 by patient, stratified by class, seeded; films with identical "
        "content stay together."
    ]
    if unknown := _describe_missing_patients(films):
        parts.append(unknown)
    if held_out:
        parts.append("Official test kept apart.")
    return " ".join(parts)


def _describe_missing_patients(films: LabelledImages) -> str:
    """How many films have no patient, and what was done about it; empty where all have one."""
    unknown = int((films.patients == "").sum())
    if not unknown:
        return ""
    return (
        f"{unknown:,} of {len(films):,} file names tell no patient: each of these films was "
        "taken for a patient of its own."
    )


def check_strays(layout: Layout) -> None:
    """Refuse films without a label; warn of folders beside train, val and test."""
    for stray in layout.strays:
        if stray.kind == "part":
            log.warning("            Warning: left out, as no part of the set: %s", stray.sentence)
            continue
        meant = stray.path.name.upper()
        raise DatasetError(
            f"Expected nothing but the class folders {CLASSES[0]} and {CLASSES[1]}, "
            f"found {stray.sentence}.",
            f"Rename it to {meant}."
            if stray.kind == "class" and meant in CLASSES
            else "Move it elsewhere: it has no label, and nothing is left out silently.",
            private=[stray.path.name],
        )


def check_both_classes(root: Path, paths: list[Path]) -> Counter[int]:
    """Refuse a part without films of both classes; else how many films each has."""
    counts = count_classes(root, paths)
    for label, name in enumerate(CLASSES):
        if not counts[label]:
            raise DatasetError(
                f"Expected films in {root}/**/{name}, found none.",
                f"The folder needs the two class folders {CLASSES[0]} and {CLASSES[1]}.",
            )
    return counts


def check_class_sizes(root: Path, paths: list[Path]) -> None:
    """Refuse a part with too few films of a class to train on."""
    counts = check_both_classes(root, paths)
    for label, name in enumerate(CLASSES):
        if counts[label] < MIN_IMAGES_PER_CLASS:
            raise DatasetError(
                f"Expected at least {MIN_IMAGES_PER_CLASS} films of {name} to train and validate "
                f"on, found {counts[label]} in {root}."
            )


def read_images(root: Path, paths: list[Path], size_px: int) -> tuple[LabelledImages, list[str]]:
    """Decode every labelled film; also the SHA-256 of each file's content."""
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
    """Decode every film.

    Returns:
        Pixels, shape (N, size_px, size_px, 1), and the SHA-256 of each file's content.

    Raises:
        DatasetError: A file cannot be read or is no film.
    """
    pixels = np.empty((len(paths), size_px, size_px, 1), dtype=np.uint8)

    def read(index: int) -> str:
        try:
            data = paths[index].read_bytes()
            pixels[index, :, :, 0] = decode_radiograph(data, size_px)
        except (ImageError, OSError) as exc:
            raise DatasetError(
                f"{paths[index]} cannot be used: {exc}",
                "Mend or remove the film; nothing is left out silently.",
                private=[str(paths[index])],
            ) from exc
        return hashlib.sha256(data).hexdigest()

    with ThreadPoolExecutor(available_cores()) as pool:
        return pixels, list(pool.map(read, range(len(paths))))


def _split_by_patient(
    films: LabelledImages, hashes: list[str], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    groups = find_connected_groups(films.groups, hashes)
    if len(np.unique(groups)) < N_FOLDS:
        raise DatasetError(
            f"Expected films of at least {N_FOLDS} patients to split by patient, "
            f"found {len(np.unique(groups))}."
        )
    folds = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    train, validation = next(folds.split(films.keys, films.labels, groups))
    for part, name in ((train, "training"), (validation, "validation")):
        if len(np.unique(films.labels[part])) != len(CLASSES):
            raise DatasetError(
                f"Splitting by patient left the {name} part with one class only.",
                "Expected films of several patients in each class.",
            )
    return train, validation


def find_connected_groups(patients: NDArray[np.str_], hashes: list[str]) -> NDArray[np.int32]:
    """Number the groups of films that share a patient or their content.

    Args:
        patients: Shape (N,), one id per film.
        hashes: N hashes of their contents.

    Returns:
        Shape (N,): the connected part of the graph of patients and contents that a film is in.
    """
    by_patient = np.unique(patients, return_inverse=True)[1]
    by_content = np.unique(hashes, return_inverse=True)[1] + by_patient.max() + 1
    size = int(by_content.max()) + 1
    graph = coo_array((np.ones(len(hashes)), (by_patient, by_content)), shape=(size, size))
    groups: NDArray[np.int32] = connected_components(graph, directed=False)[1][by_patient]
    return groups
