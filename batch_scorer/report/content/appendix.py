"""Appendix for the statistician: how every number came about, as the model files tell it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.imaging.file_names import ETIOLOGIES, parse_etiology
from batch_scorer.metrics import classification
from batch_scorer.model.card import CLASSES
from batch_scorer.model.card_sections import find_shared_comparison
from batch_scorer.report.content.guidelines import Item, describe_guidelines
from batch_scorer.report.content.text import (
    count,
    join_words,
    show_estimate,
    show_name,
    show_threshold,
)
from batch_scorer.results.usage import describe_cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import Evaluation
    from batch_scorer.results.schema import RunManifest, Score

NOT_AVAILABLE = "not available"
FEW_FILMS = 5


@dataclass(frozen=True)
class Topic:
    """One heading of the appendix and its paragraphs."""

    title: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class CalibrationRow:
    """How one model was calibrated, and how far off it is by split."""

    model: str
    method: str
    splits: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class Subgroup:
    """One subgroup of the labelled films: sensitivity, and AUC against all normal films."""

    name: str
    images: str
    sensitivity: str
    auc: str


@dataclass(frozen=True)
class Appendix:
    """Part 9."""

    topics: tuple[Topic, ...]
    calibration: tuple[CalibrationRow, ...]
    subgroups: tuple[Subgroup, ...]
    no_subgroups: str
    software: tuple[Topic, ...]
    guidelines: tuple[Item, ...]


def describe_appendix(manifest: RunManifest, rows: Sequence[Score]) -> Appendix:
    """Everything that a statistician needs to judge the numbers of a report."""
    cards = [model.card for model in manifest.models]
    subgroups = _subgroups(manifest, rows)
    return Appendix(
        topics=(
            Topic("Splits and patients", _splits(cards[0])),
            Topic("Training", tuple(_training(card) for card in cards)),
            Topic("Operating threshold", tuple(_threshold(card) for card in cards)),
            Topic("Intervals and tests", _intervals(cards)),
            Topic("Preprocessing", (_preprocessing(manifest),)),
            Topic("Evidence maps", _evidence(cards)),
        ),
        calibration=tuple(_calibration(card) for card in cards),
        subgroups=subgroups,
        no_subgroups=""
        if subgroups
        else f"Sensitivity by cause: {NOT_AVAILABLE}; it needs "
        "labelled films whose names tell the cause, bacteria or virus.",
        software=(
            Topic("Software of this run", (_versions(manifest.versions, manifest.version),)),
            Topic(
                "Software that made the models",
                tuple(f"{show_name(c.title, 60)}: {_versions(c.versions)}" for c in cards),
            ),
            Topic("Time, memory and price of this run", _spending(manifest)),
            Topic("Hashes (SHA-256)", _hashes(manifest)),
        ),
        guidelines=describe_guidelines(manifest, subgroups=bool(subgroups)),
    )


def _splits(card: ModelCard) -> tuple[str, ...]:
    training = card.training
    films = join_words([f"{n:,} {show_name(name, 40)}" for name, n in training.images.items()])
    texts = [
        f"Films by part and class: {films}. {show_name(training.split_policy, 300)}",
        *(
            f"{show_name(name, 40).capitalize()}: {count(found.images, 'film')}, "
            f"{found.pneumonia:,} with pneumonia, "
            + (
                f"of {count(found.patients, 'patient')}."
                if found.patients
                else "patients not known."
            )
            for name, found in _in_order(card)
        ),
    ]
    if card.audit:
        texts += [
            f"{count(number, 'patient number')} in common between {show_name(parts, 60)}; whether "
            "they are the same people is not known."
            for parts, number in card.audit.shared_patients.items()
        ]
    return (*texts, f"Fingerprint of the data: {show_name(training.data_fingerprint, 80)}.")


def _in_order(card: ModelCard) -> list[tuple[str, Evaluation]]:
    """Validation first, then its kin, then test."""
    return sorted(card.references.items(), key=lambda item: (item[0] == "test", len(item[0])))


def _training(card: ModelCard) -> str:
    training = card.training
    return (
        f"{show_name(card.title, 60)}: {training.parameters:,} weights from "
        f"{show_name(training.initial_weights, 60)}; epoch {training.best_epoch} of "
        f"{training.epochs} kept, the one of lowest validation loss; seed {training.seed}; backend "
        f"{show_name(training.backend, 40)}. {show_name(training.imbalance, 300)} Command: "
        f"{show_name(training.command, 300)}. Commit {show_name(training.commit, 60)}."
    )


def _threshold(card: ModelCard) -> str:
    text = (
        f"{show_name(card.title, 60)}: {show_threshold(card.threshold.value)}, "
        f"{show_name(card.threshold.rule, 200)}, chosen on "
        f"{show_name(card.threshold.chosen_on, 60)} films."
    )
    if card.band:
        text += (
            f" Uncertain from {show_threshold(card.band.low)} up to "
            f"{show_threshold(card.band.high)}: {show_name(card.band.rule, 300)}."
        )
    return text


def _intervals(cards: Sequence[ModelCard]) -> tuple[str, ...]:
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
        f"Comparison of the models (section 3): {show_name(comparison.method, 300)}."
        if comparison
        else f"Comparison of models on the same films: {NOT_AVAILABLE}.",
    )


def _preprocessing(manifest: RunManifest) -> str:
    card = manifest.models[0].card
    return (
        f"Decode rules version {manifest.decode_version}: one grey plane, 0 black to 255 white, "
        f"stretched to {card.size_px} by {card.size_px} pixels; normalisation is part of each "
        "model file. Training, calibration and this run decode by the same rules."
    )


def _evidence(cards: Sequence[ModelCard]) -> tuple[str, ...]:
    texts = []
    for card in cards:
        if card.evidence:
            checked = card.evidence.faithfulness
            texts.append(
                f"{show_name(card.title, 60)}: {show_name(card.evidence.method, 200)}, "
                f"{card.evidence.height} by {card.evidence.width} places. On {checked.images:,} "
                "validation films with pneumonia, blurring the "
                f"{100 * checked.steps[1]:.0f} of 100 places of most evidence lowers the logit by "
                f"{_signed(checked.deletion[1])}, as many at random by "
                f"{_signed(checked.random_deletion[1])}; rank correlation with shuffled weights "
                f"{_signed(checked.randomised_correlation)}."
            )
    return tuple(texts) or (f"{NOT_AVAILABLE.capitalize()}.",)


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _calibration(card: ModelCard) -> CalibrationRow:
    found = card.calibration
    return CalibrationRow(
        model=show_name(card.title, 60),
        method=f"{show_name(found.method, 60)}: slope {found.slope:.3f}, intercept "
        f"{found.intercept:.3f}; fitted on {show_name(found.fitted_on, 80)}",
        splits=tuple(
            (
                show_name(name, 40),
                f"{reference.images:,}",
                show_estimate(reference.metrics["ece"]),
                show_estimate(reference.metrics["brier"]),
            )
            for name, reference in _in_order(card)
        ),
    )


def _subgroups(manifest: RunManifest, rows: Sequence[Score]) -> tuple[Subgroup, ...]:
    """Sensitivity of the first model by cause, where labels and file names tell it."""
    labelled = [row for row in rows if row.status == "scored" and row.label]
    well = [row for row in labelled if row.label == CLASSES[0]]
    found = []
    for cause in ETIOLOGIES:
        ill = [r for r in labelled if r.label == CLASSES[1] and parse_etiology(r.image) == cause]
        if len(ill) < FEW_FILMS:
            continue
        group = [*ill, *well]
        patients = [row.patient_key for row in group]
        values = classification.compute_metrics(
            [CLASSES.index(row.label) for row in group],
            [row.probability for row in group],
            manifest.models[0].threshold,
            patients if all(patients) else None,
        )
        found.append(
            Subgroup(
                name=f"{cause.capitalize()} pneumonia",
                images=f"{len(ill):,}",
                sensitivity=show_estimate(values["recall"]),
                auc=show_estimate(values["auc"]),
            )
        )
    return tuple(found)


def _versions(versions: dict[str, str], own: str = "") -> str:
    named = {"cxr-batch": own, **versions} if own else versions
    return ", ".join(f"{show_name(n, 40)} {show_name(v, 40)}" for n, v in named.items()) + "."


def _spending(manifest: RunManifest) -> tuple[str, ...]:
    texts = [f"Seconds by stage, without the drawing of this report: {_seconds(manifest.seconds)}."]
    if manifest.worker_seconds:
        texts.append(
            "Within score, summed over all threads and workers, so that together they may exceed "
            f"it: {_seconds(manifest.worker_seconds)}."
        )
        texts.append(
            f"{manifest.images_per_second:,.1f} films a second; "
            f"{manifest.bytes_read / 1e6:,.1f} MB of films read; "
            f"{count(manifest.retries, 'call')} to storage made again; one process had at most "
            f"{manifest.peak_memory_bytes / 1e6:,.0f} MB of memory."
        )
    if manifest.cost:
        texts.append(
            f"{show_name(describe_cost(manifest.cost, manifest.core_seconds))}. That is the "
            "seconds by stage times the cores at hand, at the price of a core-hour, for the films "
            "that this run itself read: an estimate, without storage, network and idle time."
        )
    return tuple(texts)


def _seconds(parts: dict[str, float]) -> str:
    return ", ".join(f"{show_name(name, 40)} {value:,.2f}" for name, value in parts.items())


def _hashes(manifest: RunManifest) -> tuple[str, ...]:
    files = {show_name(model.file, 60): model.sha256 for model in manifest.models}
    files |= {
        "predictions.csv": manifest.rows_sha256,
        "predictions.parquet": manifest.parquet_sha256,
    }
    return tuple(f"{name}: {sha256}" for name, sha256 in files.items())
