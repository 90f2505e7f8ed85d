"""The run folder, where trainer and exporter meet: one folder per model.

::

    RUN/cnn/config.json       what was asked for; a later run with another one is refused
            model.keras       the network, float32, giving logits
            card.json         the model card without a self-test; written last, so it marks the end
            history.csv       loss and accuracy by epoch
            predictions.csv   logit, probability, label and patient by validation and test film
            films.npz         pixels, labels, keys and splits of all validation films and of some
                              training films, for the exporter's checks and calibration
            training.svg, roc.svg
            seconds.txt       spent training
            resume/           while training goes on: what a later run continues from
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import h5py
import msgspec
import numpy as np

from batch_scorer.card import CLASSES, ModelCard, write_card
from batch_scorer.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trainer.dataset import Films
    from trainer.evaluate import Judgement

MODEL_FILE = "model.keras"
CARD_FILE = "card.json"
HISTORY_FILE = "history.csv"
PREDICTIONS_FILE = "predictions.csv"
CONFIG_FILE = "config.json"
RESUME_FOLDER = "resume"
FILMS_FILE = "films.npz"
TRAINING_FILMS = 200
STATE_FOLDER = f"{RESUME_FOLDER}/state"
STATE_WEIGHTS = "latest.weights.h5"
STATE_METADATA = "training_metadata.json"
BEST_WEIGHTS = "epoch-{epoch:03d}.weights.h5"
_RESUME_FILE = re.compile(
    rf"epoch-[0-9]{{3,}}\.weights\.h5|{re.escape(STATE_WEIGHTS)}(\.bkp)?"
    rf"|{re.escape(STATE_METADATA)}(\.bkp)?"
)
SECONDS_FILE = "seconds.txt"
WATCHED = "val_pneumonia_loss"
"""The column of the history whose lowest value marks the best epoch."""
PREDICTION_COLUMNS = ("split", "image", "patient", "label", "logit", "probability")


def read_config(folder: Path) -> dict[str, Any]:
    """What a run was started with."""
    config: dict[str, Any] = msgspec.json.decode((folder / CONFIG_FILE).read_bytes())
    return config


def write_run_card(folder: Path, card: ModelCard) -> None:
    """Write the card, whole or not at all."""
    write_text(folder / CARD_FILE, write_card(card, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    replace_file(path, text.encode())


def remove_resume(folder: Path) -> None:
    """Remove what an interrupted training keeps below a folder; nothing else that lies there."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if _RESUME_FILE.fullmatch(path.name) and not path.is_dir():
            path.unlink()
        elif path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # something else is in it
                path.rmdir()
    with suppress(OSError):
        folder.rmdir()


def read_history(folder: Path) -> dict[str, list[float]]:
    """History by column, one value per epoch; empty before the first epoch ends."""
    rows = _history_rows(folder)
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else {})}


def resume_from(folder: Path) -> int:
    """Prepare an interrupted training to go on.

    History rows beyond the saved state are dropped, since their epochs are repeated. A state that
    was torn by the kill, with none before it to fall back on, is dropped whole.

    Returns:
        How many epochs are done.
    """
    state = folder / STATE_FOLDER
    done = _saved_epochs(state, "")
    if done is None:
        done = _saved_epochs(state, ".bkp")
        if done is None:
            remove_resume(state)
        else:
            for name in (STATE_WEIGHTS, STATE_METADATA):
                shutil.copy(state / f"{name}.bkp", state / name)
    done = done or 0
    rows = [row for row in _history_rows(folder) if int(row["epoch"]) < done]
    (folder / RESUME_FOLDER).mkdir(exist_ok=True)
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(folder / HISTORY_FILE, text.getvalue())
    else:
        (folder / HISTORY_FILE).unlink(missing_ok=True)
    return done


def best_weights(folder: Path) -> Path:
    """The weights of the epoch with the lowest validation loss."""
    losses = read_history(folder)[WATCHED]
    return folder / RESUME_FOLDER / BEST_WEIGHTS.format(epoch=int(np.argmin(losses)) + 1)


def _history_rows(folder: Path) -> list[dict[str, str]]:
    path = folder / HISTORY_FILE
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _saved_epochs(state: Path, end: str) -> int | None:
    """Epochs done by a state that Keras saved, or None where the kill tore it."""
    try:
        h5py.File(state / f"{STATE_WEIGHTS}{end}", "r").close()
        metadata = msgspec.json.decode((state / f"{STATE_METADATA}{end}").read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return int(metadata["epoch"])


def read_seconds(folder: Path) -> float:
    """Seconds spent training so far, over all resumed parts."""
    path = folder / SECONDS_FILE
    return float(path.read_text(encoding="utf-8")) if path.is_file() else 0.0


def write_predictions(folder: Path, judged: Mapping[str, Judgement]) -> None:
    """Write one row per validation and test film."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(PREDICTION_COLUMNS)
    for split, part in judged.items():
        films = part.films
        writer.writerows(
            (split, key, patient, CLASSES[label], f"{logit:.6f}", f"{probability:.6f}")
            for key, patient, label, logit, probability in zip(
                films.keys,
                films.patients,
                films.labels,
                part.logits,
                part.probabilities,
                strict=True,
            )
        )
    write_text(folder / PREDICTIONS_FILE, text.getvalue())


def write_films(folder: Path, validation: Films, train: Films) -> None:
    """Save the films that the exporter needs.

    All validation films, to judge a model file by; and training films, spread evenly over their
    list and so over the classes, to take the ranges of an int8 file from.
    """
    spread = np.unique(np.linspace(0, len(train) - 1, TRAINING_FILMS).astype(int))
    parts = {"validation": validation, "train": train.take(spread)}
    archive = io.BytesIO()
    np.savez(
        archive,
        pixels=np.concatenate([part.pixels for part in parts.values()]),
        labels=np.concatenate([part.labels for part in parts.values()]),
        keys=np.concatenate([part.keys for part in parts.values()]),
        splits=np.repeat(list(parts), [len(part) for part in parts.values()]),
    )
    replace_file(folder / FILMS_FILE, archive.getvalue())


def draw_figures(folder: Path, card: ModelCard) -> None:
    """Draw training and ROC curves with the report's own figures."""
    from batch_scorer.report import figures

    write_text(folder / "training.svg", figures.draw_training([card]))
    write_text(folder / "roc.svg", figures.draw_roc([card]))
