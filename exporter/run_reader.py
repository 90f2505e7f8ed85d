"""A reader of run folders: the card, the network, and images to verify model files with."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import msgspec
import numpy as np

from batch_scorer.errors import ConversionError
from batch_scorer.model.card import decode_card
from batch_scorer.model.card_checks import MAX_CARD_CHARS
from batch_scorer.model.classifier import MAX_MODEL_BYTES
from batch_scorer.storage.output import MAX_TABLE_READ_BYTES
from batch_scorer.system.regular_file import read_regular_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import ModelComparison

CARD_FILE = "card.json"
MODEL_FILE = "model.keras"
IMAGES_FILE = "films.npz"
_NETWORK_ERRORS = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, ImportError, LookupError),
    *(AttributeError, RuntimeError, TypeError, ValueError),
)
"""Keras's errors for a file that is not a network or is damaged."""
_ARRAY_ERRORS = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, MemoryError, OverflowError),
    *(RuntimeError, TypeError, ValueError),
)
"""NumPy's and zipfile's errors for a file that is not an archive of arrays or is damaged."""
MIN_IMAGES = 64
PARITY_IMAGES = 96
_RETRAIN_HINT = "Repeat the same `cxr train` command; it does not repeat a finished training."


@dataclass(frozen=True)
class LabelledImages:
    """Decoded images; ``pixels`` (N, S, S, 1) uint8, ``labels`` (N,) with 1 for pneumonia."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    keys: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TrainedRun:
    """One trained network, and Keras's outputs that its model files are verified against.

    ``predictions`` are Keras's probabilities for ``validation``. ``parity_images`` are images of
    both splits, with ``parity_probabilities`` (N,) and ``parity_other_outputs`` (evidence and
    atypicality).
    """

    card: ModelCard
    model: keras.Model
    validation: LabelledImages
    predictions: NDArray[np.float64]
    calibration: LabelledImages
    parity_images: NDArray[np.uint8]
    parity_probabilities: NDArray[np.float64]
    parity_other_outputs: dict[str, NDArray[np.float32]]


def read_run(folder: Path, comparison: ModelComparison | None = None) -> TrainedRun:
    """Read a run folder and predict its images with Keras.

    Args:
        folder: The model's run folder.
        comparison: The comparison with the other exported models, for its card.

    Raises:
        ConversionError: A file is missing or broken, there are too few images, or the model may
            not be exported.
    """
    card = read_run_card(folder)
    model = _read_network(folder, card)
    images, is_validation = _read_images(folder, card.size_px)
    if len(images) < MIN_IMAGES:
        raise ConversionError(
            f"Expected at least {MIN_IMAGES} images for the parity check, found {len(images)}.",
            "Train on at least as many images.",
        )
    probabilities = predict_with_keras(card, model, images.pixels)
    chosen = _select_parity_images(probabilities, is_validation)
    return TrainedRun(
        msgspec.structs.replace(card, comparison=comparison),
        model,
        validation=_select_images(images, is_validation),
        predictions=probabilities[is_validation],
        calibration=_select_images(images, ~is_validation),
        parity_images=images.pixels[chosen],
        parity_probabilities=probabilities[chosen],
        parity_other_outputs=_predict_other_outputs(model, images.pixels[chosen]),
    )


def _read_network(folder: Path, card: ModelCard) -> keras.Model:
    """Load the trained network, which has all outputs that its card describes.

    Raises:
        ConversionError: The file cannot be loaded, or the network has other inputs or outputs.
    """
    read_run_file(folder, MODEL_FILE, MAX_MODEL_BYTES)  # fails for a pipe, where Keras would wait
    try:
        model = keras.models.load_model(folder / MODEL_FILE, compile=False)
        inputs, outputs = _read_shapes(model.input), _read_shapes(model.output)
    except _NETWORK_ERRORS as exc:
        raise unreadable_run_error(folder, f"{MODEL_FILE}: {exc}") from exc
    expected: dict[str, tuple[int | None, ...]] = {"logit": (None, 1)}
    if card.evidence:
        expected["evidence"] = (None, card.evidence.height, card.evidence.width)
    if card.typicality:
        expected["atypicality"] = (None, 1)
    if card.etiology:
        expected["viral"] = (None, 1)
    shape = (None, card.size_px, card.size_px, 1)
    if inputs != {"": shape} or expected.items() - outputs.items():
        raise unreadable_run_error(
            folder,
            f"expected a network in {MODEL_FILE} with input {shape} and outputs {expected}, "
            f"found input {inputs.get('', inputs)} and outputs {outputs}",
        )
    return model


def _read_shapes(tensors: Any) -> dict[str, tuple[int | None, ...]]:
    """Read shapes by name; a single tensor has the name ""."""
    named = tensors if isinstance(tensors, dict) else {"": tensors}
    return {name: tuple(tensor.shape) for name, tensor in named.items()}


def _read_images(folder: Path, size_px: int) -> tuple[LabelledImages, NDArray[np.bool_]]:
    """Read the trainer's images, and which of them are validation images.

    Raises:
        ConversionError: The file cannot be read, or has images of another size or of one split
            only.
    """
    data = read_run_file(folder, IMAGES_FILE, MAX_TABLE_READ_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > MAX_TABLE_READ_BYTES:
            raise ValueError(f"it unpacks to {unpacked:,} bytes")
        with np.load(io.BytesIO(data)) as stored:
            found = {name: stored[name] for name in ("pixels", "labels", "keys", "splits")}
    except _ARRAY_ERRORS as exc:
        raise unreadable_run_error(folder, f"{IMAGES_FILE}: {exc}") from exc
    number = len(found["labels"]) if found["labels"].ndim else 0
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "pixels": ("u", (number, size_px, size_px, 1)),
        "labels": ("i", (number,)),
        "keys": ("U", (number,)),
        "splits": ("U", (number,)),
    }
    shapes = {name: (array.dtype.kind, array.shape) for name, array in found.items()}
    if shapes != expected or found["pixels"].dtype != np.uint8:
        raise unreadable_run_error(
            folder,
            f"expected images in {IMAGES_FILE} as {expected}, found {shapes}",
        )
    if not set(np.unique(found["labels"])) <= {0, 1}:
        raise unreadable_run_error(
            folder, f"expected labels 0 and 1 in {IMAGES_FILE}, found others"
        )
    splits = found.pop("splits")
    if set(np.unique(splits)) != {"train", "validation"}:
        raise unreadable_run_error(
            folder, f"expected images of train and validation in {IMAGES_FILE}"
        )
    return LabelledImages(**found), splits == "validation"


def predict_with_keras(
    card: ModelCard, model: keras.Model, pixels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Predict calibrated P(pneumonia) with Keras, shape (N,)."""
    found = model.predict(pixels, batch_size=32, verbose=0)["logit"]
    logits = np.asarray(found, dtype=np.float64)[:, 0]
    return card.calibration.apply(logits)


def _predict_other_outputs(
    model: keras.Model, pixels: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    found = model.predict(pixels, batch_size=32, verbose=0)
    return {name: found[name] for name in ("evidence", "atypicality") if name in found}


def _select_images(images: LabelledImages, wanted: NDArray[np.bool_]) -> LabelledImages:
    return LabelledImages(images.pixels[wanted], images.labels[wanted], images.keys[wanted])


def _select_parity_images(
    probabilities: NDArray[np.float64], is_validation: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Select validation images over the range of scores, plus training images if too few."""
    validation, train = np.flatnonzero(is_validation), np.flatnonzero(~is_validation)
    order = validation[np.argsort(probabilities[validation], kind="stable")]
    indices = np.unique(np.linspace(0, len(order) - 1, PARITY_IMAGES).astype(int))
    return np.concatenate([order[indices], train])[:PARITY_IMAGES]


def find_run_folders(run: Path) -> list[Path]:
    """Find the finished model folders of a run, or the folder itself if it is one.

    Raises:
        ConversionError: There is none, or the folder cannot be read.
    """
    try:
        found = [run] if os.path.lexists(run / CARD_FILE) else []
        found = found or sorted(path.parent for path in run.glob(f"*/{CARD_FILE}"))
    except OSError as exc:
        raise ConversionError(f"{run} cannot be read: {exc.strerror}.") from exc
    if not found:
        raise ConversionError(
            f"Expected a finished training run at {run}, found no {CARD_FILE} in it.",
            "Train one with: cxr train DATA -o RUN",
        )
    return found


def read_run_file(folder: Path, name: str, limit_bytes: int) -> bytes:
    """Read a file of the run folder.

    Raises:
        ConversionError: The file is missing, unreadable, not a regular file, or too large.
    """
    try:
        return read_regular_file(folder / name, limit_bytes)
    except OSError as exc:
        raise unreadable_run_error(folder, f"{name}: {exc.strerror}") from exc


def read_run_card(folder: Path) -> ModelCard:
    """Read the model card of the run folder.

    Raises:
        ConversionError: The card cannot be read, or the model may not be exported.
        ModelFileError: The card is broken or of another release.
    """
    data = read_run_file(folder, CARD_FILE, 4 * MAX_CARD_CHARS)  # UTF-8 has up to 4 bytes
    try:
        card = decode_card(data.decode(), str(folder))
    except UnicodeDecodeError as exc:
        raise unreadable_run_error(folder, f"{CARD_FILE} is not text: {exc}") from exc
    if card.withheld:
        raise ConversionError(
            f"The model in {folder} may not be exported: {card.withheld}",
            "Train one with `cxr train`, which validates by patient.",
        )
    return card


def unreadable_run_error(folder: Path, reason: object) -> ConversionError:
    """Build the error for a run folder with invalid files."""
    return ConversionError(f"The run folder {folder} cannot be read: {reason}.", _RETRAIN_HINT)
