"""What is wrong with the films a model learned from, in short: the part of a card that says so."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from batch_scorer.metrics.classification import Estimate
from batch_scorer.system.strict_json import Count, Number


class CopyCounts(msgspec.Struct, frozen=True):
    """Groups of films that are copies of each other.

    ``within`` and ``across`` name the parts of the data set: "train", or "train and test".
    ``mixed_labels`` are groups whose films have different labels, ``mixed_patients`` those whose
    file names tell different patients.
    """

    groups: Count
    films: Count
    within: dict[str, Count]
    across: dict[str, Count]
    mixed_labels: Count
    mixed_patients: Count


class Looks(msgspec.Struct, frozen=True):
    """The median film of one class in one part: pixels a side, and grey from 0 to 255."""

    part: str
    label: str
    width_px: Number
    height_px: Number
    brightness: Number
    contrast: Number


class DataAudit(msgspec.Struct, frozen=True):
    """What ``cxr audit`` counts, in short.

    Parts are those that the data set came in ("train", "val", "test", or "all"), not those that
    training split it into. ``films`` is keyed by part, class and, where file names tell it, cause:
    "train PNEUMONIA viral". ``films_per_patient`` gives the number of patients with that many films
    in one part; ``shared_patients`` the patient numbers found in two parts, and
    ``shared_with_same_cause`` those of them whose films have one cause in both, where labels were
    opened. ``metadata_auc`` is what the film's size, brightness, contrast and file size reach
    without a look at any place in it, keyed by "cross-validation" and, where its labels were
    opened, "test".
    """

    films: dict[str, Count]
    patients: Count
    films_without_patient: Count
    films_per_patient: dict[Annotated[str, Meta(pattern=r"^[0-9]{1,9}\Z")], Count]
    shared_patients: dict[str, Count]
    shared_with_same_cause: dict[str, Count]
    identical: CopyCounts
    alike: CopyCounts
    looks: list[Looks]
    metadata_auc: dict[str, Estimate]
