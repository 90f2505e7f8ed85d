"""Comparison of the models of one run: paired by image, bootstrapped by patient, Holm-corrected."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import msgspec
from statsmodels.stats.multitest import multipletests

from batch_scorer.metrics import classification
from batch_scorer.model.card import CLASSES
from batch_scorer.model.card_sections import ModelComparison, PairedDifference
from batch_scorer.storage.output import MAX_TABLE_READ_BYTES
from exporter.run_reader import read_run_card, read_run_file, unreadable_run_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batch_scorer.model.card import ModelCard

PREDICTIONS_FILE = "predictions.csv"
SPLITS = ("test", "validation")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelPredictions:
    """One model's predictions for one split.

    ``images`` holds (image, label, patient) of each image; ``probabilities`` has the same order.
    """

    name: str
    threshold: float
    images: tuple[tuple[str, str, str], ...]
    probabilities: tuple[float, ...]


def compare_models(folders: Sequence[Path]) -> ModelComparison | None:
    """Compare every pair of models of a run on the same images.

    Uses the test images if every model was evaluated on them, else the validation images. The first
    model of a pair is the one with the higher AUC. The p values of all differences are corrected
    together (Holm 1979).

    Args:
        folders: The models' run folders.

    Returns:
        None for a single model, or if the models were evaluated on different images (logged as
        a warning).

    Raises:
        ConversionError: A card or predictions.csv cannot be read.
    """
    if len(folders) < 2:  # noqa: PLR2004 - a pair
        return None
    cards = {folder: read_run_card(folder) for folder in folders}
    split = next(name for name in SPLITS if all(name in card.references for card in cards.values()))
    predictions = [
        _read_predictions(folder, cards[folder], split)
        for folder in sorted(
            folders, key=lambda folder: _read_auc(cards[folder], split), reverse=True
        )
    ]
    images = predictions[0].images
    if any(other.images != images for other in predictions):
        log.warning("not compared: the models of this run have different %s images", split)
        return None
    pairs = _correct_p_values(
        [pair for one, two in combinations(predictions, 2) for pair in _compare_pair(one, two)]
    )
    patients = [patient for _, _, patient in images]
    return ModelComparison(
        split=split,
        images=len(images),
        patients=len(set(patients)) if all(patients) else 0,
        images_sha256=hashlib.sha256(repr(images).encode()).hexdigest(),
        method=f"paired bootstrap by patient, {classification.COMPARISON_RESAMPLES:,} draws; "
        f"accuracy at each model's own threshold; p corrected for {len(pairs)} comparisons (Holm)",
        pairs=pairs,
    )


def _read_auc(card: ModelCard, split: str) -> float:
    return card.references[split].metrics["auc"].value or 0.0


def _read_predictions(folder: Path, card: ModelCard, split: str) -> ModelPredictions:
    """Read one split of predictions.csv, sorted by image."""
    data = read_run_file(folder, PREDICTIONS_FILE, MAX_TABLE_READ_BYTES)
    try:
        rows = sorted(
            (
                (row["image"], _check_label(row["label"]), row["patient"]),
                _parse_probability(row["probability"]),
            )
            for row in csv.DictReader(io.StringIO(data.decode(), newline=""))
            if row["split"] == split
        )
    except (ValueError, KeyError, TypeError, csv.Error) as exc:
        raise unreadable_run_error(folder, f"{PREDICTIONS_FILE}: {exc}") from exc
    if len(rows) != card.references[split].images:
        raise unreadable_run_error(
            folder,
            f"expected {card.references[split].images} {split} images in {PREDICTIONS_FILE}, "
            f"found {len(rows)}",
        )
    images, probabilities = zip(*rows, strict=True)
    return ModelPredictions(card.name, card.threshold.value, images, probabilities)


def _check_label(label: str) -> str:
    if label not in CLASSES:
        raise ValueError(f"expected one of {', '.join(CLASSES)}, found {label}")
    return label


def _parse_probability(text: str) -> float:
    found = float(text)
    if not 0 <= found <= 1:
        raise ValueError(f"expected a probability, found {text}")
    return found


def _compare_pair(one: ModelPredictions, two: ModelPredictions) -> list[PairedDifference]:
    """Compare every metric of two models; p values are not yet corrected."""
    labels = [CLASSES.index(label) for _, label, _ in one.images]
    patients = [patient or image for image, _, patient in one.images]
    found = classification.compare_models(
        labels,
        (one.probabilities, one.threshold),
        (two.probabilities, two.threshold),
        patients,
    )
    return [
        PairedDifference(one.name, two.name, name, difference, p, p)
        for name, (difference, p) in found.items()
    ]


def _correct_p_values(pairs: list[PairedDifference]) -> list[PairedDifference]:
    corrected = multipletests([pair.p for pair in pairs], method="holm")[1]
    return [
        msgspec.structs.replace(pair, p_holm=float(p))
        for pair, p in zip(pairs, corrected, strict=True)
    ]
