"""The records of a run: rows, models, metrics and the manifest in run.json."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batch_scorer.imaging.file_names import parse_patient
from batch_scorer.imaging.heatmap import Peak
from batch_scorer.metrics.classification import METRICS, ConfusionMatrix, Curve, Estimate
from batch_scorer.model.card import ModelCard
from batch_scorer.model.card_checks import check_curves, check_metrics
from batch_scorer.model.card_sections import Probability
from batch_scorer.results.usage import RunCost
from batch_scorer.system.strict_json import (
    Count,
    FiniteFloat,
    LargeCount,
    RunDate,
    Seconds,
    check_run_date,
    check_timestamps,
)

SCHEMA_VERSION: Literal[2] = 2
"""Version of the keys of run.json and of the tables' columns; a changed name needs a new one."""
Heatmaps = Literal["flagged", "all", "none"]
Status = Literal["scored", "rejected", "failed"]
Label = Annotated[str, Meta(pattern=r"^(NORMAL|PNEUMONIA)?\Z")]


class Score(msgspec.Struct, frozen=True, gc=False):
    """The row of one file.

    ``status`` is "scored", "rejected" (readable, but unsuitable) or "failed" (unreadable); the last
    two carry a stable ``reason`` code and a plain ``detail``. ``probabilities`` holds one
    probability per model, in the run's order; the first model decides ``prediction``.
    ``agreement`` is the share of models that agree with the first one, ``spread`` the difference
    between their largest and smallest probability (None with one model). ``undecided`` says whether
    the first model's probability lies in its band, None if its card has no band. ``typicality`` is
    the share of the first model's training images that are at least as atypical as this one;
    ``atypical`` says that this share is too small to trust the probability. ``viral`` is
    P(viral | pneumonia) by the first model. ``brightness`` and ``contrast`` are the mean and the
    standard deviation of the decoded pixels. ``patient`` and ``study`` come from the DICOM header,
    as `deidentify` allows.
    """

    image: str
    status: Status
    reason: str = ""
    detail: str = ""
    label: Label = ""
    prediction: Label = ""
    probabilities: tuple[Probability, ...] = ()
    undecided: bool | None = None
    typicality: Probability | None = None
    atypical: bool | None = None
    viral: Probability | None = None
    agreement: Probability | None = None
    spread: Probability | None = None
    duplicate_of: str = ""
    width_px: Count | None = None
    height_px: Count | None = None
    brightness: FiniteFloat | None = None
    contrast: FiniteFloat | None = None
    patient: str = ""
    sha256: str = ""
    stamp: str = ""
    study: str = ""

    @property
    def probability(self) -> float:
        """P(pneumonia) by the run's first model, for scored rows only."""
        return self.probabilities[0]

    @property
    def patient_key(self) -> str:
        """Key that images of one patient share: the column, else the patient in the file name."""
        return self.patient or parse_patient(self.image)

    def is_complete(self, n_models: int) -> bool:
        """Return whether a scored row has a prediction and all probabilities, and others none.

        Args:
            n_models: Number of models of the run.
        """
        scored = self.status == "scored"
        return len(self.probabilities) == n_models * scored and bool(self.prediction) == scored


class ModelUsed(msgspec.Struct, frozen=True):
    """A model that a run used, with its whole card."""

    file: str
    sha256: str
    card: ModelCard

    @property
    def name(self) -> str:
        """The card's short name, also used for its column."""
        return self.card.name

    @property
    def threshold(self) -> float:
        """The card's operating threshold."""
        return self.card.threshold.value


class Gallery(msgspec.Struct, frozen=True):
    """The images that the report shows, and their evidence maps.

    ``heatmaps`` selects the images that get a map. ``review_minutes`` is the reader's time (None: a
    few images for each reason). ``maps`` holds the peak of each map, by the stem of its image's
    thumbnail; all maps share one scale, whose brightest colour is the highest peak.
    ``no_maps_reason`` explains why requested maps are missing: "unanswered" (the model gives no
    evidence), "model" (its file is missing or has changed) or "films" (the images are missing).
    """

    heatmaps: Heatmaps = "none"
    review_minutes: Count | None = None
    maps: dict[str, Peak] = {}
    no_maps_reason: Literal["", "unanswered", "model", "films"] = ""


class BatchMetrics(msgspec.Struct, frozen=True):
    """Performance of one model on the labelled images of a run."""

    model: str
    images: Count
    pneumonia: Count
    metrics: dict[str, Estimate]
    confusion: ConfusionMatrix
    roc: Curve

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot express."""
        check_metrics(self.metrics, METRICS)
        check_curves(self.roc)


class RunChanges(msgspec.Struct, frozen=True):
    """Changes in a scheduled run since the newest finished one before it.

    ``run_date`` and ``finished`` (ISO 8601) are the earlier run's date and end, ``images`` counts
    its files. ``new`` counts the files that were added, ``changed`` those with another content or
    result, ``gone`` those that were removed. ``flagged`` counts the flagged ones among new and
    changed. ``unchanged`` says that every row is the same, including its label.
    """

    run_date: RunDate
    finished: str
    images: Count
    new: Count
    changed: Count
    gone: Count
    flagged: Count
    unchanged: bool = False

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot express."""
        check_timestamps(self.finished)

    @property
    def new_or_changed(self) -> int:
        """Number of new and changed files, whose rows have this run's date."""
        return self.new + self.changed


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a run that its rows and models do not give.

    ``listed`` counts the files in the source, ``hidden`` those that were skipped. ``config_hash``
    identifies everything but the image that decides a score: models, decode version and options.
    ``reused`` counts the rows reused from an earlier run with the same ``config_hash``. ``shard``
    is "2/10" for one of ten shards, else empty, and ``selected`` counts the files of all shards.
    ``identifiers`` is the treatment of patient and study: hash, keep or drop. ``engine`` is "local"
    or "ray", where each worker has ``threads``. ``run_date`` is the date of a scheduled run
    (``cxr job``), else empty. ``changes`` is None except for a scheduled run after the first.

    ``seconds`` holds the stages in their order: list, start (models), score, record. Within
    "score", ``worker_seconds`` sums read, decode and classify over all threads and workers, which
    together may exceed it. ``retries`` counts the repeated calls to storage, ``bytes_read`` the
    bytes of the images that were scored. ``peak_memory_bytes`` is the peak of this process, or with
    Ray of its largest worker. ``core_seconds`` is the stages' seconds times the available cores
    (with Ray, the cluster's), without the report. Merged shards have the sums, and for
    ``peak_memory_bytes`` the largest value.
    """

    started: str
    finished: str
    source: str
    synthetic: bool
    listed: Count
    hidden: Count
    labels: str
    provider: str
    batch_size: Count
    threads: Count
    seconds: dict[str, Seconds]
    images_per_second: Seconds
    versions: dict[str, str]
    config_hash: str = ""
    reused: Count = 0
    shard: str = ""
    selected: Count = 0
    retries: Count = 0
    identifiers: str = ""
    engine: str = "local"
    gallery: Gallery = Gallery()
    run_date: RunDate = ""
    changes: RunChanges | None = None
    worker_seconds: dict[str, Seconds] = {}
    bytes_read: LargeCount = 0
    peak_memory_bytes: LargeCount = 0
    core_seconds: Seconds = 0.0

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot express."""
        check_timestamps(self.started, self.finished)
        check_run_date(self.run_date)


class RunManifest(RunFacts, frozen=True, kw_only=True):
    """Content of ``run.json``: enough to verify the rows and to draw the report again.

    It holds the facts of the run, its models, and the counts of the commit. ``found`` counts the
    rows, fewer than ``listed`` only with a limit. ``undecided`` is None if the first model has no
    band, ``atypical`` (scored images only) if it has no typicality. ``cost`` is None without a
    core-hour price. ``schema_version`` is the version of these keys and of the columns;
    `old_versions` reads older ones.
    """

    run_id: str
    version: str
    found: Count
    scored: Count
    rejected: Count
    failed: Count
    flagged: Count
    duplicates: Count
    reasons: dict[str, Count]
    labelled: Count
    models: Annotated[list[ModelUsed], Meta(min_length=1)]
    metrics: list[BatchMetrics]
    decode_version: Count
    rows_sha256: str
    parquet_sha256: str
    schema_version: Literal[2] = SCHEMA_VERSION
    undecided: Count | None = None
    atypical: Count | None = None
    cost: RunCost | None = None

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot express."""
        super().__post_init__()
        if any("validation" not in model.card.references for model in self.models):
            raise ValueError("expected figures of the validation images, found none")

    @property
    def facts(self) -> RunFacts:
        """The facts alone, without models and counts."""
        return msgspec.convert(self, RunFacts, from_attributes=True)

    @property
    def not_flagged(self) -> int:
        """Number of images scored below the first model's threshold."""
        return self.scored - self.flagged

    @property
    def not_scored(self) -> int:
        """Number of images rejected or failed."""
        return self.rejected + self.failed
