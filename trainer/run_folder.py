"""The run folder, where trainer and exporter meet: one folder per model.

::

    RUN/cnn/config.json       the configuration; a later run with another one is refused
            model.keras       the network in float32, with logits as outputs
            card.json         the model card without a self-test; written last, as commit marker
            history.csv       loss and accuracy by epoch
            predictions.csv   logit, probability, label and patient of validation and test images
            films.npz         pixels, labels, keys and splits of all validation images and of some
                              training images, for the exporter's checks and calibration
            training.svg, roc.svg
            seconds.txt       seconds spent training
            resume/           during training: the weights of the latest and the best epoch, from
                              which an interrupted run resumes
            .cxr-batch/       the record of these files, as in the output of a scoring run

A file missing from the record is foreign: the trainer never replaces or removes it.
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
"""The files of a finished training run."""
MONITORED_METRIC = "val_pneumonia_loss"
"""The history column whose lowest value marks the best epoch."""
HISTORY_COLUMNS = (
    "pneumonia_loss",
    MONITORED_METRIC,
    "pneumonia_accuracy",
    "val_pneumonia_accuracy",
)
"""The history columns that the model card contains."""
_FILE_DESCRIPTIONS = {MODEL_FILE: "network", HISTORY_FILE: "history", SECONDS_FILE: "seconds"}
PREDICTION_COLUMNS = ("split", "image", "patient", "label", "logit", "probability")


def open_run(folder: Path) -> Output:
    """Open the run folder as an output that keeps a record of its files."""
    return open_output(folder.absolute())


def read_config(folder: Path) -> dict[str, Any] | None:
    """Read the configuration of a run.

    Returns:
        None if the folder has no configuration.

    Raises:
        ForeignFile: The file is not the configuration of a run.
    """
    if not (folder / CONFIG_FILE).is_file():
        return None
    try:
        return msgspec.json.decode(open_run(folder).read(CONFIG_FILE) or b"", type=dict[str, Any])
    except DECODE_ERRORS as exc:
        raise ForeignFile(
            f"Expected the configuration of a run in {folder / CONFIG_FILE}, found another file.",
            "Choose another output folder, or move that file away.",
        ) from exc


def write_run_card(folder: Path, card: ModelCard) -> None:
    """Write the model card atomically."""
    write_text(folder, CARD_FILE, encode_card(card, indent=2) + "\n")


def write_text(folder: Path, name: str, text: str) -> None:
    """Write a text file of the run atomically.

    Raises:
        ForeignFile: A file of that name exists and is not in the record.
        OutputError: The file cannot be written.
    """
    open_run(folder).write(name, text.encode())


def read_unchanged(output: Output, name: str) -> bytes | None:
    """Read a file; None if it is missing or was changed since it was written."""
    data = output.read(name, MAX_TABLE_READ_BYTES)
    unchanged = data is not None and sha256_hex(data) in output.record().get(name, ())
    return data if unchanged else None


def _read_training_file(folder: Path, name: str) -> bytes | None:
    """Read a file of the training; None if the training has not written it yet.

    Raises:
        DatasetError: The file was changed, or is missing although the training is finished.
        OutputError: The file cannot be read.
    """
    output = open_run(folder)
    data = output.read(name, MAX_TABLE_READ_BYTES)
    if data is None and not os.path.lexists(folder / MODEL_FILE):
        return None
    written = output.record().get(name)  # empty for a run that is older than the record
    if data is None or (written and sha256_hex(data) not in written):
        raise changed_file_error(folder, name)
    return data


def check_network(folder: Path) -> None:
    """Check that the saved network of a finished training is unchanged.

    Raises:
        DatasetError: It was changed or is missing.
        OutputError: It cannot be read.
    """
    if _read_training_file(folder, MODEL_FILE) is None:
        raise changed_file_error(folder, MODEL_FILE)


def read_history(folder: Path) -> dict[str, list[float]]:
    """Read the history of a finished training by column, one value per epoch.

    Raises:
        DatasetError: The file was changed, or lacks a column that the card needs.
    """
    rows = read_history_rows(folder)
    if not rows or not set(HISTORY_COLUMNS) <= rows[0].keys():
        raise changed_file_error(folder, HISTORY_FILE)
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def save_epoch(folder: Path, rows: list[dict[str, str]], seconds: float, weights: bytes) -> None:
    """Save the state after an epoch, so that an interrupted run can resume.

    The weights are written last: a kill in between repeats one epoch and loses none.

    Args:
        folder: The run folder.
        rows: Loss and accuracy of all epochs so far.
        seconds: Seconds spent training so far.
        weights: Encoded weights of the network and its optimiser.

    Raises:
        ForeignFile: A file of that name exists and is not in the record.
        OutputError: The folder cannot be written.
    """
    output = open_run(folder)
    latest = format_weights_name(len(rows))
    output.write_all(
        {
            HISTORY_FILE: _encode_history(rows),
            SECONDS_FILE: f"{seconds:.1f}\n".encode(),
            latest: weights,
        }
    )
    needed = {latest, format_weights_name(_find_best_row(rows))}
    output.remove(*(name for name in _list_weights(output) if name not in needed))


def prepare_resume(folder: Path) -> int:
    """Prepare an interrupted training to resume.

    It resumes after the latest epoch whose weights, and those of the best epoch so far, are
    unchanged. Later history rows are dropped, because their epochs are repeated.

    Returns:
        The number of completed epochs.
    """
    output = open_run(folder)
    rows = read_history_rows(folder)
    unchanged = {
        epoch
        for epoch in range(1, len(rows) + 1)
        if read_unchanged(output, format_weights_name(epoch)) is not None
    }
    completed = max(
        (epoch for epoch in unchanged if _find_best_row(rows[:epoch]) in unchanged), default=0
    )
    if not completed:
        output.remove(HISTORY_FILE)
    elif completed < len(rows):
        output.write(HISTORY_FILE, _encode_history(rows[:completed]))
    return completed


def remove_resume(folder: Path) -> None:
    """Remove the resume weights of a finished training."""
    output = open_run(folder)
    output.remove(*_list_weights(output))
    output.remove_empty_folder(RESUME_FOLDER)


def find_best_epoch(folder: Path) -> int:
    """Find the epoch with the lowest validation loss, counted from 1."""
    return _find_best_row(read_history_rows(folder))


def format_weights_name(epoch: int) -> str:
    """Format the file name of the weights after an epoch."""
    return f"{RESUME_FOLDER}/epoch-{epoch:03d}.weights.h5"


def _list_weights(output: Output) -> list[str]:
    return [name for name in output.list_files(RESUME_FOLDER) if _WEIGHTS_FILE.fullmatch(name)]


def _find_best_row(rows: list[dict[str, str]]) -> int:
    return int(np.argmin([float(row[MONITORED_METRIC]) for row in rows])) + 1


def read_history_rows(folder: Path) -> list[dict[str, str]]:
    """Read loss and accuracy of every completed epoch.

    Raises:
        DatasetError: The file is not a training history.
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
    """Return True for a numeric cell; rows of the wrong length have cells that are not text."""
    try:
        float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def changed_file_error(folder: Path, name: str) -> DatasetError:
    """Build the error for a file that was changed since training wrote it."""
    return DatasetError(
        f"Expected the unchanged {_FILE_DESCRIPTIONS[name]} of a training run in {folder / name}, "
        "found other content.",
        "Restore the original file, or train into another output folder.",
    )


def _encode_history(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_seconds(folder: Path) -> float:
    """Read the seconds spent training so far, over all resumed parts.

    Raises:
        DatasetError: The file does not contain a number of seconds.
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


def write_predictions(folder: Path, predictions: Mapping[str, CalibratedPredictions]) -> None:
    """Write one row per validation and test image."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(PREDICTION_COLUMNS)
    for split, part in predictions.items():
        images = part.images
        writer.writerows(
            (split, key, patient, CLASSES[label], f"{logit:.6f}", f"{probability:.6f}")
            for key, patient, label, logit, probability in zip(
                images.keys,
                images.patients,
                images.labels,
                part.logits,
                part.probabilities,
                strict=True,
            )
        )
    write_text(folder, PREDICTIONS_FILE, text.getvalue())


def write_images(folder: Path, validation: LabelledImages, train: LabelledImages) -> None:
    """Write the images that the exporter needs to ``films.npz``.

    All validation images, to verify model files; and a sample of training images of both classes,
    to calibrate int8 files.
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
    """Draw training and ROC curves in the report's style."""
    from batch_scorer.report.charts import performance

    write_text(folder, TRAINING_FIGURE, performance.draw_training_curves([card]))
    write_text(folder, ROC_FIGURE, performance.draw_roc([card]))
