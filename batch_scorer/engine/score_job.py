"""A scoring job: its images, models, settings and output."""

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
    """Images to score, the models to use, and the output for the results.

    ``images`` and ``output`` are paths or URLs. ``labels`` is "folders", "none" or a CSV file.
    ``provider`` is "auto", "cpu" or "cuda". ``threads`` defaults to every core available to this
    process; with the engine "ray", it counts the threads of each worker and defaults to one.
    ``keep_atypical`` also scores images that the first model would reject as atypical. ``engine``
    is one of ENGINES.

    ``shard`` selects one share of the images; its results go to a subfolder of ``output``, for
    `merge_shards`. ``identifiers`` says how patient and study identifiers appear in rows.
    ``heatmaps`` selects the report's images that get an evidence map: "flagged", "all" or "none".
    ``review_minutes`` is the time for reviewing the images that the report shows.
    ``core_hour_price`` is the price of a core-hour, for the cost of the run. ``earlier_outputs``
    are other outputs with rows of the same configuration, finished or not, that this job reuses.
    ``access`` limits the files and web addresses that an image list may name.
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
        """Settings of the images that the report shows."""
        return Gallery(self.heatmaps, self.review_minutes)

    @property
    def own_output(self) -> Output:
        """Output for this job's own results: a subfolder for a shard."""
        output = open_output(self.output)
        return output.subfolder(self.shard.folder) if self.shard else output
