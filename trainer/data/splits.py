"""The choice of validation images: by patient, or in two ways that flatter the network.

Early stopping, calibration and threshold are all chosen on validation images. A network evaluated
on the same images therefore looks better than it is. Many notebooks on this data set validate in
one of the two flattering ways. They exist here only to show the size of this effect: the model card
says so, and ``cxr export`` refuses such a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.errors import DatasetError
from trainer.data.dataset import (
    Dataset,
    check_both_classes,
    check_class_sizes,
    check_strays,
    hash_dataset,
    read_dataset,
    read_images,
)
from trainer.data.layout import read_layout

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class ValidationChoice:
    """One way to choose validation images.

    ``part`` is the official part to validate on, empty for a split of train and val by patient.
    ``withheld`` is as in ``Dataset``.
    """

    title: str
    part: str = ""
    withheld: str = ""


VALIDATION_CHOICES = {
    "patient": ValidationChoice("other patients of train and val"),
    "official": ValidationChoice(
        "the official val part",
        "val",
        "It was validated on the official val part: too few films to choose anything on, and "
        "patients who may be in training too.",
    ),
    "test": ValidationChoice(
        "the test films",
        "test",
        "It was validated on the test films: what was chosen on them is also judged on them.",
    ),
}


def read_dataset_validated_by(root: Path, size_px: int, seed: int, validated_by: str) -> Dataset:
    """Read a labelled folder with one of ``VALIDATION_CHOICES``.

    Args:
        root: As for ``read_dataset``; an official part needs train, val and test.
        size_px: Side of the square that every image is decoded to.
        seed: Seed of the split by patient.
        validated_by: "patient", "official" or "test". The last two train on the whole official
            train part; with "test", validation and test images are the same.

    Raises:
        DatasetError: An unknown choice, or as for ``read_dataset``.
    """
    if validated_by not in VALIDATION_CHOICES:
        raise DatasetError(
            f"Expected validation by one of {', '.join(VALIDATION_CHOICES)}, found {validated_by}.",
            "Use patient, the only choice that does not flatter the model.",
        )
    if not VALIDATION_CHOICES[validated_by].part:
        return read_dataset(root, size_px, seed)
    layout = read_layout(root)
    check_strays(layout)
    needed = dict.fromkeys(("train", VALIDATION_CHOICES[validated_by].part, "test"))
    paths = {part: layout.parts.get(part, []) for part in needed}
    for part in needed:
        check_both_classes(root / part, paths[part])
    check_class_sizes(root / "train", paths["train"])
    images = {part: read_images(root, paths[part], size_px) for part in needed}
    title = VALIDATION_CHOICES[validated_by].title
    return Dataset(
        name=root.resolve().name,
        fingerprint=hash_dataset(list(images.values())),
        split_policy=f"Official train to learn from, {title} to validate on.",
        train=images["train"][0],
        validation=images[VALIDATION_CHOICES[validated_by].part][0],
        test=images["test"][0],
        withheld=VALIDATION_CHOICES[validated_by].withheld,
    )
