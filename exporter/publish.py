"""One run folder -> one verified model file beside the others, and a line in their manifest."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import msgspec
import numpy as np
import onnx
import tf2onnx

from batch_scorer.card import (
    SELF_TEST_RECIPE,
    SELF_TEST_TOLERANCE,
    SelfTest,
    read_card,
    self_test_pixels,
)
from batch_scorer.classifier import MANIFEST, Manifest
from batch_scorer.errors import ConversionError
from exporter import convert
from exporter.verify import MIN_FILMS, verify

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from batch_scorer.card import ModelCard
    from batch_scorer.comparison import Comparison


@dataclass(frozen=True)
class Published:
    """A model file that was verified and is in place."""

    path: Path
    sha256: str
    size_bytes: int
    films: int
    difference: float


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


def publish(folder: Path, output: Path, comparison: Comparison | None = None) -> Published:
    """Convert, verify and rename into place; nothing half-made is ever visible.

    Args:
        folder: The model's run folder.
        output: Where its file goes, beside the others and their manifest.
        comparison: The model against the others that are exported with it; goes into its card.

    Raises:
        ConversionError: The run folder, the conversion or the manifest there is not right; no file
            is left.
    """
    manifest = _read_manifest(output / MANIFEST)
    card, model, pixels = _read_run(folder)
    card = msgspec.structs.replace(_with_self_test(card, model), comparison=comparison)
    expected = _keras_probabilities(card, model, pixels)
    graph = convert.convert(model, card)
    graph = convert.embed_card(convert.halve_weights(graph), card)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=output) as hidden:
        draft = Path(hidden) / f"{card.name}.onnx"
        onnx.save(graph, draft)
        difference = verify(draft, pixels, expected)
        path = draft.replace(output / draft.name)
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    _write_manifest(output / MANIFEST, _with_model(manifest, card, sha256, len(data)))
    return Published(path, sha256, len(data), len(pixels), difference)


def _read_run(folder: Path) -> tuple[ModelCard, keras.Model, NDArray[np.uint8]]:
    """Read what the trainer left: card, network, and films for the parity check."""
    try:
        card = read_card((folder / "card.json").read_text(encoding="utf-8"), str(folder))
        model = keras.models.load_model(folder / "model.keras", compile=False)
        pixels = np.load(folder / "parity.npy")
    except (OSError, ValueError) as exc:
        raise ConversionError(
            f"The run folder {folder} cannot be read: {exc}.", "Run `cxr train` on it again."
        ) from exc
    if len(pixels) < MIN_FILMS:
        raise ConversionError(
            f"Expected at least {MIN_FILMS} films for the parity check, found {len(pixels)}.",
            "Train on at least as many films.",
        )
    return card, model, pixels


def _with_self_test(card: ModelCard, model: keras.Model) -> ModelCard:
    """Add what Keras answers on the fixed films, and the exporter's versions."""
    answers = _keras_probabilities(card, model, self_test_pixels(card.size_px))
    return msgspec.structs.replace(
        card,
        self_test=SelfTest(SELF_TEST_RECIPE, answers.tolist(), SELF_TEST_TOLERANCE),
        versions={
            **card.versions,
            "tf2onnx": tf2onnx.__version__,
            "onnx": onnx.__version__,
            "opset": str(convert.OPSET),
        },
    )


def _keras_probabilities(
    card: ModelCard, model: keras.Model, pixels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    found = model.predict(pixels, batch_size=32, verbose=0)["logit"]
    logits = np.asarray(found, dtype=np.float64)[:, 0]
    return np.asarray(
        1 / (1 + np.exp(-(card.calibration.slope * logits + card.calibration.intercept)))
    )


def note_comparison(output: Path, comparison: Comparison | None) -> None:
    """Enter the comparison of the models in their manifest, once all of them are in place.

    A folder that holds other models too has no comparison of all its models.
    """
    manifest = _read_manifest(output / MANIFEST)
    if comparison and comparison.names == set(manifest.models):
        _write_manifest(output / MANIFEST, msgspec.structs.replace(manifest, comparison=comparison))


def _read_manifest(path: Path) -> Manifest:
    if not path.is_file():
        return Manifest({})
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.DecodeError as exc:
        raise ConversionError(
            f"{path} is no manifest of this release: {exc}.",
            "Export into another folder, or remove it and export every model again.",
        ) from exc


def _with_model(manifest: Manifest, card: ModelCard, sha256: str, size_bytes: int) -> Manifest:
    """Enter a model, best validation AUC first. A comparison with its predecessor is dropped."""
    entry = {
        "sha256": sha256,
        "size_bytes": size_bytes,
        "commit": card.training.commit,
        "command": card.training.command,
        "seed": card.training.seed,
        "threshold": card.threshold.value,
        "metrics": {
            split: {name: estimate.value for name, estimate in reference.metrics.items()}
            for split, reference in card.references.items()
        },
    }
    models = {**manifest.models, card.name: entry}
    ranked = sorted(models.items(), key=lambda item: -item[1]["metrics"]["validation"]["auc"])
    return Manifest(dict(ranked))


def _write_manifest(path: Path, manifest: Manifest) -> None:
    draft = path.with_name(f".{path.name}.partial")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    draft.replace(path)
