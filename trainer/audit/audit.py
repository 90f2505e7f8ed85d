"""A labelled folder -> everything that the audit found, as plain numbers."""

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
    """Films of one part, class and cause; class and cause are empty where labels were not opened.

    ``cause`` is "normal", "bacterial", "viral" or "unknown".
    """

    part: str
    label: str
    cause: str
    images: int


class SharedPatients(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """Patient numbers that appear in two parts, and how many films of each part have one.

    ``same_cause`` of them have films of the same cause in both; None where labels were not opened.
    """

    parts: tuple[str, str]
    patients: int
    images: tuple[int, int]
    same_cause: int | None


class PatientCounts(msgspec.Struct, frozen=True):
    """Patients as file names tell them, counted in each part by itself.

    ``images_per_patient`` gives, for each class, the number of patients with that many films.
    ``both_causes`` counts patient numbers that have bacterial as well as viral films.
    """

    patients: int
    images_without_patient: int
    images_per_patient: dict[str, dict[int, int]]
    shared: list[SharedPatients]
    both_causes: int


class DuplicateFacts(msgspec.Struct, frozen=True):
    """Copies, counted and by name."""

    counts: DuplicateCounts
    groups: list[list[str]]


class Distribution(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """One property of the films of one class in one part: its ``QUANTILES`` and mean.

    Grey levels 0 to 255, pixels, or bytes.
    """

    name: str
    part: str
    label: str
    images: int
    quantiles: list[float]
    mean: float


class StrayFiles(msgspec.Struct, frozen=True):
    """Files that have no label: a folder beside those expected, or loose films.

    ``kind`` is as in ``trainer.layout.Stray``; ``path`` is the folder, or the first loose film.
    """

    kind: str
    path: str
    files: int

    @property
    def sentence(self) -> str:
        """What was found and where."""
        if self.kind == "loose":
            return f"{format_count(self.files, 'loose film')}, {self.path} first."
        return f"The folder {self.path} with {format_count(self.files, 'file')}."


class Audit(msgspec.Struct, frozen=True, rename={"images": "films"}):
    """Everything that was found, the content of ``audit.json``."""

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
        """The parts of the set, in their order."""
        return list(dict.fromkeys(count.part for count in self.counts))

    def count(self, part: str, label: str) -> int:
        """Films of one class in one part."""
        return sum(c.images for c in self.counts if (c.part, c.label) == (part, label))


def audit_dataset(root: Path, *, open_test: bool = True) -> Audit:
    """Look through a labelled folder.

    Args:
        root: A folder with NORMAL and PNEUMONIA, or with train, val and test that have them.
        open_test: Whether the labels of the test part may be looked at.

    Raises:
        DatasetError: No such folder, or no film in it that can be used.
    """
    layout = read_layout(root)
    films, unusable = measure_images(layout, open_test=open_test)
    if not films:
        raise DatasetError(
            f"Expected films in the folders NORMAL and PNEUMONIA of {root}, found none"
            + (f" that decodes: {unusable[0].image}: {unusable[0].detail}" if unusable else "."),
            "The folder needs these two, or train, val and test that have them.",
            private=[film.image for film in unusable],
        )
    copies = find_duplicates(films)
    return Audit(
        audit_version=AUDIT_VERSION,
        version=__version__,
        data=root.resolve().name,
        synthetic=is_synthetic(root),
        test_labels_opened=open_test,
        images=len(films),
        counts=_count_images(films),
        patients=_count_patients(films),
        identical=_make_duplicate_facts(copies.identical),
        near_duplicates=_make_duplicate_facts(copies.near_duplicates),
        appearance=list(_compute_distributions(films)),
        shortcut=measure_shortcut(films),
        unusable=unusable,
        strays=_list_strays(layout),
    )


def summarize_audit(audit: Audit) -> DataAudit:
    """The part of an audit that a model card carries."""
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
        images_per_patient={str(films): n for films, n in sorted(per_patient.items())},
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
    """The films by part, class and cause of an audit's short form, in the order of the parts."""
    counts = []
    for name, films in short.images.items():
        part, label, cause = [*name.split(), "", ""][:3]
        if label and not cause:
            cause = "unknown" if label == CLASSES[1] else "normal"
        counts.append(ImageCount(part, label, cause, films))
    order = (*PARTS, WHOLE_SET)
    return sorted(counts, key=lambda count: (order.index(count.part), count.label, count.cause))


def _known_etiology(cause: str) -> str:
    return cause if cause in ETIOLOGIES else ""


def _compute_median_appearance(looks: Sequence[Distribution]) -> list[Appearance]:
    """The medians of each class in each part."""
    medians = {(s.part, s.label, s.name): s.quantiles[QUANTILES.index(0.5)] for s in looks}
    return [
        Appearance(
            part,
            label,
            *(medians[part, label, name] for name in ("width", "height", "brightness", "contrast")),
        )
        for part, label in dict.fromkeys((s.part, s.label) for s in looks)
    ]


def _count_images(films: Sequence[ImageStats]) -> list[ImageCount]:
    counts = Counter((film.part, film.label, film.cause) for film in films)
    return [ImageCount(*place, number) for place, number in counts.items()]


def _count_patients(films: Sequence[ImageStats]) -> PatientCounts:
    known = [film for film in films if film.patient]
    numbers = Counter((film.part, film.label, film.patient) for film in known)
    per_patient: dict[str, Counter[int]] = {}
    for (_, label, _), number in numbers.items():
        per_patient.setdefault(label, Counter())[number] += 1
    causes = {(film.patient, film.cause) for film in known}
    return PatientCounts(
        patients=len({(film.part, film.patient) for film in known}),
        images_without_patient=len(films) - len(known),
        images_per_patient={label: dict(sorted(c.items())) for label, c in per_patient.items()},
        shared=list(_find_shared_patients(known)),
        both_causes=sum(
            (patient, "viral") in causes for patient, cause in causes if cause == "bacterial"
        ),
    )


def _find_shared_patients(known: Sequence[ImageStats]) -> Iterator[SharedPatients]:
    parts = list(dict.fromkeys(film.part for film in known))
    for first, second in combinations(parts, 2):
        films = [[f for f in known if f.part == part] for part in (first, second)]
        both = {f.patient for f in films[0]} & {f.patient for f in films[1]}
        if both:
            of_first, of_second = (sum(f.patient in both for f in part) for part in films)
            same = {(f.patient, f.cause) for f in films[0]} & {
                (f.patient, f.cause) for f in films[1]
            }
            opened = all(f.label for part in films for f in part)
            yield SharedPatients(
                (first, second),
                len(both),
                (of_first, of_second),
                len({patient for patient, _ in same}) if opened else None,
            )


def _make_duplicate_facts(groups: Sequence[DuplicateGroup]) -> DuplicateFacts:
    return DuplicateFacts(
        count_duplicates(groups), [[film.key for film in group] for group in groups]
    )


def _compute_distributions(films: Sequence[ImageStats]) -> Iterator[Distribution]:
    """Every property by part and class, where the class is known."""
    places = dict.fromkeys((film.part, film.label) for film in films if film.label)
    for name, field in APPEARANCE_FIELDS.items():
        for part, label in places:
            values = [getattr(f, field) for f in films if (f.part, f.label) == (part, label)]
            quantiles = np.quantile(values, QUANTILES).round(2).tolist()
            mean = round(float(np.mean(values)), 2)
            yield Distribution(name, part, label, len(values), quantiles, mean)


def _list_strays(layout: Layout) -> list[StrayFiles]:
    return [
        StrayFiles(stray.kind, stray.path.relative_to(layout.root).as_posix(), stray.files)
        for stray in layout.strays
    ]
