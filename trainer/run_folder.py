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
            resume/           while training goes on: the weights of the newest and of the best
                              epoch, which a later run continues from
            .cxr-batch/       the record of these files, as in the output of a score

A file that the record does not name is somebody else's: it is never replaced or removed.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from batch_scorer.errors import DatasetError, ForeignFile
from batch_scorer.model.card import CLASSES, ModelCard, encode_card
from batch_scorer.storage.output import MAX_TABLE_READ_BYTES, open_output, sha256_hex
from batch_scorer.system.strict_json import DECODE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batch_scorer.storage.output import Output
    from trainer.data.dataset import LabelledImages
    from trainer.evaluate import CalibratedPredictions

MODEL_FILE = "model.keras"
CARD_FILE = "card.json"
HISTORY_FILE = "history.csv"
PREDICTIONS_FILE = "predictions.csv"
CONFIG_FILE = "config.json"
RESUME_FOLDER = "resume"
IMAGES_FILE = "films.npz"
TRAINING_SAMPLE_SIZE = 200
_WEIGHTS_FILE = re.compile(rf"{RESUME_FOLDER}/epoch-([0-9]{{3,9}})\.weights\.h5")
SECONDS_FILE = "seconds.txt"
TRAINING_FIGURE, ROC_FIGURE = "training.svg", "roc.svg"
RUN_FILES = (
    *(CONFIG_FILE, MODEL_FILE, CARD_FILE, HISTORY_FILE, PREDICTIONS_FILE, IMAGES_FILE),
    *(SECONDS_FILE, TRAINING_FIGURE, ROC_FIGURE),
)
"""What a finished training leaves."""
MONITORED_METRIC = "val_pneumonia_loss"
"""The column of the history whose lowest value marks the best epoch."""
HISTORY_COLUMNS = (
    "pneumonia_loss",
    MONITORED_METRIC,
    "pneumonia_accuracy",
    "val_pneumonia_accuracy",
)
"""What the card shows of the history."""
_FILE_DESCRIPTIONS = {MODEL_FILE: "network", HISTORY_FILE: "history", SECONDS_FILE: "seconds"}
PREDICTION_COLUMNS = ("split", "image", "patient", "label", "logit", "probability")


def open_run(folder: Path) -> Output:
    """The run folder as a place that keeps a record of its files."""
    return open_output(folder.absolute())


def read_config(folder: Path) -> dict[str, Any] | None:
    """What a run was started with, None where there is none.

    Raises:
        ForeignFile: The file holds something else.
    """
    if not (folder / CONFIG_FILE).is_file():
        return None
    try:
        return msgspec.json.decode(open_run(folder).read(CONFIG_FILE) or b"", type=dict[str, Any])
    except DECODE_ERRORS as exc:
        raise ForeignFile(
            f"Expected what a run was started with in {folder / CONFIG_FILE}, found another file.",
            "Choose another output folder, or move that file away.",
        ) from exc


def write_run_card(folder: Path, card: ModelCard) -> None:
    """Write the card, whole or not at all."""
    write_text(folder, CARD_FILE, encode_card(card, indent=2) + "\n")


def write_text(folder: Path, name: str, text: str) -> None:
    """Write a text file of a run, whole or not at all.

    Raises:
        ForeignFile: Somebody else's file is there.
        LedgerError: It cannot be written.
    """
    open_run(folder).write(name, text.encode())


def read_unchanged(place: Output, name: str) -> bytes | None:
    """The content of a file, None where it is not there or not as it was written."""
    data = place.read(name, MAX_TABLE_READ_BYTES)
    own = data is not None and sha256_hex(data) in place.record().get(name, ())
    return data if own else None


def _read_training_file(folder: Path, name: str) -> bytes | None:
    """The content of a file that training keeps, None where it did not get there yet.

    Raises:
        DatasetError: It is not as it was written, or gone though the training is finished.
        LedgerError: It cannot be read.
    """
    place = open_run(folder)
    data = place.read(name, MAX_TABLE_READ_BYTES)
    if data is None and not os.path.lexists(folder / MODEL_FILE):
        return None
    written = place.record().get(name)  # empty for a run that is older than the record
    if data is None or (written and sha256_hex(data) not in written):
        raise changed_file_error(folder, name)
    return data


def check_network(folder: Path) -> None:
    """Make sure that the network of a finished training is as it was written.

    Raises:
        DatasetError: It is not.
        LedgerError: It cannot be read.
    """
    if _read_training_file(folder, MODEL_FILE) is None:
        raise changed_file_error(folder, MODEL_FILE)


def read_history(folder: Path) -> dict[str, list[float]]:
    """History of a finished training by column, one value per epoch.

    Raises:
        DatasetError: The file is not as it was written, or lacks a column that the card needs.
    """
    rows = read_history_rows(folder)
    if not rows or not set(HISTORY_COLUMNS) <= rows[0].keys():
        raise changed_file_error(folder, HISTORY_FILE)
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def save_epoch(folder: Path, rows: list[dict[str, str]], seconds: float, weights: bytes) -> None:
    """Keep what a later run needs to go on after an epoch, and what the best one needs.

    The weights are written last: a kill in between repeats an epoch and loses none.

    Args:
        folder: The run folder.
        rows: Loss and accuracy of every epoch until now.
        seconds: Spent training so far.
        weights: Of the network and its optimiser.

    Raises:
        ForeignFile: Something came under a name of the run that the program did not write.
        LedgerError: It cannot be written.
    """
    place = open_run(folder)
    newest = format_weights_name(len(rows))
    place.write_all(
        {
            HISTORY_FILE: _encode_history(rows),
            SECONDS_FILE: f"{seconds:.1f}\n".encode(),
            newest: weights,
        }
    )
    needed = {newest, format_weights_name(_find_best_row(rows))}
    place.remove(*(name for name in _list_weights(place) if name not in needed))


def prepare_resume(folder: Path) -> int:
    """Prepare an interrupted training to go on.

    It goes on after the newest epoch whose weights are as they were written, and those of the best
    epoch until then too. Later rows of the history are dropped, since their epochs are repeated.

    Returns:
        How many epochs are done.
    """
    place = open_run(folder)
    rows = read_history_rows(folder)
    whole = {
        epoch
        for epoch in range(1, len(rows) + 1)
        if read_unchanged(place, format_weights_name(epoch)) is not None
    }
    done = max((epoch for epoch in whole if _find_best_row(rows[:epoch]) in whole), default=0)
    if not done:
        place.remove(HISTORY_FILE)
    elif done < len(rows):
        place.write(HISTORY_FILE, _encode_history(rows[:done]))
    return done


def remove_resume(folder: Path) -> None:
    """Remove the weights that a finished training no longer needs."""
    place = open_run(folder)
    place.remove(*_list_weights(place))
    place.remove_empty_folder(RESUME_FOLDER)


def find_best_epoch(folder: Path) -> int:
    """The number of the epoch with the lowest validation loss, from 1."""
    return _find_best_row(read_history_rows(folder))


def format_weights_name(epoch: int) -> str:
    """Where the weights after an epoch are, while training goes on."""
    return f"{RESUME_FOLDER}/epoch-{epoch:03d}.weights.h5"


def _list_weights(place: Output) -> list[str]:
    return [name for name in place.list_files(RESUME_FOLDER) if _WEIGHTS_FILE.fullmatch(name)]


def _find_best_row(rows: list[dict[str, str]]) -> int:
    return int(np.argmin([float(row[MONITORED_METRIC]) for row in rows])) + 1


def read_history_rows(folder: Path) -> list[dict[str, str]]:
    """Loss and accuracy of every epoch that is over.

    Raises:
        DatasetError: The file holds something else.
    """
    data = _read_training_file(folder, HISTORY_FILE)
    if data is None:
        return []
    try:
        text = io.StringIO(data.decode(), newline="")
        rows: list[dict[str, str]] = list(csv.DictReader(text))
        if all(MONITORED_METRIC in row and all(map(_is_number, row.values())) for row in rows):
            return rows
    except (UnicodeDecodeError, csv.Error) as exc:
        raise changed_file_error(folder, HISTORY_FILE) from exc
    raise changed_file_error(folder, HISTORY_FILE)


def _is_number(text: object) -> bool:
    """Whether the cell of a table is one; a row that is too long or too short has other cells."""
    try:
        float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def changed_file_error(folder: Path, name: str) -> DatasetError:
    """The error for a file that is not as training wrote it."""
    return DatasetError(
        f"Expected the {_FILE_DESCRIPTIONS[name]} of a training in {folder / name}, found something else.",
        "Put the file back as it was, or train in another output folder.",
    )


def _encode_history(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_seconds(folder: Path) -> float:
    """Seconds spent training so far, over all resumed parts.

    Raises:
        DatasetError: The file holds something else.
    """
    data = _read_training_file(folder, SECONDS_FILE)
    if data is None:
        return 0.0
    try:
        seconds = float(data.decode())
    except ValueError as exc:
        raise changed_file_error(folder, SECONDS_FILE) from exc
    if not 0 <= seconds < math.inf:
        raise changed_file_error(folder, SECONDS_FILE)
    return seconds


def write_predictions(folder: Path, judged: Mapping[str, CalibratedPredictions]) -> None:
    """Write one row per validation and test film."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(PREDICTION_COLUMNS)
    for split, part in judged.items():
        films = part.images
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
    write_text(folder, PREDICTIONS_FILE, text.getvalue())


def write_images(folder: Path, validation: LabelledImages, train: LabelledImages) -> None:
    """Save the films that the exporter needs.

    All validation films, to judge a model file by; and training films, spread evenly over their
    list and so over the classes, to take the ranges of an int8 file from.
    """
    spread = np.unique(np.linspace(0, len(train) - 1, TRAINING_SAMPLE_SIZE).astype(int))
    parts = {"validation": validation, "train": train.take(spread)}
    archive = io.BytesIO()
    np.savez(
        archive,
        pixels=np.concatenate([part.pixels for part in parts.values()]),
        labels=np.concatenate([part.labels for part in parts.values()]),
        keys=np.concatenate([part.keys for part in parts.values()]),
        splits=np.repeat(list(parts), [len(part) for part in parts.values()]),
    )
    open_run(folder).write(IMAGES_FILE, archive.getvalue())


def draw_figures(folder: Path, card: ModelCard) -> None:
    """Draw training and ROC curves with the report's own figures."""
    from batch_scorer.report.charts import performance

    write_text(folder, TRAINING_FIGURE, performance.draw_training_curves([card]))
    write_text(folder, ROC_FIGURE, performance.draw_roc([card]))
