"""A job of the scorer: what to score, with which models, and where the results go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batch_scorer.imaging.deidentify import Deidentifier
from batch_scorer.results.schema import Gallery
from batch_scorer.storage.access import AccessPolicy
from batch_scorer.storage.output import open_output
from batch_scorer.system.process import BATCH_SIZE

if TYPE_CHECKING:
    from batch_scorer.results.schema import Heatmaps
    from batch_scorer.results.shards import Shard
    from batch_scorer.results.usage import CoreHourPrice
    from batch_scorer.storage.output import Output


@dataclass(frozen=True)
class ScoreJob:
    """What to score, with which models, and where the results go.

    ``images`` and ``output`` are paths or URLs. ``labels`` is "folders", "none" or a CSV file;
    ``provider`` is "auto", "cpu" or "cuda"; ``threads`` is every core that this process may use
    unless given. ``keep_atypical`` scores also what looks like no film that the first model knows.
    ``engine`` is one of ENGINES; with "ray", each worker has ``threads``, one unless given.
    ``shard`` takes one share of the films; its results lie in a folder of their own below
    ``output``, for `merge_shards`. ``identifiers`` says how patient and study are told.
    ``heatmaps`` says which films of the report get an evidence map: "flagged", "all" or "none";
    ``review_minutes`` is the time for looking at the films it shows. ``core_hour_price`` is what a core
    costs, where the price of the run is to be told. ``earlier_outputs`` are other places with rows by the
    same method, finished or not, that this job takes over too. ``access`` says what a list and web
    addresses may lead to.
    """

    images: str
    output: str
    models: tuple[str, ...]
    labels: str = "folders"
    provider: str = "auto"
    batch_size: int = BATCH_SIZE
    threads: int | None = None
    limit: int | None = None
    keep_atypical: bool = False
    shard: Shard | None = None
    engine: str = "local"
    identifiers: Deidentifier = field(default_factory=Deidentifier)
    heatmaps: Heatmaps = "flagged"
    review_minutes: int | None = None
    core_hour_price: CoreHourPrice | None = None
    earlier_outputs: tuple[Output, ...] = ()
    access: AccessPolicy = field(default_factory=AccessPolicy)

    @property
    def gallery(self) -> Gallery:
        """Which films the report shows, and which of them with an evidence map."""
        return Gallery(self.heatmaps, self.review_minutes)

    @property
    def place(self) -> Output:
        """Where this job's own results lie."""
        output = open_output(self.output)
        return output.subfolder(self.shard.folder) if self.shard else output
