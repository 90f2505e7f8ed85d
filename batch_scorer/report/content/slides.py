"""What the slides say beyond the report: each model by itself, and what they learned from. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.accuracy import (
    COLUMNS,
    describe_reference,
    describe_training,
    split_name,
)
from batch_scorer.report.content.methods import is_kermany, people_of
from batch_scorer.report.content.model_comparison import tied_with
from batch_scorer.report.content.reliability import count_people
from batch_scorer.report.content.text import count, join_words, show_estimate, show_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.model.card import ModelCard
    from batch_scorer.report.content.accuracy import Performance, TrainingFacts
    from batch_scorer.report.content.reliability import People
    from batch_scorer.results.schema import RunManifest

MOST_MODELS = 3
"""More do not fit on a slide; the report has all."""
NUMBERS = {1: "one", 2: "two", 3: "three"}
KINDS = {"mlp": "dense", "cnn": "convolutional", "vgg16": "deep"}
OTHER_KIND = "other"
PARTS = {"train": "training", "validation": "validation", "test": "test"}
TITLE_LENGTH = 30
# On the official test films; no intervals were published.
PUBLISHED = {
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
_UNCHANGED = re.compile(r"augmentation=0(\.0*)?(\s|$)")


@dataclass(frozen=True)
class ModelFacts:
    """One model by itself. ``key`` begins the names of its figures, ``kind`` is its drawing.

    ``errors`` and ``learning`` are what its confusion matrix and its training curves say.
    """

    key: str
    title: str
    kind: str
    summary: str
    weights: str
    where: str
    card: ModelCard
    performance: Performance
    people: People | None
    training: TrainingFacts
    errors: str
    learning: str


@dataclass(frozen=True)
class Bar:
    """Films of one part of the data set, by class."""

    part: str
    normal: int
    pneumonia: int


@dataclass(frozen=True)
class Balance:
    """How many films of each class a model learned from; no bars where its card does not say."""

    title: str
    bars: tuple[Bar, ...]
    alt: str
    remedy: str


@dataclass(frozen=True)
class Published:
    """Another's figures on the same films, in the order of ``COLUMNS``; empty: not published."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Deck:
    """Everything that the slides say beyond the report.

    ``people`` are whom the first model's figures speak of; ``published`` is empty where the models
    were measured on other films. ``changed`` names those that learned from films changed at random,
    ``unchanged`` the others.
    """

    people: str
    networks: str
    models: tuple[ModelFacts, ...]
    more: str
    balance: Balance
    changed: str
    unchanged: str
    findings: str
    published: tuple[Published, ...]
    best: ModelFacts
    best_told: str
    others: tuple[ModelFacts, ...]
    batch: str


def describe_deck(manifest: RunManifest) -> Deck:
    """Tell each model by itself, and what the models found together."""
    cards = [model.card for model in manifest.models[:MOST_MODELS]]
    models = tuple(_model(index, manifest) for index in range(len(cards)))
    best = models[_best(cards)]
    changed = [model.title for model in models if _learned_from_changed(model.card)]
    unchanged = [model.title for model in models if model.title not in changed]
    official = all(is_kermany(card) and card.reference.split == "test" for card in cards)
    return Deck(
        people=people_of(cards[0]),
        networks=_networks(len(cards)),
        models=models,
        more=_more(len(manifest.models)),
        balance=_balance(cards[0]),
        changed=join_words(changed) if changed else "",
        unchanged=join_words(unchanged) if unchanged else "",
        findings=_findings(cards),
        published=_published() if official else (),
        best=best,
        best_told=_tell_best(models, best),
        others=tuple(model for model in models if model is not best),
        batch=_batch(manifest),
    )


def _model(index: int, manifest: RunManifest) -> ModelFacts:
    model = manifest.models[index]
    card = model.card
    title = show_name(card.title, TITLE_LENGTH)
    return ModelFacts(
        key=f"model-{index}",
        title=title,
        kind=KINDS.get(card.name, OTHER_KIND),
        summary=show_name(card.summary, 200),
        weights=count(card.training.parameters, "weight"),
        where=split_name(card),
        card=card,
        performance=describe_reference(msgspec.structs.replace(manifest, models=[model])),
        people=count_people(card),
        training=describe_training([card]),
        errors=_errors(title, card),
        learning=_learning(title, card),
    )


def _errors(title: str, card: ModelCard) -> str:
    found = card.reference.confusion
    ill = found.true_positive + found.false_negative
    well = found.false_positive + found.true_negative
    parts = []
    if ill:
        parts.append(f"missed {found.false_negative:,} of {ill:,} films with pneumonia")
    if well:
        parts.append(f"wrongly flagged {found.false_positive:,} of {well:,} normal ones")
    if not parts:
        return f"How often the model {title} is wrong is not known: no film was counted"
    return f"The model {title} {join_words(parts)}"


def _learning(title: str, card: ModelCard) -> str:
    epochs, best = len(card.history.loss), card.training.best_epoch
    if not 1 <= best <= epochs:
        return f"The model {title} went through its training films {_times(epochs)}"
    if best == epochs:
        return f"The model {title} was best after the last of {count(epochs, 'round')}"
    return f"The model {title} was best after round {best} of {epochs}, and was kept so"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _best(cards: Sequence[ModelCard]) -> int:
    """The place of the card with the highest AUC; the first where they cannot be compared."""
    values = [card.reference.metrics["auc"].value for card in cards]
    if not _comparable(cards) or any(value is None for value in values):
        return 0
    return max(range(len(cards)), key=lambda place: values[place] or 0.0)


def _comparable(cards: Sequence[ModelCard]) -> bool:
    """Whether all models were measured on the same numbers of films of the same split."""
    references = [card.reference for card in cards]
    return len({(part.split, part.images, part.pneumonia) for part in references}) == 1


def _tell_best(models: Sequence[ModelFacts], best: ModelFacts) -> str:
    auc = best.card.reference.metrics["auc"]
    first = models[0].title
    decides = "" if best is models[0] else f" In this run {first} decides."
    if len(models) == 1 or auc.value is None:
        return f"AUC on the {best.where}: {show_estimate(auc)}."
    if not _comparable([model.card for model in models]):
        return (
            f"The models were measured on different films, so none is called the best; {first}, "
            "which decides in this run, is shown."
        )
    tied = tied_with(best.card.name, [model.card for model in models])
    caution = f" {join_words(tied)} cannot be told apart from it." if tied else ""
    return (
        f"Of the {NUMBERS[len(models)]}, {best.title} has the highest AUC on the "
        f"{best.where}: {show_estimate(auc)}.{caution}{decides}"
    )


def _networks(number: int) -> str:
    return (
        "One network looks at every film"
        if number == 1
        else f"{NUMBERS[number].capitalize()} networks look at every film, each in its own way"
    )


def _more(number: int) -> str:
    if number <= MOST_MODELS:
        return ""
    return f"The slides show the first {NUMBERS[MOST_MODELS]} of {number:,} models; report.pdf all."


def _balance(card: ModelCard) -> Balance:
    films = card.training.images
    bars = tuple(
        Bar(name, *(films.get(f"{part} {label}", 0) for label in CLASSES))
        for part, name in PARTS.items()
        if any(f"{part} {label}" in films for label in CLASSES)
    )
    learned = next((bar for bar in bars if bar.part == PARTS["train"]), None)
    total = learned.normal + learned.pneumonia if learned else 0
    if not learned or not total:
        return Balance("Which films the model learned from, its file does not say", (), "", "")
    told = "; ".join(
        f"{bar.part} {bar.normal:,} normal and {bar.pneumonia:,} with pneumonia" for bar in bars
    )
    share = round(100 * learned.pneumonia / total)
    name = show_name(card.title, TITLE_LENGTH)
    return Balance(
        title=f"Of 100 films that the model {name} learned from, {share} show pneumonia",
        bars=bars,
        alt=f"Bars of the numbers of films by part and class: {told}.",
        remedy=show_name(card.training.imbalance, 300),
    )


def _learned_from_changed(card: ModelCard) -> bool:
    """Whether training changed the films at random, by the command that the card names."""
    command = card.training.command
    return command.startswith("cxr train") and not _UNCHANGED.search(command)


def _findings(cards: Sequence[ModelCard]) -> str:
    people = people_of(cards[0])
    subject = (
        f"The model {show_name(cards[0].title, TITLE_LENGTH)} finds"
        if len(cards) == 1
        else f"The {NUMBERS[len(cards)]} models find"
    )
    found = [card.reference.metrics["recall"].value for card in cards]
    clear = [card.reference.metrics["specificity"].value for card in cards]
    ill = _range([100 * value for value in found if value is not None])
    well = _range([100 * (1 - value) for value in clear if value is not None])
    if not ill or not well:
        return "How good the models are cannot be said in full: a class of films is missing"
    flag = "flags" if len(cards) == 1 else "flag"
    return (
        f"{subject} {ill} of 100 {people} with pneumonia, and wrongly {flag} {well} of 100 "
        f"healthy {people}"
    )


def _range(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = round(min(values)), round(max(values))
    return f"{low}" if low == high else f"{low} to {high}"


def _published() -> tuple[Published, ...]:
    return tuple(
        Published(name, tuple(values.get(column, "") for column in COLUMNS))
        for name, values in PUBLISHED.items()
    )


def _batch(manifest: RunManifest) -> str:
    """What the labels of this batch say, or that it has none."""
    if not manifest.scored:
        return "No film was scored, so this batch tells nothing of the models"
    if not manifest.metrics:
        return "This batch has no labels, so its errors can only be guessed at"
    found = manifest.metrics[0].confusion
    ill = found.true_positive + found.false_negative
    well = found.false_positive + found.true_negative
    parts = []
    if ill:
        parts.append(f"{found.true_positive:,} of {ill:,} labelled pneumonia")
    if well:
        parts.append(f"{found.false_positive:,} of {well:,} labelled normal")
    title = show_name(manifest.models[0].card.title, TITLE_LENGTH)
    return f"In this batch the model {title} flagged {join_words(parts)}"
