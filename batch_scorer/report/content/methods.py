"""The methods: each stage of a run, and the training of the models. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.model.card import CLASSES
from batch_scorer.report.content.data_quality import describe_data_faults
from batch_scorer.report.content.text import (
    format_change,
    format_count,
    format_threshold,
    format_title,
    join_words,
    sanitize_text,
)

if TYPE_CHECKING:
    from batch_scorer.model.card import ModelCard
    from batch_scorer.report.content.view import RunView

# Image counts of the published data set (Kermany et al. 2018, version 2), for any split.
KERMANY_TEST = {"test NORMAL": 234, "test PNEUMONIA": 390}
KERMANY_TRAINING = {"NORMAL": 1349, "PNEUMONIA": 3883}


@dataclass(frozen=True)
class MethodFacts:
    """The stages of this run and the training of its models.

    ``uses_kermany`` is true if every model was trained on the data set of Kermany et al. ``faults``
    lists the faults of the first model's training data, as far as its card counts them.
    """

    steps: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    data: str
    uses_kermany: bool
    faults: tuple[str, ...]


def describe_methods(view: RunView) -> MethodFacts:
    """Describe the numbered steps of a run and the training of its models."""
    return MethodFacts(
        steps=_describe_steps(view),
        models=tuple((format_title(card), _describe_model(card)) for card in view.cards),
        data=_describe_data(view.card),
        uses_kermany=all(is_trained_on_kermany(card) for card in view.cards),
        faults=describe_data_faults(view.card.audit) if view.card.audit else (),
    )


def is_trained_on_kermany(card: ModelCard) -> bool:
    """Return whether a model was trained on the published data set, judged by its image counts."""
    images = card.training.images
    others = {
        name: images.get(f"train {name}", 0) + images.get(f"validation {name}", 0)
        for name in CLASSES
    }
    held_out = {name: number for name, number in images.items() if name.startswith("test ")}
    return others == KERMANY_TRAINING and held_out in ({}, KERMANY_TEST)


def format_population(card: ModelCard) -> str:
    """Name the patients behind a model's figures: "children" where that is known, else "people"."""
    return "children" if is_trained_on_kermany(card) else "people"


def _describe_steps(view: RunView) -> tuple[tuple[str, str], ...]:
    manifest, size_px, threshold = view.manifest, view.card.size_px, view.card.threshold
    models = format_count(len(view.cards), "model")
    texts = {
        "Source": f"{format_count(manifest.found, 'file')} listed; each ends in exactly one row.",
        "Decode": f"Each film becomes one grey picture of {size_px} by {size_px} "
        f"pixels, by decode rules version {manifest.decode_version}, as in training.",
        "Classify": f"{models} on ONNX Runtime ({sanitize_text(manifest.provider, 60)}) gave each "
        f"film a probability. The threshold {format_threshold(threshold.value)} is "
        f"{sanitize_text(threshold.rule, 200)}, chosen on "
        f"{sanitize_text(threshold.chosen_on, 60)}.",
        "Record": "One row per file in predictions.csv, and what was run in run.json, under the "
        f"run id {sanitize_text(manifest.run_id, 60)}.",
        "Report": f"This document, by cxr-batch {sanitize_text(manifest.version, 30)}, from those "
        "files alone.",
    }
    return tuple(texts.items())


def _describe_model(card: ModelCard) -> str:
    training = card.training
    return (
        f"{sanitize_text(card.summary, 300)} {training.parameters:,} weights, "
        f"{format_count(training.epochs, 'epoch')}, seed "
        f"{training.seed}.{_describe_precision(card)}"
    )


def _describe_precision(card: ModelCard) -> str:
    """Describe the effect of a smaller number format; empty for a float32 file."""
    precision = card.precision
    if precision is None:
        return ""
    return (
        f" The file computes its convolutions in {precision.kind}, its reference figures are "
        f"those of the float32 network: on {precision.images:,} validation films that changes the "
        f"AUC by {format_change(precision.auc_difference)} and "
        f"{format_count(len(precision.flips), 'label')}."
    )


def _describe_data(card: ModelCard) -> str:
    counts = join_words([f"{number:,} {name}" for name, number in card.training.images.items()])
    return (
        f"Data set {sanitize_text(card.training.data, 60)}, films by part and class: "
        f"{sanitize_text(counts, 300)}. {sanitize_text(card.training.split_policy, 300)}"
    )
