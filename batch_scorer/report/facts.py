"""The numbers of a run as the plain sentences of its report. Pure: nothing is read or written.

What a reader sees is either in the templates or said by one module for each part of the report:
``summary``, ``gallery``, ``evidence``, ``performance``, ``elsewhere``, ``comparison``, ``listing``,
``method``;
``wording`` shows single values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.report.branding import PLAIN, BrandFacts, describe_brand
from batch_scorer.report.comparison import ComparisonFacts, describe_comparison
from batch_scorer.report.elsewhere import describe_elsewhere, describe_etiology
from batch_scorer.report.evidence import EvidenceFacts, describe_evidence, explain_missing_maps
from batch_scorer.report.gallery import (
    Part,
    describe_gallery,
    explain_choice,
    explain_empty_gallery,
)
from batch_scorer.report.listing import Gaps, Listing, describe_gaps, describe_listing
from batch_scorer.report.method import Method, describe_method
from batch_scorer.report.performance import (
    COLUMNS,
    Performance,
    TrainingFacts,
    describe_batch,
    describe_reference,
    describe_training,
    explain_missing_batch,
)
from batch_scorer.report.summary import OTHER_HOSPITALS, Summary, describe_summary, name_model
from batch_scorer.report.wording import show_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.records import RunManifest, Score
    from batch_scorer.report.branding import Branding


@dataclass(frozen=True)
class ReportFacts:
    """Everything that the report says, in its order."""

    brand: BrandFacts
    run_id: str
    created: str
    model_line: str
    summary: Summary
    gallery: tuple[tuple[Part, ...], ...]
    no_gallery: str
    choice: str
    evidence: EvidenceFacts | None
    no_evidence: str
    columns: tuple[str, ...]
    reference: Performance
    elsewhere: tuple[str, ...]
    etiology: tuple[str, ...]
    comparison: ComparisonFacts | None
    batch: Performance | None
    no_batch: str
    training: TrainingFacts
    gaps: Gaps
    listing: Listing
    method: Method
    other_hospitals: str = OTHER_HOSPITALS


def build_facts(
    manifest: RunManifest, rows: Sequence[Score], branding: Branding = PLAIN
) -> ReportFacts:
    """Turn a run into the sentences and tables of its report.

    Args:
        manifest: The run; its first model is the one that decides.
        rows: One per file found, in the order of the files.
        branding: Whose report it is.
    """
    return ReportFacts(
        brand=describe_brand(branding),
        run_id=show_name(manifest.run_id, 60),
        created=manifest.finished,
        model_line=name_model(manifest),
        summary=describe_summary(manifest),
        gallery=describe_gallery(rows, manifest),
        no_gallery=explain_empty_gallery(manifest),
        choice=explain_choice(rows, manifest),
        evidence=describe_evidence(manifest),
        no_evidence=explain_missing_maps(manifest),
        columns=tuple(COLUMNS.values()),
        reference=describe_reference(manifest),
        elsewhere=describe_elsewhere([model.card for model in manifest.models]),
        etiology=describe_etiology([model.card for model in manifest.models]),
        comparison=describe_comparison(manifest),
        batch=describe_batch(manifest),
        no_batch=explain_missing_batch(manifest),
        training=describe_training([model.card for model in manifest.models]),
        gaps=describe_gaps(rows, manifest),
        listing=describe_listing(rows, manifest),
        method=describe_method(manifest),
    )
