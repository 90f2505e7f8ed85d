"""The appendix for statisticians: the origin of every number, from model cards. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.imaging.file_names import ETIOLOGIES, parse_etiology
from batch_scorer.metrics import classification
from batch_scorer.model.card import CLASSES
from batch_scorer.model.card_sections import find_shared_comparison
from batch_scorer.report.content.guidelines import GuidelineItem, describe_guidelines
from batch_scorer.report.content.text import (
    format_count,
    format_estimate,
    format_threshold,
    format_title,
    join_words,
    sanitize_text,
)
from batch_scorer.results.usage import describe_cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import Evaluation
    from batch_scorer.report.content.view import RunView
    from batch_scorer.results.schema import RunManifest

NOT_AVAILABLE = "not available"
MIN_SUBGROUP_IMAGES = 5


@dataclass(frozen=True)
class Topic:
    """One heading of the appendix and its paragraphs."""

    title: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class CalibrationRow:
    """One model's calibration method, and its calibration error by split."""

    model: str
    method: str
    splits: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class Subgroup:
    """One subgroup of the labelled images: sensitivity, and AUC against all normal images."""

    name: str
    images: str
    sensitivity: str
    auc: str


@dataclass(frozen=True)
class Appendix:
    """Part 9 of the report."""

    topics: tuple[Topic, ...]
    calibration: tuple[CalibrationRow, ...]
    subgroups: tuple[Subgroup, ...]
    no_subgroups_reason: str
    software: tuple[Topic, ...]
    guidelines: tuple[GuidelineItem, ...]


def describe_appendix(view: RunView) -> Appendix:
    """Describe everything that a statistician needs to judge the numbers of a report."""
    manifest, cards = view.manifest, view.cards
    subgroups = _compute_subgroups(view)
    return Appendix(
        topics=(
            Topic("Splits and patients", _describe_splits(cards[0])),
            Topic("Training", tuple(_describe_training(card) for card in cards)),
            Topic("Operating threshold", tuple(_describe_threshold(card) for card in cards)),
            Topic("Intervals and tests", _describe_statistics(cards)),
            Topic("Preprocessing", (_describe_preprocessing(view),)),
            Topic("Evidence maps", _describe_evidence(cards)),
        ),
        calibration=tuple(_make_calibration_row(card) for card in cards),
        subgroups=subgroups,
        no_subgroups_reason=""
        if subgroups
        else f"Sensitivity by cause: {NOT_AVAILABLE}; it needs "
        "labelled films whose names tell the cause, bacteria or virus.",
        software=(
            Topic("Software of this run", (_format_versions(manifest.versions, manifest.version),)),
            Topic(
                "Software that made the models",
                tuple(f"{format_title(c)}: {_format_versions(c.versions)}" for c in cards),
            ),
            Topic("Time, memory and price of this run", _describe_resources(manifest)),
            Topic("Hashes (SHA-256)", _format_hashes(manifest)),
        ),
        guidelines=describe_guidelines(view, subgroups=bool(subgroups)),
    )


def _describe_splits(card: ModelCard) -> tuple[str, ...]:
    training = card.training
    counts = join_words([f"{n:,} {sanitize_text(name, 40)}" for name, n in training.images.items()])
    texts = [
        f"Films by part and class: {counts}. {sanitize_text(training.split_policy, 300)}",
        *(
            f"{sanitize_text(name, 40).capitalize()}: {format_count(reference.images, 'film')}, "
            f"{reference.pneumonia:,} with pneumonia, "
            + (
                f"of {format_count(reference.patients, 'patient')}."
                if reference.patients
                else "patients not known."
            )
            for name, reference in _sort_references(card)
        ),
    ]
    if card.audit:
        texts += [
            f"{format_count(number, 'patient number')} in common between "
            f"{sanitize_text(parts, 60)}; whether they are the same people is not known."
            for parts, number in card.audit.shared_patients.items()
        ]
    return (*texts, f"Fingerprint of the data: {sanitize_text(training.data_fingerprint, 80)}.")


def _sort_references(card: ModelCard) -> list[tuple[str, Evaluation]]:
    """Sort the reference sets: validation, its variants, then test."""
    return sorted(card.references.items(), key=lambda item: (item[0] == "test", len(item[0])))


def _describe_training(card: ModelCard) -> str:
    training = card.training
    return (
        f"{format_title(card)}: {training.parameters:,} weights from "
        f"{sanitize_text(training.initial_weights, 60)}; epoch {training.best_epoch} of "
        f"{training.epochs} kept, the one of lowest validation loss; seed {training.seed}; backend "
        f"{sanitize_text(training.backend, 40)}. {sanitize_text(training.imbalance, 300)} Command: "
        f"{sanitize_text(training.command, 300)}. Commit {sanitize_text(training.commit, 60)}."
    )


def _describe_threshold(card: ModelCard) -> str:
    text = (
        f"{format_title(card)}: {format_threshold(card.threshold.value)}, "
        f"{sanitize_text(card.threshold.rule, 200)}, chosen on "
        f"{sanitize_text(card.threshold.chosen_on, 60)} films."
    )
    if card.band:
        text += (
            f" Uncertain from {format_threshold(card.band.low)} up to "
            f"{format_threshold(card.band.high)}: {sanitize_text(card.band.rule, 300)}."
        )
    return text


def _describe_statistics(cards: Sequence[ModelCard]) -> tuple[str, ...]:
    comparison = find_shared_comparison(cards)
    return (
        f"Metrics: percentile bootstrap of {classification.RESAMPLES:,} draws of patients where "
        "patients are known and several films are of one, else Wilson for shares and a bootstrap "
        "of films for the rest; Wilson where a share is 0 or 1. AUC and Brier score from "
        f"probabilities, ECE over {classification.CALIBRATION_BINS} equal bins.",
        "Predictive values: log likelihood ratio, the intervals of sensitivity and specificity "
        "joined by squares (Zou and Donner 2008); prevalence as given, without error.",
        "Prevalence without labels: Rogan and Gladen 1978, interval of Lang and Reiczigel 2014. "
        "Expected errors: sums of probabilities, normal interval of a Poisson binomial "
        "distribution. Drift: Kolmogorov and Smirnov, one sample.",
        f"Comparison of the models (section 3): {sanitize_text(comparison.method, 300)}."
        if comparison
        else f"Comparison of models on the same films: {NOT_AVAILABLE}.",
    )


def _describe_preprocessing(view: RunView) -> str:
    size_px = view.card.size_px
    return (
        f"Decode rules version {view.manifest.decode_version}: one grey plane, 0 black to 255 "
        f"white, stretched to {size_px} by {size_px} pixels; normalisation is part of each model "
        "file. Training, calibration and this run decode by the same rules."
    )


def _describe_evidence(cards: Sequence[ModelCard]) -> tuple[str, ...]:
    texts = []
    for card in cards:
        if card.evidence:
            checks = card.evidence.faithfulness
            texts.append(
                f"{format_title(card)}: {sanitize_text(card.evidence.method, 200)}, "
                f"{card.evidence.height} by {card.evidence.width} places. On {checks.images:,} "
                f"validation films with pneumonia, blurring the {100 * checks.steps[1]:.0f} of "
                "100 places of most evidence lowers the logit by "
                f"{_format_signed(checks.deletion[1])}, as many at random by "
                f"{_format_signed(checks.random_deletion[1])}; rank correlation with shuffled "
                f"weights {_format_signed(checks.randomised_correlation)}."
            )
    return tuple(texts) or (f"{NOT_AVAILABLE.capitalize()}.",)


def _format_signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _make_calibration_row(card: ModelCard) -> CalibrationRow:
    calibration = card.calibration
    return CalibrationRow(
        model=format_title(card),
        method=f"{sanitize_text(calibration.method, 60)}: slope {calibration.slope:.3f}, intercept "
        f"{calibration.intercept:.3f}; fitted on {sanitize_text(calibration.fitted_on, 80)}",
        splits=tuple(
            (
                sanitize_text(name, 40),
                f"{reference.images:,}",
                format_estimate(reference.metrics["ece"]),
                format_estimate(reference.metrics["brier"]),
            )
            for name, reference in _sort_references(card)
        ),
    )


def _compute_subgroups(view: RunView) -> tuple[Subgroup, ...]:
    """Compute the first model's metrics by etiology, where labels and file names give it."""
    normal = [row for row in view.labelled if row.label == CLASSES[0]]
    subgroups = []
    for etiology in ETIOLOGIES:
        diseased = [
            r
            for r in view.labelled
            if r.label == CLASSES[1] and parse_etiology(r.image) == etiology
        ]
        if len(diseased) < MIN_SUBGROUP_IMAGES:
            continue
        group = [*diseased, *normal]
        patients = [row.patient_key for row in group]
        values = classification.compute_metrics(
            [CLASSES.index(row.label) for row in group],
            [row.probability for row in group],
            view.model.threshold,
            patients if all(patients) else None,
        )
        subgroups.append(
            Subgroup(
                name=f"{etiology.capitalize()} pneumonia",
                images=f"{len(diseased):,}",
                sensitivity=format_estimate(values["recall"]),
                auc=format_estimate(values["auc"]),
            )
        )
    return tuple(subgroups)


def _format_versions(versions: dict[str, str], own: str = "") -> str:
    named = {"cxr-batch": own, **versions} if own else versions
    return (
        ", ".join(f"{sanitize_text(n, 40)} {sanitize_text(v, 40)}" for n, v in named.items()) + "."
    )


def _describe_resources(manifest: RunManifest) -> tuple[str, ...]:
    texts = [
        "Seconds by stage, without the drawing of this report: "
        f"{_format_seconds(manifest.seconds)}."
    ]
    if manifest.worker_seconds:
        texts.append(
            "Within score, summed over all threads and workers, so that together they may exceed "
            f"it: {_format_seconds(manifest.worker_seconds)}."
        )
        texts.append(
            f"{manifest.images_per_second:,.1f} films a second; {manifest.bytes_read / 1e6:,.1f} "
            f"MB of films read; {format_count(manifest.retries, 'call')} to storage made again; "
            f"one process had at most {manifest.peak_memory_bytes / 1e6:,.0f} MB of memory."
        )
    if manifest.cost:
        texts.append(
            f"{sanitize_text(describe_cost(manifest.cost, manifest.core_seconds))}. That is the "
            "seconds by stage times the cores at hand, at the price of a core-hour, for the films "
            "that this run itself read: an estimate, without storage, network and idle time."
        )
    return tuple(texts)


def _format_seconds(parts: dict[str, float]) -> str:
    return ", ".join(f"{sanitize_text(name, 40)} {value:,.2f}" for name, value in parts.items())


def _format_hashes(manifest: RunManifest) -> tuple[str, ...]:
    files = {sanitize_text(model.file, 60): model.sha256 for model in manifest.models}
    files |= {
        "predictions.csv": manifest.rows_sha256,
        "predictions.parquet": manifest.parquet_sha256,
    }
    return tuple(f"{name}: {sha256}" for name, sha256 in files.items())
