"""A labelled folder -> everything that the audit finds, as plain numbers."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from batch_scorer import __version__
from batch_scorer.errors import DatasetError
from batch_scorer.imaging.file_names import ETIOLOGIES
from batch_scorer.model.card import CLASSES
from batch_scorer.model.card_sections import Appearance, DataAudit, DuplicateCounts
from batch_scorer.report.content.text import format_count
from trainer.audit.confounders import ALL_PROPERTIES, Shortcut, measure_shortcut
from trainer.audit.duplicates import count_duplicates, find_duplicates
from trainer.audit.image_stats import UnusableFile, measure_images
from trainer.data.layout import PARTS, WHOLE_SET, is_synthetic, read_layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from trainer.audit.duplicates import DuplicateGroup
    from trainer.audit.image_stats import ImageStats
    from trainer.data.layout import Layout

log = logging.getLogger(__name__)
AUDIT_VERSION = 1
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
APPEARANCE_FIELDS = {
    "brightness": "brightness",
    "contrast": "contrast",
    "border": "border",
    "width": "width_px",
    "height": "height_px",
    "file size": "size_bytes",
}


class ImageCount(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """Number of images of one part, class and cause.

    ``label`` and ``cause`` are empty if labels are hidden. ``cause`` is "normal", "bacterial",
    "viral" or "unknown".
    """

    part: str
    label: str
    cause: str
    images: int


class SharedPatients(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """Patient numbers that appear in two parts, and how many images of each part have one.

    ``same_cause`` counts those whose images have the same cause in both parts; None if labels are
    hidden.
    """

    parts: tuple[str, str]
    patients: int
    images: tuple[int, int]
    same_cause: int | None


class PatientCounts(
    msgspec.Struct,
    frozen=True,
    rename={
        "images_without_patient": "films_without_patient",
        "images_per_patient": "films_per_patient",
    },
):
    """Patient numbers from file names, counted separately in each part.

    ``images_per_patient`` maps each class to the number of patients by number of images.
    ``both_causes`` counts patient numbers with both bacterial and viral images.
    """

    patients: int
    images_without_patient: int
    images_per_patient: dict[str, dict[int, int]]
    shared: list[SharedPatients]
    both_causes: int


class DuplicateFacts(msgspec.Struct, frozen=True):
    """Duplicates: their counts, and the file names of each group."""

    counts: DuplicateCounts
    groups: list[list[str]]


class Distribution(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """One property of the images of one class in one part: its ``QUANTILES`` and mean.

    Units are grey levels 0 to 255, pixels, or bytes.
    """

    name: str
    part: str
    label: str
    images: int
    quantiles: list[float]
    mean: float


class StrayFiles(msgspec.Struct, frozen=True):
    """Files without a label: an unexpected folder, or loose images.

    ``kind`` is as in ``trainer.data.layout.Stray``; ``path`` is the folder, or the first loose
    image.
    """

    kind: str
    path: str
    files: int

    @property
    def sentence(self) -> str:
        """The stray files and their location."""
        if self.kind == "loose":
            return f"{format_count(self.files, 'loose image')}, such as {self.path}."
        return f"The folder {self.path} with {format_count(self.files, 'file')}."


class Audit(
    msgspec.Struct,
    frozen=True,
    rename={"images": "films", "near_duplicates": "alike", "appearance": "looks"},
):
    """The result of an audit, the content of ``audit.json``."""

    audit_version: int
    version: str
    data: str
    synthetic: bool
    test_labels_opened: bool
    images: int
    counts: list[ImageCount]
    patients: PatientCounts
    identical: DuplicateFacts
    near_duplicates: DuplicateFacts
    appearance: list[Distribution]
    shortcut: Shortcut
    unusable: list[UnusableFile]
    strays: list[StrayFiles]

    @property
    def parts(self) -> list[str]:
        """The parts of the data set, in order."""
        return list(dict.fromkeys(count.part for count in self.counts))

    def count_images(self, part: str, label: str) -> int:
        """Count the images of one class in one part."""
        return sum(c.images for c in self.counts if (c.part, c.label) == (part, label))


def audit_dataset(root: Path, *, open_test: bool = True) -> Audit:
    """Audit a labelled folder.

    Args:
        root: A folder with NORMAL and PNEUMONIA, or with train, val and test that have them.
        open_test: Use the labels of the test part.

    Raises:
        DatasetError: The folder does not exist or contains no usable image.
    """
    layout = read_layout(root)
    images, unusable = measure_images(layout, open_test=open_test)
    if not images:
        raise DatasetError(
            f"Expected images in the folders NORMAL and PNEUMONIA of {root}, found none"
            + (f" that decodes: {unusable[0].image}: {unusable[0].detail}" if unusable else "."),
            "The folder needs these two, or train, val and test that have them.",
            private=[image.image for image in unusable],
        )
    duplicates = find_duplicates(images)
    return Audit(
        audit_version=AUDIT_VERSION,
        version=__version__,
        data=root.resolve().name,
        synthetic=is_synthetic(root),
        test_labels_opened=open_test,
        images=len(images),
        counts=_count_images(images),
        patients=_count_patients(images),
        identical=_make_duplicate_facts(duplicates.identical),
        near_duplicates=_make_duplicate_facts(duplicates.near_duplicates),
        appearance=list(_compute_distributions(images)),
        shortcut=measure_shortcut(images),
        unusable=unusable,
        strays=_list_strays(layout),
    )


def summarize_audit(audit: Audit) -> DataAudit:
    """Summarize an audit for the model card."""
    per_patient: Counter[int] = Counter()
    for table in audit.patients.images_per_patient.values():
        per_patient.update(table)
    shortcut = {"cross-validation": audit.shortcut.cross_validation, "test": audit.shortcut.test}
    return DataAudit(
        images={
            " ".join(filter(None, (c.part, c.label, _known_etiology(c.cause)))): c.images
            for c in audit.counts
        },
        patients=audit.patients.patients,
        images_without_patient=audit.patients.images_without_patient,
        images_per_patient={str(images): n for images, n in sorted(per_patient.items())},
        shared_patients={" and ".join(s.parts): s.patients for s in audit.patients.shared},
        shared_with_same_cause={
            " and ".join(s.parts): s.same_cause
            for s in audit.patients.shared
            if s.same_cause is not None
        },
        identical=audit.identical.counts,
        near_duplicates=audit.near_duplicates.counts,
        appearance=_compute_median_appearance(audit.appearance),
        metadata_auc={name: found[ALL_PROPERTIES] for name, found in shortcut.items() if found},
    )


def restore_counts(short: DataAudit) -> list[ImageCount]:
    """Restore the images by part, class and cause from an audit's summary, in order of parts."""
    counts = []
    for name, images in short.images.items():
        part, label, cause = [*name.split(), "", ""][:3]
        if label and not cause:
            cause = "unknown" if label == CLASSES[1] else "normal"
        counts.append(ImageCount(part, label, cause, images))
    order = (*PARTS, WHOLE_SET)
    return sorted(counts, key=lambda count: (order.index(count.part), count.label, count.cause))


def _known_etiology(cause: str) -> str:
    return cause if cause in ETIOLOGIES else ""


def _compute_median_appearance(distributions: Sequence[Distribution]) -> list[Appearance]:
    """Collect the medians of each class in each part."""
    medians = {(s.part, s.label, s.name): s.quantiles[QUANTILES.index(0.5)] for s in distributions}
    return [
        Appearance(
            part,
            label,
            *(medians[part, label, name] for name in ("width", "height", "brightness", "contrast")),
        )
        for part, label in dict.fromkeys((s.part, s.label) for s in distributions)
    ]


def _count_images(images: Sequence[ImageStats]) -> list[ImageCount]:
    counts = Counter((image.part, image.label, image.cause) for image in images)
    return [ImageCount(*key, number) for key, number in counts.items()]


def _count_patients(images: Sequence[ImageStats]) -> PatientCounts:
    known = [image for image in images if image.patient]
    numbers = Counter((image.part, image.label, image.patient) for image in known)
    per_patient: dict[str, Counter[int]] = {}
    for (_, label, _), number in numbers.items():
        per_patient.setdefault(label, Counter())[number] += 1
    causes = {(image.patient, image.cause) for image in known}
    return PatientCounts(
        patients=len({(image.part, image.patient) for image in known}),
        images_without_patient=len(images) - len(known),
        images_per_patient={label: dict(sorted(c.items())) for label, c in per_patient.items()},
        shared=list(_find_shared_patients(known)),
        both_causes=sum(
            (patient, "viral") in causes for patient, cause in causes if cause == "bacterial"
        ),
    )


def _find_shared_patients(known: Sequence[ImageStats]) -> Iterator[SharedPatients]:
    parts = list(dict.fromkeys(image.part for image in known))
    for first, second in combinations(parts, 2):
        images = [[f for f in known if f.part == part] for part in (first, second)]
        both = {f.patient for f in images[0]} & {f.patient for f in images[1]}
        if both:
            of_first, of_second = (sum(f.patient in both for f in part) for part in images)
            same = {(f.patient, f.cause) for f in images[0]} & {
                (f.patient, f.cause) for f in images[1]
            }
            opened = all(f.label for part in images for f in part)
            yield SharedPatients(
                (first, second),
                len(both),
                (of_first, of_second),
                len({patient for patient, _ in same}) if opened else None,
            )


def _make_duplicate_facts(groups: Sequence[DuplicateGroup]) -> DuplicateFacts:
    return DuplicateFacts(
        count_duplicates(groups), [[image.key for image in group] for group in groups]
    )


def _compute_distributions(images: Sequence[ImageStats]) -> Iterator[Distribution]:
    """Compute every property by part and class, where labels are open."""
    groups = dict.fromkeys((image.part, image.label) for image in images if image.label)
    for name, field in APPEARANCE_FIELDS.items():
        for part, label in groups:
            values = [getattr(f, field) for f in images if (f.part, f.label) == (part, label)]
            quantiles = np.quantile(values, QUANTILES).round(2).tolist()
            mean = round(float(np.mean(values)), 2)
            yield Distribution(name, part, label, len(values), quantiles, mean)


def _list_strays(layout: Layout) -> list[StrayFiles]:
    return [
        StrayFiles(stray.kind, stray.path.relative_to(layout.root).as_posix(), stray.files)
        for stray in layout.strays
    ]
