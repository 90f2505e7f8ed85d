"""The view of a run that every part of its report reads: the manifest, the rows, their subsets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from batch_scorer.results.drift import measure_drift
from batch_scorer.results.run_dates import select_rows_of_date
from batch_scorer.results.worklist import select_for_review

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.model.card import ModelCard
    from batch_scorer.results.drift import Drift
    from batch_scorer.results.schema import ModelUsed, RunManifest, Score


@dataclass(frozen=True)
class RunView:
    """A finished run.

    ``rows`` has one row per file found, in the order of the files. ``dates`` is empty unless the
    run was scheduled; then it has, for each row, the date of the run that first wrote it.
    """

    manifest: RunManifest
    rows: Sequence[Score]
    dates: Sequence[str] = ()

    @cached_property
    def cards(self) -> list[ModelCard]:
        """The cards of all models, in their order."""
        return [model.card for model in self.manifest.models]

    @property
    def model(self) -> ModelUsed:
        """The deciding model, which is the first."""
        return self.manifest.models[0]

    @property
    def card(self) -> ModelCard:
        """The card of the deciding model."""
        return self.model.card

    @cached_property
    def labelled(self) -> list[Score]:
        """The scored rows with a label."""
        return [row for row in self.rows if row.status == "scored" and row.label]

    @cached_property
    def candidates(self) -> Sequence[Score]:
        """The rows that the gallery selects from: in a scheduled run, only new ones."""
        return select_rows_of_date(self.rows, self.dates, self.manifest.run_date)

    @cached_property
    def images_to_review(self) -> dict[str, list[Score]]:
        """The rows that the gallery shows, by reason."""
        minutes = self.manifest.gallery.review_minutes
        return select_for_review(self.candidates, self.model.threshold, minutes)

    @cached_property
    def drift(self) -> Drift:
        """The drift of the batch against the deciding model's reference images."""
        return measure_drift(self.rows, self.card)
