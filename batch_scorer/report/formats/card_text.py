"""A model card as plain text for a terminal. Pure functions."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from batch_scorer.report.content.accuracy import format_split
from batch_scorer.report.content.external import describe_external_dataset, describe_model_etiology
from batch_scorer.report.content.model_comparison import describe_ranking
from batch_scorer.report.content.summary import OTHER_HOSPITALS_NOTE
from batch_scorer.report.content.text import (
    format_change,
    format_count,
    format_interval,
    format_per_hundred,
    format_threshold,
    format_title,
    format_value,
    sanitize_text,
)

if TYPE_CHECKING:
    from batch_scorer.metrics.classification import Estimate
    from batch_scorer.model.card import ModelCard

LINE_CHARS = 88
METRICS_SECTION = "Performance"
METRIC_DESCRIPTIONS = {
    "accuracy": ("accuracy", "share of correct predictions"),
    "precision": ("precision", "share of flagged X-rays that show pneumonia"),
    "recall": ("recall", "sensitivity: share of X-rays with pneumonia flagged"),
    "specificity": ("specificity", "share of normal X-rays not flagged"),
    "f1": ("F1", "precision and recall in one number"),
    "auc": ("AUC", "ranks pneumonia above normal; 0.5 is chance"),
    "brier": ("Brier", "squared error of the probabilities; 0 is best"),
    "ece": ("ECE", "gap between probability and frequency; 0 is best"),
}


def format_card(card: ModelCard) -> str:
    """Format a model card for a newcomer, in lines of at most ``LINE_CHARS`` characters."""
    sections = describe_card(card)
    sections[METRICS_SECTION] += _format_metrics(card)
    lines = [
        f"{format_title(card)} ({sanitize_text(card.name, 40)})",
        *_wrap_text(sanitize_text(card.summary, 600), ""),
        "Research use only, not a medical device.",
    ]
    for title, texts in sections.items():
        lines += ["", title]
        for text in texts:
            lines += [text] if text.startswith(" ") else _wrap_text(text, "  ")
    return "\n".join(lines)


def describe_card(card: ModelCard) -> dict[str, list[str]]:
    """Describe a model in sections by title: sentences, and list items that start with "- ".

    The section ``METRICS_SECTION`` lacks the table of ``METRIC_DESCRIPTIONS``.
    """
    return {
        METRICS_SECTION: [_describe_reference(card)],
        "Operating threshold": _describe_threshold(card),
        "Calibration": _describe_calibration(card),
        "Other outputs": _describe_other_outputs(card),
        "External data sets": _describe_external(card),
        "Comparison with the other models": _describe_comparison(card),
        "Training": _describe_training(card),
        "Number format": _describe_precision(card),
        "Known limits": _describe_limits(card),
        "Versions": [_format_versions(card)],
    }


def _wrap_text(text: str, indent: str) -> list[str]:
    hanging = indent + "  " * text.startswith("- ")
    return textwrap.wrap(text, LINE_CHARS, initial_indent=indent, subsequent_indent=hanging)


def _describe_reference(card: ModelCard) -> str:
    reference, values = card.reference, card.reference.metrics
    patients = f" of {format_count(reference.patients, 'patient')}" if reference.patients else ""
    return (
        f"On the {reference.images:,} {format_split(card)}{patients}, {reference.pneumonia:,} "
        "with pneumonia: of 100 X-rays with pneumonia it flags "
        f"{format_per_hundred(values['recall'])}; of 100 normal X-rays it wrongly flags "
        f"{format_per_hundred(values['specificity'], inverse=True)}."
    )


def _format_metrics(card: ModelCard) -> list[str]:
    values = card.reference.metrics
    return [
        f"  {name:12s}{format_value(values[key]):6s} {format_interval(values[key]):15s} {meaning}"
        for key, (name, meaning) in METRIC_DESCRIPTIONS.items()
    ]


def _describe_threshold(card: ModelCard) -> list[str]:
    threshold, band = card.threshold, card.band
    texts = [
        f"At a probability of {format_threshold(threshold.value)} or more: "
        f"{sanitize_text(threshold.rule, 300)}, chosen on "
        f"{sanitize_text(threshold.chosen_on, 40)} films."
    ]
    if band is None:
        return [*texts, "It leaves no X-ray undecided."]
    return [
        *texts,
        f"From {format_threshold(band.low)} to {format_threshold(band.high)} an X-ray is "
        f"undecided: {sanitize_text(band.rule, 400)}. Of 100 {sanitize_text(band.chosen_on, 40)} "
        f"films, {format_per_hundred(band.share)} are undecided.",
    ]


def _describe_calibration(card: ModelCard) -> list[str]:
    calibration = card.calibration
    texts = [
        f"{sanitize_text(calibration.method, 60)}, fitted on "
        f"{sanitize_text(calibration.fitted_on, 40)}."
    ]
    if calibration.ece_after is not None and calibration.brier_after is not None:
        texts.append(
            f"On the same X-rays the ECE went from {calibration.ece_before:.3f} to "
            f"{calibration.ece_after:.3f} and the Brier score from {calibration.brier_before:.3f} "
            f"to {calibration.brier_after:.3f}. Both are worse on other X-rays."
        )
    own = card.reference.metrics
    texts.append(
        f"On the {format_split(card)} the ECE is {format_value(own['ece'])} and the Brier score "
        f"{format_value(own['brier'])}."
    )
    return texts


def _describe_other_outputs(card: ModelCard) -> list[str]:
    """Describe the outputs beside the probability."""
    texts = []
    if card.evidence:
        checks = card.evidence.faithfulness
        texts.append(
            f"- Evidence map, {card.evidence.height} by {card.evidence.width} cells "
            f"({card.evidence.method}). On {checks.images} X-rays with pneumonia, blurring the "
            f"tenth of cells with the most evidence lowers the logit by {checks.deletion[1]:.2f}, "
            f"blurring a random tenth by {checks.random_deletion[1]:.2f}. The rank correlation "
            f"with the map of shuffled weights is {checks.randomised_correlation:.2f}."
        )
    if card.typicality:
        shares = "; ".join(
            f"{sanitize_text(name, 40)} {_format_percent(rejected)} and {_format_percent(flagged)}"
            for name, rejected, flagged in (
                (name, card.typicality.rejected[name], card.typicality.flagged[name])
                for name in card.typicality.flagged
            )
        )
        texts.append(
            "- Typicality: an image far from the training images is not scored; one at their "
            f"edge is flagged as atypical. Shares not scored and atypical, by data set: {shares}."
        )
    if etiology := describe_model_etiology(card):
        texts.append(f"- Bacterial or viral, a weaker output for study only: {etiology}")
    return texts or ["It has no other outputs."]


def _format_percent(share: Estimate) -> str:
    """Format a share in per cent, with one decimal."""
    return "not defined" if share.value is None else f"{share.value:.1%}"


def _describe_precision(card: ModelCard) -> list[str]:
    precision = card.precision
    if precision is None:
        return ["Float32, as trained."]
    ranges = f", its ranges from {precision.calibrated_on}" if precision.calibrated_on else ""
    return [
        f"Convolutions in {precision.kind}{ranges}. Metrics, threshold and calibration on this "
        "page belong to the float32 network.",
        f"On {precision.images:,} validation X-rays this file has an AUC of {precision.auc:.4f} "
        f"(a change of {format_change(precision.auc_difference)}). A probability differs by at "
        f"most {precision.largest_difference:.4f}; {len(precision.flips)} predictions differ.",
        *(f"- {sanitize_text(image, 80)}" for image in precision.flips),
    ]


def _describe_external(card: ModelCard) -> list[str]:
    return [describe_external_dataset(dataset, "it") for dataset in card.external] or [
        "Not measured."
    ]


def _describe_comparison(card: ModelCard) -> list[str]:
    if card.comparison is None:
        return ["Not compared."]
    return [describe_ranking(card.comparison), f"By {sanitize_text(card.comparison.method, 300)}."]


def _describe_training(card: ModelCard) -> list[str]:
    training = card.training
    images = ", ".join(f"{number:,} {name}" for name, number in training.images.items())
    return [
        f"Data set {sanitize_text(training.data, 60)}: {sanitize_text(images, 300)} films.",
        sanitize_text(training.split_policy, 500),
        sanitize_text(training.imbalance, 500),
        f"{training.parameters:,} weights, initialised from "
        f"{sanitize_text(training.initial_weights, 60)}; {format_count(training.epochs, 'epoch')} "
        f"in {training.minutes:g} minutes, epoch {training.best_epoch} kept; seed {training.seed}.",
        sanitize_text(training.command, 300),
    ]


def _describe_limits(card: ModelCard) -> list[str]:
    limits = [
        f"- It knows only X-rays like those it learned from. {OTHER_HOSPITALS_NOTE}",
        "- It knows two classes, normal and pneumonia, and no other disease.",
        "- It sees one X-ray: no history, no examination, no second view. An X-ray that it does "
        "not flag may still show pneumonia.",
    ]
    if card.reference.split == "validation":
        limits.append(
            "- Its metrics come from the X-rays that its threshold was chosen on, so they are "
            "likely to be too good."
        )
    return limits


def _format_versions(card: ModelCard) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in card.versions.items())
    return (
        f"Decode version {card.decode_version}, card version {card.card_version}, commit "
        f"{sanitize_text(card.training.commit, 60)}; {sanitize_text(versions, 400)}."
    )
