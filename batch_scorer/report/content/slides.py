"""The slides beyond the report: each model by itself, and the training data. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.accuracy import (
    METRIC_TITLES,
    describe_reference,
    describe_training,
    format_split,
)
from batch_scorer.report.content.methods import format_population, is_trained_on_kermany
from batch_scorer.report.content.model_comparison import find_tied_models
from batch_scorer.report.content.reliability import make_icon_arrays
from batch_scorer.report.content.text import (
    format_count,
    format_estimate,
    join_words,
    sanitize_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.model.card import ModelCard
    from batch_scorer.report.content.accuracy import Performance, TrainingFacts
    from batch_scorer.report.content.reliability import IconArrayPair
    from batch_scorer.report.content.view import RunView

MAX_MODELS = 3
"""More do not fit on a slide."""
NUMBER_WORDS = {1: "one", 2: "two", 3: "three"}
NETWORK_KINDS = {"mlp": "dense", "cnn": "convolutional", "vgg16": "deep"}
OTHER_KIND = "other"
PART_NAMES = {"train": "training", "validation": "validation", "test": "test"}
MAX_TITLE_CHARS = 30
# On the official test films; no intervals were published.
PUBLISHED_RESULTS = {
    "First notebook, MLP": {"accuracy": "0.74"},
    "First notebook, CNN": {"accuracy": "0.88"},
    "First notebook, VGG16": {"accuracy": "0.92"},
    "Kermany et al. 2018": {
        "accuracy": "0.928",
        "recall": "0.932",
        "specificity": "0.901",
        "auc": "0.968",
    },
}
_NO_AUGMENTATION = re.compile(r"augmentation=0(\.0*)?(\s|$)")


@dataclass(frozen=True)
class ModelFacts:
    """One model by itself.

    ``key`` is the prefix of its figure names, ``kind`` selects its drawing. ``errors`` puts its
    confusion matrix into words, ``learning`` its training curves.
    """

    key: str
    title: str
    kind: str
    summary: str
    weights: str
    split: str
    card: ModelCard
    performance: Performance
    icon_arrays: IconArrayPair | None
    training: TrainingFacts
    errors: str
    learning: str


@dataclass(frozen=True)
class ClassCounts:
    """Image counts of one part of the data set, by class."""

    part: str
    normal: int
    pneumonia: int


@dataclass(frozen=True)
class ClassBalance:
    """The class balance of the training data. ``classes`` is empty if the card does not give it."""

    title: str
    classes: tuple[ClassCounts, ...]
    alt: str
    imbalance_handling: str


@dataclass(frozen=True)
class PublishedResult:
    """Published metrics on the same images, in the order of ``METRIC_TITLES``, or ""."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Deck:
    """Everything that the slides say beyond the report.

    ``population`` names the patients behind the first model's figures. ``published`` is empty where
    the models were measured on other images. ``augmented`` names the models trained with
    augmentation, ``not_augmented`` the others.
    """

    population: str
    networks: str
    models: tuple[ModelFacts, ...]
    omitted_models: str
    balance: ClassBalance
    augmented: str
    not_augmented: str
    findings: str
    published: tuple[PublishedResult, ...]
    best: ModelFacts
    best_description: str
    others: tuple[ModelFacts, ...]
    batch: str


def build_deck(view: RunView) -> Deck:
    """Describe each model by itself, and what the models found together."""
    cards = view.cards[:MAX_MODELS]
    models = tuple(_make_model_facts(index, card) for index, card in enumerate(cards))
    best = models[_find_best(cards)]
    augmented = [model.title for model in models if _uses_augmentation(model.card)]
    not_augmented = [model.title for model in models if model.title not in augmented]
    official = all(is_trained_on_kermany(card) and card.reference.split == "test" for card in cards)
    return Deck(
        population=format_population(cards[0]),
        networks=_describe_networks(len(cards)),
        models=models,
        omitted_models=_describe_omitted_models(len(view.cards)),
        balance=_make_class_balance(cards[0]),
        augmented=join_words(augmented) if augmented else "",
        not_augmented=join_words(not_augmented) if not_augmented else "",
        findings=_describe_findings(cards),
        published=_make_published_results() if official else (),
        best=best,
        best_description=_describe_best(models, best),
        others=tuple(model for model in models if model is not best),
        batch=_describe_batch(view),
    )


def _make_model_facts(index: int, card: ModelCard) -> ModelFacts:
    title = sanitize_text(card.title, MAX_TITLE_CHARS)
    return ModelFacts(
        key=f"model-{index}",
        title=title,
        kind=NETWORK_KINDS.get(card.name, OTHER_KIND),
        summary=sanitize_text(card.summary, 200),
        weights=format_count(card.training.parameters, "weight"),
        split=format_split(card),
        card=card,
        performance=describe_reference([card]),
        icon_arrays=make_icon_arrays(card),
        training=describe_training([card]),
        errors=_describe_errors(title, card),
        learning=_describe_learning(title, card),
    )


def _describe_errors(title: str, card: ModelCard) -> str:
    confusion = card.reference.confusion
    ill = confusion.true_positive + confusion.false_negative
    well = confusion.false_positive + confusion.true_negative
    parts = []
    if ill:
        parts.append(f"missed {confusion.false_negative:,} of {ill:,} films with pneumonia")
    if well:
        parts.append(f"wrongly flagged {confusion.false_positive:,} of {well:,} normal ones")
    if not parts:
        return f"How often the model {title} is wrong is not known: no film was counted"
    return f"The model {title} {join_words(parts)}"


def _describe_learning(title: str, card: ModelCard) -> str:
    epochs, best = len(card.history.loss), card.training.best_epoch
    if not 1 <= best <= epochs:
        return f"The model {title} went through its training films {_format_times(epochs)}"
    if best == epochs:
        return f"The model {title} was best after the last of {format_count(epochs, 'round')}"
    return f"The model {title} was best after round {best} of {epochs}, and was kept so"


def _format_times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _find_best(cards: Sequence[ModelCard]) -> int:
    """Return the index of the card with the highest AUC; 0 where they cannot be compared."""
    values = [card.reference.metrics["auc"].value for card in cards]
    if not _are_comparable(cards) or any(value is None for value in values):
        return 0
    return max(range(len(cards)), key=lambda index: values[index] or 0.0)


def _are_comparable(cards: Sequence[ModelCard]) -> bool:
    """Return whether all reference sets have the same split and class counts."""
    references = [card.reference for card in cards]
    return len({(part.split, part.images, part.pneumonia) for part in references}) == 1


def _describe_best(models: Sequence[ModelFacts], best: ModelFacts) -> str:
    auc = best.card.reference.metrics["auc"]
    first = models[0].title
    decides = "" if best is models[0] else f" In this run {first} decides."
    if len(models) == 1 or auc.value is None:
        return f"AUC on the {best.split}: {format_estimate(auc)}."
    if not _are_comparable([model.card for model in models]):
        return (
            f"The models were measured on different films, so none is called the best; {first}, "
            "which decides in this run, is shown."
        )
    tied = find_tied_models(best.card.name, [model.card for model in models])
    caution = f" {join_words(tied)} cannot be told apart from it." if tied else ""
    return (
        f"Of the {NUMBER_WORDS[len(models)]}, {best.title} has the highest AUC on the "
        f"{best.split}: {format_estimate(auc)}.{caution}{decides}"
    )


def _describe_networks(number: int) -> str:
    return (
        "One network looks at every film"
        if number == 1
        else f"{NUMBER_WORDS[number].capitalize()} networks look at every film, each in its own way"
    )


def _describe_omitted_models(number: int) -> str:
    if number <= MAX_MODELS:
        return ""
    shown = NUMBER_WORDS[MAX_MODELS]
    return f"The slides show the first {shown} of {number:,} models; report.pdf all."


def _make_class_balance(card: ModelCard) -> ClassBalance:
    images = card.training.images
    classes = tuple(
        ClassCounts(name, *(images.get(f"{part} {label}", 0) for label in CLASSES))
        for part, name in PART_NAMES.items()
        if any(f"{part} {label}" in images for label in CLASSES)
    )
    learned = next((counts for counts in classes if counts.part == PART_NAMES["train"]), None)
    total = learned.normal + learned.pneumonia if learned else 0
    if not learned or not total:
        return ClassBalance("Which films the model learned from, its file does not say", (), "", "")
    phrases = "; ".join(
        f"{counts.part} {counts.normal:,} normal and {counts.pneumonia:,} with pneumonia"
        for counts in classes
    )
    share = round(100 * learned.pneumonia / total)
    name = sanitize_text(card.title, MAX_TITLE_CHARS)
    return ClassBalance(
        title=f"Of 100 films that the model {name} learned from, {share} show pneumonia",
        classes=classes,
        alt=f"Bars of the numbers of films by part and class: {phrases}.",
        imbalance_handling=sanitize_text(card.training.imbalance, 300),
    )


def _uses_augmentation(card: ModelCard) -> bool:
    """Return whether a model was trained with augmentation, by the command on its card."""
    command = card.training.command
    return command.startswith("cxr train") and not _NO_AUGMENTATION.search(command)


def _describe_findings(cards: Sequence[ModelCard]) -> str:
    population = format_population(cards[0])
    subject = (
        f"The model {sanitize_text(cards[0].title, MAX_TITLE_CHARS)} finds"
        if len(cards) == 1
        else f"The {NUMBER_WORDS[len(cards)]} models find"
    )
    sensitivities = [card.reference.metrics["recall"].value for card in cards]
    specificities = [card.reference.metrics["specificity"].value for card in cards]
    ill = _format_range([100 * value for value in sensitivities if value is not None])
    well = _format_range([100 * (1 - value) for value in specificities if value is not None])
    if not ill or not well:
        return "How good the models are cannot be said in full: a class of films is missing"
    flag = "flags" if len(cards) == 1 else "flag"
    return (
        f"{subject} {ill} of 100 {population} with pneumonia, and wrongly {flag} {well} of 100 "
        f"healthy {population}"
    )


def _format_range(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = round(min(values)), round(max(values))
    return f"{low}" if low == high else f"{low} to {high}"


def _make_published_results() -> tuple[PublishedResult, ...]:
    return tuple(
        PublishedResult(name, tuple(values.get(column, "") for column in METRIC_TITLES))
        for name, values in PUBLISHED_RESULTS.items()
    )


def _describe_batch(view: RunView) -> str:
    """Put the results on the labels of this batch into words, or say that it has none."""
    manifest = view.manifest
    if not manifest.scored:
        return "No film was scored, so this batch tells nothing of the models"
    if not manifest.metrics:
        return "This batch has no labels, so its errors can only be guessed at"
    confusion = manifest.metrics[0].confusion
    ill = confusion.true_positive + confusion.false_negative
    well = confusion.false_positive + confusion.true_negative
    parts = []
    if ill:
        parts.append(f"{confusion.true_positive:,} of {ill:,} labelled pneumonia")
    if well:
        parts.append(f"{confusion.false_positive:,} of {well:,} labelled normal")
    title = sanitize_text(view.card.title, MAX_TITLE_CHARS)
    return f"In this batch the model {title} flagged {join_words(parts)}"
