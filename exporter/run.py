"""What the exporter reads of a run folder: the card, the network, and films to check it with."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras
import msgspec
import numpy as np

from batch_scorer.card import read_card
from batch_scorer.errors import ConversionError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from batch_scorer.card import ModelCard
    from batch_scorer.comparison import Comparison

FILMS_FILE = "films.npz"
MIN_FILMS = 64
PARITY_FILMS = 96


@dataclass(frozen=True)
class Films:
    """Decoded films; ``pixels`` (N, S, S, 1) uint8, ``labels`` (N,) 1 for pneumonia."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    keys: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Run:
    """One trained network, and the probabilities by Keras that its files are checked against.

    ``parity`` are films of both splits, ``parity_answers`` (N,) Keras's answers for them, and
    ``parity_others`` its evidence and atypicality; ``answers`` are those for ``validation``.
    """

    card: ModelCard
    model: keras.Model
    validation: Films
    answers: NDArray[np.float64]
    calibration: Films
    parity: NDArray[np.uint8]
    parity_answers: NDArray[np.float64]
    parity_others: dict[str, NDArray[np.float32]]


def find_runs(run: Path) -> list[Path]:
    """The finished model folders of a run, or the folder itself if it is one.

    Raises:
        ConversionError: There is none.
    """
    found = [run] if (run / "card.json").is_file() else []
    found = found or sorted(path.parent for path in run.glob("*/card.json"))
    if not found:
        raise ConversionError(
            f"Expected a finished training run at {run}, found no card.json in it.",
            "Make one with: cxr train DATA -o RUN",
        )
    return found


def read_run(folder: Path, comparison: Comparison | None = None) -> Run:
    """Read what the trainer left, and let Keras judge its films.

    Args:
        folder: The model's run folder.
        comparison: The model against the others that are exported with it; goes into its card.

    Raises:
        ConversionError: A file is missing or broken, there are too few films, or the model may not
            be exported.
    """
    again = "Run the same `cxr train` on it again; a finished training is not repeated."
    try:
        card = read_card((folder / "card.json").read_text(encoding="utf-8"), str(folder))
        model = keras.models.load_model(folder / "model.keras", compile=False)
        with np.load(folder / FILMS_FILE) as stored:
            films = Films(stored["pixels"], stored["labels"], stored["keys"])
            validated = stored["splits"] == "validation"
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        raise ConversionError(f"The run folder {folder} cannot be read: {exc}.", again) from exc
    if card.withheld:
        raise ConversionError(
            f"The model in {folder} may not be exported: {card.withheld}",
            "Train one with `cxr train`, which validates by patient.",
        )
    if len(films) < MIN_FILMS:
        raise ConversionError(
            f"Expected at least {MIN_FILMS} films for the parity check, found {len(films)}.",
            "Train on at least as many films.",
        )
    answers = keras_probabilities(card, model, films.pixels)
    chosen = _spread(answers, validated)
    return Run(
        msgspec.structs.replace(card, comparison=comparison),
        model,
        validation=_take(films, validated),
        answers=answers[validated],
        calibration=_take(films, ~validated),
        parity=films.pixels[chosen],
        parity_answers=answers[chosen],
        parity_others=_others(model, films.pixels[chosen]),
    )


def keras_probabilities(
    card: ModelCard, model: keras.Model, pixels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Calibrated P(pneumonia) by Keras, shape (N,)."""
    found = model.predict(pixels, batch_size=32, verbose=0)["logit"]
    logits = np.asarray(found, dtype=np.float64)[:, 0]
    return np.asarray(
        1 / (1 + np.exp(-(card.calibration.slope * logits + card.calibration.intercept)))
    )


def _others(model: keras.Model, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    found = model.predict(pixels, batch_size=32, verbose=0)
    return {name: found[name] for name in ("evidence", "atypicality") if name in found}


def _take(films: Films, wanted: NDArray[np.bool_]) -> Films:
    return Films(films.pixels[wanted], films.labels[wanted], films.keys[wanted])


def _spread(answers: NDArray[np.float64], validated: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Validation films spread over the range of answers; where they are few, training films too."""
    validation, train = np.flatnonzero(validated), np.flatnonzero(~validated)
    order = validation[np.argsort(answers[validation], kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, PARITY_FILMS).astype(int))
    return np.concatenate([order[places], train])[:PARITY_FILMS]
