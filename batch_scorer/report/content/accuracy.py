"""Performance of the models in numbers and sentences: on the reference set and on this batch.

Pure functions of the run and its model cards. A metric that the images do not define is called so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.report.content.methods import format_population, is_trained_on_kermany
from batch_scorer.report.content.text import (
    NOT_DEFINED,
    format_count,
    format_interval,
    format_per_hundred,
    format_title,
    format_value,
    join_words,
    sanitize_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batch_scorer.metrics.classification import ConfusionMatrix, Curve, Estimate
    from batch_scorer.model.card import ModelCard
    from batch_scorer.results.schema import RunManifest

ROC_CAPTION = "the ring is the operating point, the cross its 95 % intervals"
METRIC_TITLES = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall (sensitivity)",
    "specificity": "Specificity",
    "f1": "F1",
    "auc": "AUC",
}


@dataclass(frozen=True)
class MetricCell:
    """One metric as text: the value, its 95 % interval and the number of images."""

    value: str
    interval: str
    n: str


@dataclass(frozen=True)
class MetricRow:
    """One model's metrics, in the order of ``METRIC_TITLES``."""

    model: str
    note: str
    cells: tuple[MetricCell, ...]


@dataclass(frozen=True)
class RocCurve:
    """One model's ROC curve with its operating point and a legend text."""

    label: str
    curve: Curve
    sensitivity: Estimate
    specificity: Estimate


@dataclass(frozen=True)
class Performance:
    """One table of models on one set of images, its findings, and the texts of its figures.

    ``confusion`` belongs to the first model. ``roc`` is empty where the images define no curve.
    """

    title: str
    about: str
    rows: tuple[MetricRow, ...]
    findings: tuple[str, ...]
    confusion: ConfusionMatrix
    confusion_title: str
    confusion_alt: str
    roc: tuple[RocCurve, ...]
    roc_title: str
    roc_alt: str


@dataclass(frozen=True)
class TrainingFacts:
    """The caption and the alternative text of the training curves."""

    sentence: str
    alt: str


def describe_reference(cards: Sequence[ModelCard]) -> Performance:
    """Describe the performance on the reference set, as measured by the makers of the models."""
    primary = cards[0]
    splits = list(dict.fromkeys(format_split(card) for card in cards))
    where = join_words(splits)
    reference = primary.reference
    return Performance(
        title=f"Reference figures from the model {_pluralize_file(len(cards))} ({where})",
        about=_describe_reference_set(cards, where),
        rows=tuple(
            _make_row(
                format_title(card),
                _format_reference_note(card, same_counts=_have_same_counts(cards)),
                card.reference.metrics,
            )
            for card in cards
        ),
        findings=describe_reference_findings(primary, _format_model(primary)),
        confusion=reference.confusion,
        confusion_title=_format_confusion_title(primary, format_split(primary)),
        confusion_alt=_describe_confusion(reference.confusion, format_split(primary)),
        roc=tuple(
            _make_roc_curve(card, card.reference.roc, card.reference.metrics)
            for card in cards
            if card.reference.roc.x
        ),
        roc_title=f"ROC {_pluralize_curve(len(cards))} on the {where}; {ROC_CAPTION}",
        roc_alt=_describe_roc(cards, [card.reference.metrics for card in cards], where),
    )


def describe_missing_batch_metrics(manifest: RunManifest) -> str:
    """Say why this batch has no performance figures."""
    if not manifest.scored:
        return "No film was scored, so there is nothing to measure."
    return (
        "The scored films of this batch have no labels, so this run cannot tell how good the "
        "models are on them."
    )


def describe_batch(manifest: RunManifest) -> Performance | None:
    """Describe the performance on this batch; None where its images have no labels."""
    if not manifest.metrics:
        return None
    cards = {model.name: model.card for model in manifest.models}
    scores = [(cards[score.model], score) for score in manifest.metrics]
    primary, first = scores[0]
    curves = tuple(
        _make_roc_curve(card, score.roc, score.metrics) for card, score in scores if score.roc.x
    )
    return Performance(
        title="This batch",
        about=_describe_batch_set(manifest, first.images, first.pneumonia),
        rows=tuple(_make_row(format_title(card), "", score.metrics) for card, score in scores),
        findings=describe_findings(
            first.metrics, _format_model(primary), "films with pneumonia", "normal films"
        ),
        confusion=first.confusion,
        confusion_title=_format_confusion_title(primary, "labelled films of this batch"),
        confusion_alt=_describe_confusion(first.confusion, "labelled films of this batch"),
        roc=curves,
        roc_title=f"ROC {_pluralize_curve(len(curves))} on this batch; {ROC_CAPTION}",
        roc_alt=_describe_roc(
            [card for card, _ in scores], [score.metrics for _, score in scores], "this batch"
        ),
    )


def describe_training(cards: Sequence[ModelCard]) -> TrainingFacts:
    """Describe the training curves in words and numbers."""
    parts = []
    for card in cards:
        history, best = card.history, card.training.best_epoch
        name = format_title(card)
        if not 1 <= best <= len(history.val_loss):
            parts.append(f"{name}: {format_count(len(history.loss), 'epoch')}.")
            continue
        index = best - 1
        parts.append(
            f"{name}: {format_count(len(history.loss), 'epoch')}, kept epoch {best}, "
            f"training loss {history.loss[index]:.3f} and accuracy {history.accuracy[index]:.3f}, "
            f"validation loss {history.val_loss[index]:.3f} and accuracy "
            f"{history.val_accuracy[index]:.3f}."
        )
    return TrainingFacts(
        sentence="The dotted line marks the epoch that was kept: the one with the lowest loss on "
        "films held back from training. A validation line that turns away from the training line "
        "after it shows a network learning its films by heart.",
        alt=f"Loss and accuracy by epoch, training and validation. {' '.join(parts)}",
    )


def describe_findings(
    metrics: Mapping[str, Estimate], model: str, diseased: str, normal: str
) -> tuple[str, str]:
    """Say sensitivity and specificity as counts out of 100.

    Args:
        metrics: With the keys "recall" and "specificity".
        model: The model as a noun phrase, such as "the model VGG16".
        diseased: The group behind sensitivity, such as "children with pneumonia".
        normal: The group behind specificity, such as "healthy children".
    """
    recall, specificity = metrics["recall"], metrics["specificity"]
    found = (
        f"Of 100 {diseased} {model} finds {format_per_hundred(recall)}."
        if recall.value is not None
        else "No film here is labelled pneumonia, so how many it finds cannot be said."
    )
    alarms = (
        f"Of 100 {normal} it wrongly flags {format_per_hundred(specificity, inverse=True)}."
        if specificity.value is not None
        else "No film here is labelled normal, so how many it wrongly flags cannot be said."
    )
    return found, alarms


def describe_reference_findings(card: ModelCard, model: str) -> tuple[str, str]:
    """Say sensitivity and specificity on the reference set as counts of 100 people."""
    people = format_population(card)
    return describe_findings(
        card.reference.metrics, model, f"{people} with pneumonia", f"healthy {people}"
    )


def format_split(card: ModelCard) -> str:
    """Name the reference set of a model, such as "official test films"."""
    split = card.reference.split
    if split == "test":
        return "official test films" if is_trained_on_kermany(card) else "test films"
    if split == "validation":
        return "validation films"
    return f"films of the split {sanitize_text(split, 40)}"


def _describe_reference_set(cards: Sequence[ModelCard], where: str) -> str:
    first = cards[0].reference
    patients = f" of {format_count(first.patients, 'patient')}" if first.patients else ""
    images = (
        f": {_format_class_counts(first.images, first.pneumonia)}{patients}"
        if _have_same_counts(cards)
        else ""
    )
    text = f"Measured by whoever made {'this model' if len(cards) == 1 else 'these models'}, "
    text += f"on {where}{images}. "
    if any(card.reference.split == "validation" for card in cards):
        text += (
            "Validation films also served to choose the threshold, so these figures are "
            "likely to be too good. "
        )
    return text + "They are not figures of the films in this batch."


def _have_same_counts(cards: Sequence[ModelCard]) -> bool:
    """Return whether all reference sets have the same split and class counts."""
    return len({(c.reference.split, c.reference.images, c.reference.pneumonia) for c in cards}) == 1


def _describe_batch_set(manifest: RunManifest, images: int, pneumonia: int) -> str:
    text = (
        f"Measured on the labelled films of this batch: {_format_class_counts(images, pneumonia)}. "
    )
    if manifest.synthetic:
        text += "These films are synthetic, so the figures say nothing about patients. "
    if images < manifest.scored:
        text += (
            f"{format_count(manifest.scored - images, 'scored film')} without a label left out. "
        )
    return text + (
        "The labels are taken as they were given; a wrong label counts as a wrong answer."
    )


def _format_class_counts(images: int, pneumonia: int) -> str:
    normal = images - pneumonia
    return f"{format_count(images, 'film')}, {pneumonia:,} with pneumonia and {normal:,} normal"


def _make_row(model: str, note: str, metrics: Mapping[str, Estimate]) -> MetricRow:
    cells = tuple(
        MetricCell(
            format_value(metrics[name]), format_interval(metrics[name]), f"n = {metrics[name].n:,}"
        )
        for name in METRIC_TITLES
    )
    return MetricRow(model, note, cells)


def _format_reference_note(card: ModelCard, *, same_counts: bool) -> str:
    if same_counts:
        return ""
    counts = _format_class_counts(card.reference.images, card.reference.pneumonia)
    return f"on {format_split(card)}, {counts}"


def _format_model(card: ModelCard) -> str:
    return f"the model {format_title(card)}"


def _format_confusion_title(card: ModelCard, where: str) -> str:
    return f"Confusion matrix of {format_title(card)}, {where}"


def _describe_confusion(confusion: ConfusionMatrix, where: str) -> str:
    return (
        f"Confusion matrix, {where}: of "
        f"{format_count(confusion.true_positive + confusion.false_negative, 'film')} with "
        f"pneumonia {confusion.true_positive:,} were flagged and {confusion.false_negative:,} "
        "missed; of "
        f"{format_count(confusion.true_negative + confusion.false_positive, 'normal film')} "
        f"{confusion.false_positive:,} were flagged and {confusion.true_negative:,} were not."
    )


def _make_roc_curve(card: ModelCard, curve: Curve, metrics: Mapping[str, Estimate]) -> RocCurve:
    return RocCurve(format_title(card), curve, metrics["recall"], metrics["specificity"])


def _describe_roc(
    cards: Sequence[ModelCard], metrics: Sequence[Mapping[str, Estimate]], where: str
) -> str:
    parts = [
        f"{format_title(card)}: AUC {_format_with_interval(values['auc'])}, operating point at "
        f"sensitivity {_format_with_interval(values['recall'])} and specificity "
        f"{_format_with_interval(values['specificity'])}."
        for card, values in zip(cards, metrics, strict=True)
    ]
    return f"ROC curves, {where}. {' '.join(parts)}"


def _format_with_interval(estimate: Estimate) -> str:
    if estimate.value is None:
        return NOT_DEFINED
    return f"{format_value(estimate)} (95 % interval {format_interval(estimate)})"


def _pluralize_file(number: int) -> str:
    return "file" if number == 1 else "files"


def _pluralize_curve(number: int) -> str:
    return "curve" if number == 1 else "curves"
