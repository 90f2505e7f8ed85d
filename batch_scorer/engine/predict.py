"""What the models make of a batch of decoded films: one row each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from batch_scorer.errors import ImageError, ModelOutputInvalid, NotRadiograph
from batch_scorer.model.card import CLASSES
from batch_scorer.model.card_checks import PROBABILITY_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.classifier import Classifier, Predictions
    from batch_scorer.results.schema import Score


@dataclass(frozen=True)
class DecodedImage:
    """One file after decoding: a row, and pixels for each input size where it must be judged."""

    row: Score
    pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)


def select_unseen(films: list[DecodedImage], seen: set[str]) -> list[DecodedImage]:
    """The films of a batch that the models must look at: the first one of each content.

    Args:
        films: The batch.
        seen: Content hashes of films that were chosen before; grows by the new ones.
    """
    fresh = []
    for film in films:
        if film.pixels and film.row.sha256 not in seen:
            seen.add(film.row.sha256)
            fresh.append(film)
    return fresh


def classify_images(films: list[DecodedImage], classifiers: list[Classifier]) -> list[Predictions]:
    """What each model says of films that all have pixels. Several threads may call it at once."""
    return [
        c.predict(np.stack([film.pixels[c.card.size_px] for film in films])[..., None])
        for c in classifiers
    ]


@dataclass(frozen=True)
class Batch:
    """A batch: its films, those that the models looked at, and what each model said of them."""

    images: list[DecodedImage]
    unseen: list[DecodedImage]
    predictions: list[Predictions]


def make_rows(
    judged: Batch, classifiers: list[Classifier], known: dict[str, Score], *, keep_atypical: bool
) -> Iterator[Score]:
    """Rows of one batch, in its order. A byte-identical copy takes the answers of the first.

    Args:
        judged: The batch; batches are settled in the order in which their fresh films were chosen.
        classifiers: The first one decides.
        known: Rows of films that were judged before, by content hash; grows by the new ones.
        keep_atypical: Score also what looks like no film that the first model knows.
    """
    for place, film in enumerate(judged.unseen):
        row = _add_intensity_stats(film, classifiers[0].card.size_px)
        try:
            for classifier, answers in zip(classifiers, judged.predictions, strict=True):
                _check_predictions(classifier.card.name, answers, place)
        except ModelOutputInvalid as exc:
            row = _mark_unscored(film.row, exc)
        else:
            row = _add_typicality(row, classifiers[0].card, judged.predictions[0], place)
            if row.status == "scored" or keep_atypical:
                row = _add_scores(row, classifiers, judged.predictions, place)
        known[row.sha256] = row
    for film in judged.images:
        first = known.get(film.row.sha256)
        yield film.row if first is None else copy_scores(film.row, first)


def _add_intensity_stats(film: DecodedImage, size_px: int) -> Score:
    pixels = film.pixels[size_px]
    return msgspec.structs.replace(
        film.row, brightness=float(pixels.mean()), contrast=float(pixels.std())
    )


def _check_predictions(model: str, answers: Predictions, place: int) -> None:
    """Refuse what no model may give for an image, whether or not its row would hold it.

    Raises:
        ModelOutputInvalid: A probability is no number from 0 to 1, or an atypicality or a place of
            the evidence map is no finite number.
    """
    for name in ("probability", "viral", "atypicality", "evidence"):
        if (values := getattr(answers, name)) is None:
            continue
        given = np.atleast_1d(values[place])
        expected, valid = "a finite number", np.isfinite(given)
        if name in {"probability", "viral"}:
            expected = "a number from 0 to 1"
            valid = (given >= -PROBABILITY_TOLERANCE) & (given <= 1 + PROBABILITY_TOLERANCE)
        if not valid.all():
            raise ModelOutputInvalid(
                f"Expected {expected} as {name} from the model {model}, "
                f"found {given[~valid][0]:g}.",
                "Score the image with another model, and tell whoever made this one.",
            )


def _mark_unscored(row: Score, error: ImageError) -> Score:
    return msgspec.structs.replace(row, status=error.status, reason=error.code, detail=str(error))


def _add_typicality(row: Score, card: ModelCard, answers: Predictions, place: int) -> Score:
    """Say how much the film looks like the training films; reject it where that is not at all."""
    known = card.typicality
    if known is None or answers.atypicality is None:
        return row
    strange = float(answers.atypicality[place])
    if strange <= known.reject_above:
        return msgspec.structs.replace(
            row,
            typicality=known.compute_typicality(strange),
            atypical=strange > known.flag_above,
        )
    refusal = NotRadiograph(
        "Expected an upright frontal chest film like those that the model knows, found an image "
        "that is unlike them.",
        "Look for a photo, a page, a side view, or a film that is inverted, turned or bordered; "
        "--keep-atypical scores it all the same.",
    )
    return msgspec.structs.replace(_mark_unscored(row, refusal), typicality=0.0, atypical=True)


def _add_scores(
    row: Score, classifiers: list[Classifier], answers: list[Predictions], place: int
) -> Score:
    probabilities = [_clip_probability(found.probability[place]) for found in answers]
    band = classifiers[0].card.band
    flags = [p >= c.card.threshold.value for p, c in zip(probabilities, classifiers, strict=True)]
    viral = answers[0].viral
    return msgspec.structs.replace(
        row,
        status="scored",
        reason="",
        detail="",
        probabilities=tuple(probabilities),
        prediction=CLASSES[flags[0]],
        undecided=band.contains(probabilities[0]) if band else None,
        viral=None if viral is None else _clip_probability(viral[place]),
        agreement=flags.count(flags[0]) / len(flags),
        spread=max(probabilities) - min(probabilities) if len(probabilities) > 1 else None,
    )


def _clip_probability(probability: np.float32) -> float:
    """A probability without what rounding put it above 1 or below 0."""
    return min(1.0, max(0.0, float(probability)))


def copy_scores(row: Score, first: Score) -> Score:
    """The row of a file that has the same bytes as one that was judged before, or is that one."""
    own = {name: getattr(row, name) for name in _FILE_FIELDS} | {"duplicate_of": ""}
    if all(getattr(first, name) == value for name, value in own.items()):
        return first
    return msgspec.structs.replace(first, **own)


_FILE_FIELDS = ("image", "label", "patient", "stamp")
"""What a row says of the file itself, not of its content."""
