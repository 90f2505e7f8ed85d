"""The plain records that the stages hand on: what a film is, what was found, what a run was."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import msgspec

from batch_scorer.metrics import Confusion, Curve, Estimate

_KAGGLE_PATIENT = re.compile(r"^(person\d+)_(?:bacteria|virus)_|^((?:NORMAL\d*-)?IM-\d+)-")


def patient_of(key: str) -> str:
    """Read the patient from a file name of the Kermany set; empty where it names none.

    ``person12_virus_7.jpeg`` is of person12, ``NORMAL2-IM-0927-0001.jpeg`` of NORMAL2-IM-0927.
    """
    match = _KAGGLE_PATIENT.match(PurePosixPath(key).name)
    return (match[1] or match[2]) if match else ""


class ImageRef(msgspec.Struct, frozen=True):
    """One file to score. ``key`` is its POSIX path relative to the root."""

    key: str
    path: str
    size_bytes: int


class Score(msgspec.Struct, frozen=True):
    """The row of one file: what became of it.

    ``status`` is "scored", "rejected" (readable, but not to be judged) or "failed" (could not be
    read); the last two carry a stable ``reason`` code and a plain ``detail``. ``probabilities``
    holds one probability per model, in the run's order; the first model decides ``prediction``.
    ``agreement`` is the share of models on the side of the first one.
    """

    image: str
    status: str
    reason: str = ""
    detail: str = ""
    label: str = ""
    prediction: str = ""
    probabilities: tuple[float, ...] = ()
    agreement: float | None = None
    duplicate_of: str = ""
    width_px: int | None = None
    height_px: int | None = None
    patient: str = ""
    sha256: str = ""

    @property
    def probability(self) -> float:
        """P(pneumonia) by the run's first model; only for scored rows."""
        return self.probabilities[0]


class ModelUsed(msgspec.Struct, frozen=True):
    """A model as it was used in a run."""

    name: str
    title: str
    file: str
    sha256: str
    threshold: float
    size_px: int


class BatchMetrics(msgspec.Struct, frozen=True):
    """How one model did on the labelled films of this run."""

    model: str
    films: int
    pneumonia: int
    metrics: dict[str, Estimate]
    confusion: Confusion
    roc: Curve


class RunManifest(msgspec.Struct, frozen=True):
    """What ``run.json`` holds: enough to trust the rows and to draw the report again."""

    run_id: str
    version: str
    started: str
    finished: str
    source: str
    found: int
    scored: int
    rejected: int
    failed: int
    hidden: int
    flagged: int
    duplicates: int
    reasons: dict[str, int]
    labels: str
    labelled: int
    models: list[ModelUsed]
    metrics: list[BatchMetrics]
    provider: str
    decode_version: int
    batch_size: int
    threads: int
    seconds: dict[str, float]
    images_per_second: float
    rows_sha256: str
    versions: dict[str, str]
