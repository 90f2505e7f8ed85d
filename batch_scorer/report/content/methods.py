"""How it works: what each stage did in a run, and what the models learned from. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.data_quality import describe_faults
from batch_scorer.report.content.text import (
    count,
    join_words,
    show_change,
    show_name,
    show_threshold,
)

if TYPE_CHECKING:
    from batch_scorer.model.card import ModelCard
    from batch_scorer.results.schema import RunManifest

# Films by class of the published data set (Kermany et al. 2018, version 2), however it was split.
KERMANY_TEST = {"test NORMAL": 234, "test PNEUMONIA": 390}
KERMANY_OTHERS = {"NORMAL": 1349, "PNEUMONIA": 3883}


@dataclass(frozen=True)
class Method:
    """How it works: what each stage did in this run, and what the models learned from.

    ``known_data`` says that every model learned from the published set of Kermany et al.;
    ``faults`` is what the first model's card counts to be wrong with its data, where it does.
    """

    steps: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    data: str
    known_data: bool
    faults: tuple[str, ...]


def describe_method(manifest: RunManifest) -> Method:
    """The numbered steps of a run and the training of its models."""
    cards = [model.card for model in manifest.models]
    return Method(
        steps=_steps(manifest),
        models=tuple((show_name(card.title, 60), _model_story(card)) for card in cards),
        data=_data(cards[0]),
        known_data=all(is_kermany(card) for card in cards),
        faults=describe_faults(cards[0].audit) if cards[0].audit else (),
    )


def is_kermany(card: ModelCard) -> bool:
    """Whether a model learned from the published set, by its numbers of films."""
    films = card.training.images
    others = {
        name: films.get(f"train {name}", 0) + films.get(f"validation {name}", 0) for name in CLASSES
    }
    held_out = {name: number for name, number in films.items() if name.startswith("test ")}
    return others == KERMANY_OTHERS and held_out in ({}, KERMANY_TEST)


def people_of(card: ModelCard) -> str:
    """Whom a model's figures speak of: children, where that is known."""
    return "children" if is_kermany(card) else "people"


def _steps(manifest: RunManifest) -> tuple[tuple[str, str], ...]:
    primary = manifest.models[0].card
    threshold = primary.threshold
    models = count(len(manifest.models), "model")
    texts = {
        "Source": f"{count(manifest.found, 'file')} listed; each ends in exactly one row.",
        "Decode": f"Each film becomes one grey picture of {primary.size_px} by {primary.size_px} "
        f"pixels, by decode rules version {manifest.decode_version}, as in training.",
        "Classify": f"{models} on ONNX Runtime ({show_name(manifest.provider, 60)}) gave each film "
        f"a probability. The threshold {show_threshold(threshold.value)} is "
        f"{show_name(threshold.rule, 200)}, chosen on {show_name(threshold.chosen_on, 60)}.",
        "Record": "One row per file in predictions.csv, and what was run in run.json, under the "
        f"run id {show_name(manifest.run_id, 60)}.",
        "Report": f"This document, by cxr-batch {show_name(manifest.version, 30)}, from those "
        "files alone.",
    }
    return tuple(texts.items())


def _model_story(card: ModelCard) -> str:
    training = card.training
    return (
        f"{show_name(card.summary, 300)} {training.parameters:,} weights, "
        f"{count(training.epochs, 'epoch')}, seed {training.seed}.{_precision_story(card)}"
    )


def _precision_story(card: ModelCard) -> str:
    """What a smaller number format changed; nothing for a float32 file."""
    precision = card.precision
    if precision is None:
        return ""
    return (
        f" The file computes its convolutions in {precision.kind}, its reference figures are those "
        f"of the float32 network: on {precision.images:,} validation films that changes the AUC by "
        f"{show_change(precision.auc_difference)} and {count(len(precision.flips), 'label')}."
    )


def _data(card: ModelCard) -> str:
    films = join_words([f"{number:,} {name}" for name, number in card.training.images.items()])
    return (
        f"Data set {show_name(card.training.data, 60)}, films by part and class: "
        f"{show_name(films, 300)}. {show_name(card.training.split_policy, 300)}"
    )
