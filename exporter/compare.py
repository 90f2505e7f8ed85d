"""The models of one run against each other: paired by film, drawn by patient, Holm-corrected."""

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
    """What one model said of one split: (image, label, patient) by film, and a probability each."""

    name: str
    threshold: float
    images: tuple[tuple[str, str, str], ...]
    probabilities: tuple[float, ...]


def compare_models(folders: Sequence[Path]) -> ModelComparison | None:
    """Compare the models of a run, every one with every other, on the same films.

    Test films where every model was evaluated on them, else validation films. The first of a pair
    is the one of the higher AUC. The p of all differences is corrected together (Holm 1979).

    Args:
        folders: The models' run folders.

    Returns:
        None for a single model, or where the models were evaluated on different films, which is
        logged.

    Raises:
        ConversionError: A card or predictions.csv cannot be read.
    """
    if len(folders) < 2:  # noqa: PLR2004 - a pair
        return None
    cards = {folder: read_run_card(folder) for folder in folders}
    split = next(name for name in SPLITS if all(name in card.references for card in cards.values()))
    answers = [
        _read_predictions(folder, cards[folder], split)
        for folder in sorted(
            folders, key=lambda folder: _read_auc(cards[folder], split), reverse=True
        )
    ]
    films = answers[0].images
    if any(other.images != films for other in answers):
        log.warning("not compared: the models of this run have different %s films", split)
        return None
    pairs = _correct_p_values(
        [pair for one, two in combinations(answers, 2) for pair in _compare_pair(one, two)]
    )
    patients = [patient for _, _, patient in films]
    return ModelComparison(
        split=split,
        images=len(films),
        patients=len(set(patients)) if all(patients) else 0,
        images_sha256=hashlib.sha256(repr(films).encode()).hexdigest(),
        method=f"paired bootstrap by patient, {classification.COMPARISON_RESAMPLES:,} draws; "
        f"accuracy at each model's own threshold; p corrected for {len(pairs)} comparisons (Holm)",
        pairs=pairs,
    )


def _read_auc(card: ModelCard, split: str) -> float:
    return card.references[split].metrics["auc"].value or 0.0


def _read_predictions(folder: Path, card: ModelCard, split: str) -> ModelPredictions:
    """One split of predictions.csv, sorted by film."""
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
            f"expected {card.references[split].images} {split} films in {PREDICTIONS_FILE}, "
            f"found {len(rows)}",
        )
    films, probabilities = zip(*rows, strict=True)
    return ModelPredictions(card.name, card.threshold.value, films, probabilities)


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
    """Every metric of two models, p not yet corrected."""
    truth = [CLASSES.index(label) for _, label, _ in one.images]
    patients = [patient or image for image, _, patient in one.images]
    found = classification.compare_models(
        truth,
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
