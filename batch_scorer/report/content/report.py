"""Everything that a report says, built from the view of a run. Pure: nothing is read or written.

One module of this package writes each part of the report; the fields of ``ReportFacts`` follow the
order of the parts. ``slides`` adds what only the slides say, ``text`` formats single values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.report.content.accuracy import (
    METRIC_TITLES,
    Performance,
    TrainingFacts,
    describe_batch,
    describe_missing_batch_metrics,
    describe_reference,
    describe_training,
)
from batch_scorer.report.content.appendix import Appendix, describe_appendix
from batch_scorer.report.content.branding import NO_BRANDING, BrandFacts, describe_branding
from batch_scorer.report.content.domain_shift import DriftFacts, describe_drift
from batch_scorer.report.content.external import describe_etiology, describe_external
from batch_scorer.report.content.gallery import (
    GalleryGroup,
    build_gallery,
    describe_empty_gallery,
    describe_selection,
)
from batch_scorer.report.content.methods import MethodFacts, describe_methods
from batch_scorer.report.content.model_comparison import ComparisonFacts, describe_comparison
from batch_scorer.report.content.predictions import (
    PredictionListing,
    UnscoredFiles,
    describe_listing,
    describe_unscored,
)
from batch_scorer.report.content.predictive_values import (
    PredictiveValues,
    describe_predictive_values,
)
from batch_scorer.report.content.reliability import (
    IconArrayPair,
    Reliability,
    describe_batch_reliability,
    describe_reliability,
    make_batch_icon_arrays,
    make_icon_arrays,
)
from batch_scorer.report.content.saliency import (
    EvidenceFacts,
    describe_evidence,
    describe_missing_maps,
)
from batch_scorer.report.content.summary import (
    OTHER_HOSPITALS_NOTE,
    Summary,
    describe_summary,
    format_model,
)
from batch_scorer.report.content.text import sanitize_text
from batch_scorer.report.content.unlabelled import LabelFreeEstimates, describe_label_free

if TYPE_CHECKING:
    from batch_scorer.report.content.branding import Branding
    from batch_scorer.report.content.view import RunView


@dataclass(frozen=True)
class ReportFacts:
    """Everything that the report says, in its order."""

    brand: BrandFacts
    run_id: str
    created: str
    model_line: str
    summary: Summary
    gallery: tuple[tuple[GalleryGroup, ...], ...]
    no_gallery_reason: str
    selection: str
    evidence: EvidenceFacts | None
    no_evidence_reason: str
    columns: tuple[str, ...]
    reference: Performance
    reference_icon_arrays: IconArrayPair | None
    reliability: Reliability
    external: tuple[str, ...]
    etiology: tuple[str, ...]
    comparison: ComparisonFacts | None
    batch: Performance | None
    batch_icon_arrays: IconArrayPair | None
    batch_reliability: Reliability | None
    no_batch_reason: str
    label_free: LabelFreeEstimates | None
    training: TrainingFacts
    predictive_values: PredictiveValues
    drift: DriftFacts
    unscored: UnscoredFiles
    listing: PredictionListing
    method: MethodFacts
    appendix: Appendix
    other_hospitals: str = OTHER_HOSPITALS_NOTE


def build_report_facts(view: RunView, branding: Branding = NO_BRANDING) -> ReportFacts:
    """Turn a run into the sentences and tables of its report."""
    manifest, cards = view.manifest, view.cards
    drift = describe_drift(view.drift, view.card)
    return ReportFacts(
        brand=describe_branding(branding),
        run_id=sanitize_text(manifest.run_id, 60),
        created=manifest.finished,
        model_line=format_model(view.model),
        summary=describe_summary(view, drift.short_warning),
        gallery=build_gallery(view),
        no_gallery_reason=describe_empty_gallery(manifest),
        selection=describe_selection(view),
        evidence=describe_evidence(view),
        no_evidence_reason=describe_missing_maps(view),
        columns=tuple(METRIC_TITLES.values()),
        reference=describe_reference(cards),
        reference_icon_arrays=make_icon_arrays(view.card),
        reliability=describe_reliability(cards),
        external=describe_external(cards),
        etiology=describe_etiology(cards),
        comparison=describe_comparison(cards),
        batch=describe_batch(manifest),
        batch_icon_arrays=make_batch_icon_arrays(manifest),
        batch_reliability=describe_batch_reliability(view),
        no_batch_reason=describe_missing_batch_metrics(manifest),
        label_free=describe_label_free(view),
        training=describe_training(cards),
        predictive_values=describe_predictive_values(view),
        drift=drift,
        unscored=describe_unscored(view),
        listing=describe_listing(view),
        method=describe_methods(view),
        appendix=describe_appendix(view),
    )
