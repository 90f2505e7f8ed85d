"""The plain records that the stages hand on: what a film is, what was found, what a run was."""

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
"""Of the keys of run.json and the columns of the tables; a changed name is a new version."""
Heatmaps = Literal["flagged", "all", "none"]
Status = Literal["scored", "rejected", "failed"]
Label = Annotated[str, Meta(pattern=r"^(NORMAL|PNEUMONIA)?\Z")]


class Score(msgspec.Struct, frozen=True, gc=False):
    """The row of one file: what became of it.

    ``status`` is "scored", "rejected" (readable, but not to be judged) or "failed" (could not be
    read); the last two carry a stable ``reason`` code and a plain ``detail``. ``probabilities``
    holds one probability per model, in the run's order; the first model decides ``prediction``.
    ``agreement`` is the share of models on the side of the first one, ``spread`` their largest
    minus their smallest probability (None with one model). ``undecided`` says whether the first
    model's answer lies in its band; None where its card has none. ``typicality`` is the share of
    the first model's training films that are at least as strange as this one; ``atypical`` says
    that it is too small to trust the answer. ``viral`` is P(viral | pneumonia) by the first model.
    ``brightness`` and ``contrast`` are the mean and the standard deviation of the decoded pixels.
    ``patient`` and ``study`` are as ``identifiers.py`` lets a DICOM header tell them.
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
        """P(pneumonia) by the run's first model; only for scored rows."""
        return self.probabilities[0]

    @property
    def patient_key(self) -> str:
        """What images of one patient have in common: the column, or else the file's own name."""
        return self.patient or parse_patient(self.image)

    def is_complete(self, models: int) -> bool:
        """Whether it is as a run of so many models writes it: answers of all where it was scored.

        Args:
            models: How many the run had.
        """
        scored = self.status == "scored"
        return len(self.probabilities) == models * scored and bool(self.prediction) == scored


class ModelUsed(msgspec.Struct, frozen=True):
    """A model as it was used in a run, with its whole card."""

    file: str
    sha256: str
    card: ModelCard

    @property
    def name(self) -> str:
        """The card's short name; also the name of its column."""
        return self.card.name

    @property
    def threshold(self) -> float:
        """The card's operating threshold."""
        return self.card.threshold.value


class Gallery(msgspec.Struct, frozen=True):
    """Which films the report shows, and which of them with an evidence map.

    ``heatmaps`` says which films should have one; ``review_minutes`` for how long a reader has time
    to look (None: a few films for each reason). ``maps`` holds the peak of each map that was drawn,
    by the stem of its film's thumbnail; all share one scale, whose brightest colour is the highest
    peak. ``no_maps_reason`` is why there are none although they were asked for: "unanswered" by the model,
    "model" file not at hand or another by then, or "films" not at hand.
    """

    heatmaps: Heatmaps = "none"
    review_minutes: Count | None = None
    maps: dict[str, Peak] = {}
    no_maps_reason: Literal["", "unanswered", "model", "films"] = ""


class BatchMetrics(msgspec.Struct, frozen=True):
    """How one model did on the labelled films of this run."""

    model: str
    images: Count
    pneumonia: Count
    metrics: dict[str, Estimate]
    confusion: ConfusionMatrix
    roc: Curve

    def __post_init__(self) -> None:
        """Check what msgspec's constraints cannot say."""
        check_metrics(self.metrics, METRICS)
        check_curves(self.roc)


class RunChanges(msgspec.Struct, frozen=True):
    """Changes in a scheduled run, against the newest finished one before it.

    ``run_date`` and ``finished`` (ISO 8601) are the earlier run's date and end, ``images`` the files
    that it had. ``new`` files have come since, ``changed`` ones have another content or came out
    otherwise than before, ``gone`` ones are not there any more. ``flagged`` counts the flagged ones
    among new and changed. ``unchanged`` says that every row is as it was, down to its label.
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
        """Check what msgspec's constraints cannot say."""
        check_timestamps(self.finished)

    @property
    def new_or_changed(self) -> int:
        """Files that are new or changed: those whose row has this run's date."""
        return self.new + self.changed


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a run that its rows and models do not tell; whoever made the rows states them.

    ``listed`` files lay in the source, ``hidden`` ones were passed over. ``config_hash`` names what
    decides a score apart from the image: models, decode version and options. ``reused`` rows were
    taken over from an earlier run by the same method. ``shard`` is "2/10" where the run was one of
    ten shares, else empty, and ``selected`` counts the files of all ten. ``identifiers`` says how
    patient and study are told: hash, keep or drop. ``engine`` is "local" or "ray", where each
    worker has ``threads``. ``run_date`` names a scheduled run (``cxr job``), empty elsewhere;
    ``changes`` says what is new in it, None in the first one and elsewhere.

    ``seconds`` by stage, in their order: list, start (models), score, record. Within "score",
    ``worker_seconds`` are sums over all threads and workers for read, decode and classify, so that
    together they may exceed it. ``retries`` counts the calls to storage that were made again,
    ``bytes_read`` the bytes of the images that were read to be scored. ``peak_memory_bytes`` is the
    most memory that one process had: this one, or with Ray the largest of its workers.
    ``core_seconds`` are the stages' seconds times the cores at hand (with Ray, the cluster's; not
    the report's). Of merged shards, all are sums, but for ``peak_memory_bytes``, the largest.
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
        """Check what msgspec's constraints cannot say."""
        check_timestamps(self.started, self.finished)
        check_run_date(self.run_date)


class RunManifest(RunFacts, frozen=True, kw_only=True):
    """Content of ``run.json``: enough to trust the rows and to draw the report again.

    The facts of the run, its models, and what the commit counted. ``found`` files have a row, fewer
    than were listed only with a limit. ``undecided`` is None where the first model has no band,
    ``atypical`` (scored images only) where it has no typicality. ``cost`` is the price of the
    core-seconds where that of a core-hour was stated. ``schema_version`` is that of the keys here
    and of the columns; `old_versions` reads older ones.
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
        """Check what msgspec's constraints cannot say."""
        super().__post_init__()
        if any("validation" not in model.card.references for model in self.models):
            raise ValueError("expected figures of the validation images, found none")

    @property
    def facts(self) -> RunFacts:
        """The facts alone, without models and counts."""
        return msgspec.convert(self, RunFacts, from_attributes=True)

    @property
    def not_flagged(self) -> int:
        """Films scored below the threshold of the first model."""
        return self.scored - self.flagged

    @property
    def not_scored(self) -> int:
        """Films rejected or failed."""
        return self.rejected + self.failed
