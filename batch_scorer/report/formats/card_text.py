"""A model card as a page of plain words, for a terminal. Pure functions."""

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
    format_value,
    sanitize_text,
)

if TYPE_CHECKING:
    from batch_scorer.metrics.classification import Estimate
    from batch_scorer.model.card import ModelCard

LINE_CHARS = 88
METRICS_SECTION = "How good it is"
METRIC_DESCRIPTIONS = {
    "accuracy": ("accuracy", "share of right answers"),
    "precision": ("precision", "share of the flagged films that show pneumonia"),
    "recall": ("recall", "sensitivity: share of films with pneumonia flagged"),
    "specificity": ("specificity", "share of normal films not flagged"),
    "f1": ("F1", "precision and recall in one number"),
    "auc": ("AUC", "how well it ranks ill above well; 0.5 is chance"),
    "brier": ("Brier", "squared error of the probabilities; 0 is best"),
    "ece": ("ECE", "gap between probabilities and reality; 0 is best"),
}


def format_card(card: ModelCard) -> str:
    """All that a newcomer needs to know of a model, in lines of at most ``LINE_CHARS`` characters."""
    sections = describe_card(card)
    sections[METRICS_SECTION] += _format_metrics(card)
    lines = [
        f"{sanitize_text(card.title, 60)} ({sanitize_text(card.name, 40)})",
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
        "When it flags a film": _describe_threshold(card),
        "How far its probabilities can be believed": _describe_calibration(card),
        "What else it says": _describe_other_outputs(card),
        "On normal films from elsewhere": _describe_external(card),
        "Against the other models of its set": _describe_comparison(card),
        "How it was made": _describe_training(card),
        "Number format": _describe_precision(card),
        "Known limits": _describe_limits(card),
        "Made with": [_format_versions(card)],
    }


def _wrap_text(text: str, indent: str) -> list[str]:
    hanging = indent + "  " * text.startswith("- ")
    return textwrap.wrap(text, LINE_CHARS, initial_indent=indent, subsequent_indent=hanging)


def _describe_reference(card: ModelCard) -> str:
    reference, values = card.reference, card.reference.metrics
    patients = f" of {format_count(reference.patients, 'patient')}" if reference.patients else ""
    return (
        f"On the {reference.images:,} {format_split(card)}{patients}, {reference.pneumonia:,} with "
        f"pneumonia: of 100 films with pneumonia it flags {format_per_hundred(values['recall'])}; of 100 "
        f"normal films it wrongly flags {format_per_hundred(values['specificity'], inverse=True)}."
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
        f"{sanitize_text(threshold.rule, 300)}, chosen on {sanitize_text(threshold.chosen_on, 40)} films."
    ]
    if band is None:
        return [*texts, "Its file says of no film that the answer is uncertain."]
    return [
        *texts,
        f"From {format_threshold(band.low)} up to {format_threshold(band.high)} the answer is called "
        f"uncertain: {sanitize_text(band.rule, 400)}. Of 100 {sanitize_text(band.chosen_on, 40)} films "
        f"{format_per_hundred(band.share)} lie there.",
    ]


def _describe_calibration(card: ModelCard) -> list[str]:
    calibration = card.calibration
    texts = [
        f"{sanitize_text(calibration.method, 60)}, fitted on {sanitize_text(calibration.fitted_on, 40)}."
    ]
    if calibration.ece_after is not None and calibration.brier_after is not None:
        texts.append(
            f"On those same films the ECE went from {calibration.ece_before:.3f} to "
            f"{calibration.ece_after:.3f} and the Brier score from {calibration.brier_before:.3f} "
            f"to {calibration.brier_after:.3f}: calibrated on them, it looks better there than "
            "elsewhere."
        )
    own = card.reference.metrics
    texts.append(
        f"On the {format_split(card)} the ECE is {format_value(own['ece'])} and the Brier score "
        f"{format_value(own['brier'])}."
    )
    return texts


def _describe_other_outputs(card: ModelCard) -> list[str]:
    """The answers beside the probability."""
    texts = []
    if card.evidence:
        checked = card.evidence.faithfulness
        texts.append(
            f"- Evidence map, {card.evidence.height} by {card.evidence.width} places "
            f"({card.evidence.method}). With the tenth of the places of most evidence blurred on "
            f"{checked.images} films with pneumonia the logit falls by {checked.deletion[1]:.2f}, "
            f"with a tenth at random by {checked.random_deletion[1]:.2f}; with shuffled weights "
            f"the map's rank correlation is {checked.randomised_correlation:.2f}."
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
            "- Typicality: an image far from the training films is not scored, one at their edge "
            f"is called atypical. Share not scored and share atypical, by films: {shares}."
        )
    if cause := describe_model_etiology(card):
        texts.append(f"- Bacterial or viral, a weaker answer and for study only: {cause}")
    return texts or ["Nothing."]


def _format_percent(share: Estimate) -> str:
    """A share in per cent, with one digit."""
    return "not defined" if share.value is None else f"{share.value:.1%}"


def _describe_precision(card: ModelCard) -> list[str]:
    precision = card.precision
    if precision is None:
        return ["Float32, as it was trained."]
    ranges = f", its ranges from {precision.calibrated_on}" if precision.calibrated_on else ""
    return [
        f"Convolutions in {precision.kind}{ranges}. The figures on this page, the threshold and "
        "the calibration are the float32 network's.",
        f"On the {precision.images:,} validation films this file's AUC is {precision.auc:.4f} "
        f"(a change of {format_change(precision.auc_difference)}), a probability is off by at most "
        f"{precision.largest_difference:.4f}, and labels changed: {len(precision.flips)}.",
        *(f"- {sanitize_text(film, 80)}" for film in precision.flips),
    ]


def _describe_external(card: ModelCard) -> list[str]:
    return [describe_external_dataset(found, "it") for found in card.external] or ["Not measured."]


def _describe_comparison(card: ModelCard) -> list[str]:
    if card.comparison is None:
        return ["Its file carries no comparison."]
    return [describe_ranking(card.comparison), f"By {sanitize_text(card.comparison.method, 300)}."]


def _describe_training(card: ModelCard) -> list[str]:
    training = card.training
    films = ", ".join(f"{number:,} {name}" for name, number in training.images.items())
    return [
        f"Data set {sanitize_text(training.data, 60)}: {sanitize_text(films, 300)} films.",
        sanitize_text(training.split_policy, 500),
        sanitize_text(training.imbalance, 500),
        f"{training.parameters:,} weights, first by {sanitize_text(training.initial_weights, 60)}; "
        f"{format_count(training.epochs, 'epoch')} in {training.minutes:g} minutes, epoch "
        f"{training.best_epoch} kept; seed {training.seed}.",
        sanitize_text(training.command, 300),
    ]


def _describe_limits(card: ModelCard) -> list[str]:
    limits = [
        f"- It knows only films like those it learned from. {OTHER_HOSPITALS_NOTE}",
        "- It knows two answers, normal and pneumonia: other illnesses have no place in it.",
        "- It sees one film: no history, no examination, no second view. A film that it does not "
        "flag may still show pneumonia.",
    ]
    if card.reference.split == "validation":
        limits.append(
            "- Its figures are of the films on which its threshold was chosen, so they are likely "
            "to be too good."
        )
    return limits


def _format_versions(card: ModelCard) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in card.versions.items())
    return (
        f"Decode version {card.decode_version}, card version {card.card_version}, commit "
        f"{sanitize_text(card.training.commit, 60)}; {sanitize_text(versions, 400)}."
    )
