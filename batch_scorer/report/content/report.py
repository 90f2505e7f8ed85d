"""The numbers of a run as the plain sentences of its report. Pure: nothing is read or written.

What a reader sees is either in the templates or said by one module for each part of the report:
``summary``, ``news``, ``gallery``, ``evidence``, ``performance``, ``people``, ``elsewhere``,
``comparison``, ``estimate``, ``prevalence``, ``drift``, ``listing``, ``method``, ``appendix`` (with
``guidelines``); ``deck`` says what the slides say beyond it, and ``wording`` shows single values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.report.content.accuracy import (
    COLUMNS,
    Performance,
    TrainingFacts,
    describe_batch,
    describe_reference,
    describe_training,
    explain_missing_batch,
)
from batch_scorer.report.content.appendix import Appendix, describe_appendix
from batch_scorer.report.content.branding import PLAIN, BrandFacts, describe_brand
from batch_scorer.report.content.domain_shift import DriftFacts, describe_drift
from batch_scorer.report.content.external import describe_elsewhere, describe_etiology
from batch_scorer.report.content.gallery import (
    Part,
    describe_gallery,
    explain_choice,
    explain_empty_gallery,
)
from batch_scorer.report.content.methods import Method, describe_method
from batch_scorer.report.content.model_comparison import ComparisonFacts, describe_comparison
from batch_scorer.report.content.predictions import Gaps, Listing, describe_gaps, describe_listing
from batch_scorer.report.content.predictive_values import Clinic, describe_clinic
from batch_scorer.report.content.reliability import (
    People,
    Reliability,
    batch_reliability,
    count_batch,
    count_people,
    describe_reliability,
)
from batch_scorer.report.content.saliency import (
    EvidenceFacts,
    describe_evidence,
    explain_missing_maps,
)
from batch_scorer.report.content.summary import (
    OTHER_HOSPITALS,
    Summary,
    describe_summary,
    name_model,
)
from batch_scorer.report.content.text import show_name
from batch_scorer.report.content.unlabelled import LabelFree, describe_label_free
from batch_scorer.results.drift import measure_drift
from batch_scorer.results.run_dates import select_rows_of_date

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.report.content.branding import Branding
    from batch_scorer.results.schema import RunManifest, Score


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
    reference_people: People | None
    reliability: Reliability
    elsewhere: tuple[str, ...]
    etiology: tuple[str, ...]
    comparison: ComparisonFacts | None
    batch: Performance | None
    batch_people: People | None
    batch_reliability: Reliability | None
    no_batch: str
    label_free: LabelFree | None
    training: TrainingFacts
    clinic: Clinic
    drift: DriftFacts
    gaps: Gaps
    listing: Listing
    method: Method
    appendix: Appendix
    other_hospitals: str = OTHER_HOSPITALS


def build_facts(
    manifest: RunManifest,
    rows: Sequence[Score],
    branding: Branding = PLAIN,
    dates: Sequence[str] = (),
) -> ReportFacts:
    """Turn a run into the sentences and tables of its report.

    Args:
        manifest: The run; its first model is the one that decides.
        rows: One per file found, in the order of the files.
        branding: Whose report it is.
        dates: Of a scheduled run, for each row the date of the run that first wrote it.
    """
    cards = [model.card for model in manifest.models]
    shown = select_rows_of_date(rows, dates, manifest.run_date)
    drift = measure_drift(rows, cards[0])
    drift_facts = describe_drift(drift, cards[0])
    return ReportFacts(
        brand=describe_brand(branding),
        run_id=show_name(manifest.run_id, 60),
        created=manifest.finished,
        model_line=name_model(manifest),
        summary=describe_summary(manifest, drift_facts.short),
        gallery=describe_gallery(shown, manifest),
        no_gallery=explain_empty_gallery(manifest),
        choice=explain_choice(shown, manifest),
        evidence=describe_evidence(manifest),
        no_evidence=explain_missing_maps(manifest),
        columns=tuple(COLUMNS.values()),
        reference=describe_reference(manifest),
        reference_people=count_people(cards[0]),
        reliability=describe_reliability(cards),
        elsewhere=describe_elsewhere(cards),
        etiology=describe_etiology(cards),
        comparison=describe_comparison(manifest),
        batch=describe_batch(manifest),
        batch_people=count_batch(manifest),
        batch_reliability=batch_reliability(manifest, rows),
        no_batch=explain_missing_batch(manifest),
        label_free=describe_label_free(manifest, rows, drift),
        training=describe_training(cards),
        clinic=describe_clinic(manifest),
        drift=drift_facts,
        gaps=describe_gaps(rows, manifest),
        listing=describe_listing(rows, manifest),
        method=describe_method(manifest),
        appendix=describe_appendix(manifest, rows),
    )
