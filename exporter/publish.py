"""One trained network -> one verified model file, and a line in its folder's manifest."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import onnx
import tf2onnx

from batch_scorer.card import (
    FLOAT16_SELF_TEST_TOLERANCE,
    SELF_TEST_RECIPE,
    SELF_TEST_TOLERANCE,
    SelfTest,
    self_test_pixels,
)
from batch_scorer.classifier import MANIFEST, Manifest, ModelEntry
from batch_scorer.errors import ForeignFile, UsageError
from batch_scorer.onnx_runtime import ort
from exporter import convert
from exporter.manifest import explain_writing, read_manifest, write_manifest
from exporter.quantize import keep_halves, to_float16, to_int8
from exporter.rewrites import make_cheaper
from exporter.run import keras_probabilities
from exporter.verify import graph_probabilities, judge, verify

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from batch_scorer.card import ModelCard, Precision, SmallKind
    from batch_scorer.comparison import Comparison
    from exporter.run import Run

    Kind = Literal["float32"] | SmallKind
    Draft = tuple[onnx.ModelProto, ModelCard, NDArray[np.float64]]


@dataclass(frozen=True)
class Published:
    """A model file that was verified and is in place; ``precision`` is None for float32."""

    path: Path
    sha256: str
    size_bytes: int
    films: int
    difference: float
    precision: Precision | None


def prepare_folder(output: Path) -> Manifest:
    """Make a folder for model files where there is none, and prove that it can be written.

    Returns:
        What its manifest says.

    Raises:
        UsageError: It cannot be made or written.
        ConversionError: Its manifest is none of this release.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=output):
            pass
    except OSError as exc:
        raise UsageError(
            f"The folder {output} cannot be written: {exc.strerror}.",
            "Choose another folder with -o.",
        ) from exc
    return read_manifest(output / MANIFEST)


def publish(run: Run, output: Path, kind: Kind = "float32", *, beside: bool = False) -> Published:
    """Convert, verify and rename into place; nothing half-made is ever visible.

    Args:
        run: From ``read_run``.
        output: Folder, made where needed.
        kind: "float32", "float16" or "int8".
        beside: Call the file NAME.KIND.onnx, since another one is NAME.onnx.

    Raises:
        UsageError: The folder cannot be made or written.
        ForeignFile: The model file or the manifest that is there was not exported.
        PrecisionRefused: The smaller format would lose too much; no file is left.
        ConversionError: The conversion is not right; no file is left.
        LedgerError: The model file or the manifest cannot be written.
    """
    manifest = prepare_folder(output)
    graph, card, expected = _as_float32(run) if kind == "float32" else _as_smaller(run, kind)
    if beside:
        card = msgspec.structs.replace(
            card, name=f"{card.name}.{kind}", title=f"{card.title}, {kind}"
        )
    _check_own(output, card.name, manifest)
    path = output / f"{card.name}.onnx"
    with (
        explain_writing(path),
        tempfile.TemporaryDirectory(prefix=".export-", dir=output) as hidden,
    ):
        draft = Path(hidden) / path.name
        onnx.save(convert.embed_card(graph, card), draft)
        others = run.parity_others if kind == "float32" else None
        difference = verify(draft, run.parity, expected, others)
        data = draft.read_bytes()
        draft.replace(path)
    sha256 = hashlib.sha256(data).hexdigest()
    write_manifest(output / MANIFEST, _with_model(manifest, card, sha256, len(data)))
    return Published(path, sha256, len(data), len(run.parity), difference, card.precision)


def _check_own(output: Path, name: str, manifest: Manifest) -> None:
    """Make sure that what is going to be replaced was exported: model file and manifest."""
    path, listing = _model_file(output, name), output / MANIFEST
    if os.path.lexists(path) and not _is_listed(path, manifest):
        raise ForeignFile(
            f"{path} is not the file that {MANIFEST} beside it names, and would be replaced.",
            "Choose another folder with -o, or move the file away.",
        )
    listed = any(_is_listed(_model_file(output, name), manifest) for name in manifest.models)
    if listing.is_symlink() or (listing.exists() and not listed):
        raise ForeignFile(
            f"Expected the manifest of the models in {output}, found that {listing} names none.",
            "Choose another folder with -o, or move the file away.",
        )


def _model_file(output: Path, name: str) -> Path:
    return output / f"{Path(name).name}.onnx"


def _is_listed(path: Path, manifest: Manifest) -> bool:
    """Whether a manifest names a model file with its hash."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stem in manifest.models and manifest.models[path.stem].sha256 == sha256


def _as_float32(run: Run) -> Draft:
    """The graph, its card, and Keras's answers for the parity films."""
    card = run.card
    graph = convert.halve_weights(make_cheaper(convert.convert(run.model, card)))
    answers = keras_probabilities(card, run.model, self_test_pixels(card.size_px))
    return graph, _with_self_test(card, answers, SELF_TEST_TOLERANCE), run.parity_answers


def _as_smaller(run: Run, kind: SmallKind) -> Draft:
    """The graph, its card, and its own answers for the parity films, once it was judged.

    Its weights are not halved: what is left in float32 is small, and the scales of an int8 file
    have to be plain constants.
    """
    card = run.card
    graph = convert.convert(run.model, card)
    if kind == "int8":
        graph = judged = make_cheaper(to_int8(graph, run.calibration.pixels))
        tolerance = SELF_TEST_TOLERANCE
    else:
        graph = make_cheaper(to_float16(graph))
        judged, tolerance = keep_halves(graph), FLOAT16_SELF_TEST_TOLERANCE
    precision = judge(kind, graph_probabilities(judged, run.validation.pixels), run)
    answers = graph_probabilities(judged, self_test_pixels(card.size_px))
    card = msgspec.structs.replace(card, precision=precision)
    card = _with_self_test(card, answers, tolerance)
    return graph, card, graph_probabilities(graph, run.parity)


def _with_self_test(card: ModelCard, answers: NDArray[np.float64], tolerance: float) -> ModelCard:
    """Add the answers on the fixed films, and the exporter's versions."""
    return msgspec.structs.replace(
        card,
        self_test=SelfTest(SELF_TEST_RECIPE, answers.tolist(), tolerance),
        versions={
            **card.versions,
            "tf2onnx": tf2onnx.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": ort.__version__,
            "opset": str(convert.OPSET),
        },
    )


def note_comparison(output: Path, comparison: Comparison | None) -> None:
    """Enter the comparison of the models in their manifest, once all of them are in place.

    A folder that holds other models too has no comparison of all its models.
    """
    manifest = read_manifest(output / MANIFEST)
    if comparison and comparison.names == set(manifest.models):
        write_manifest(output / MANIFEST, msgspec.structs.replace(manifest, comparison=comparison))


def _with_model(manifest: Manifest, card: ModelCard, sha256: str, size_bytes: int) -> Manifest:
    """Enter a model, best validation AUC first. A comparison with its predecessor is dropped."""
    entry = ModelEntry(
        precision=card.precision.kind if card.precision else "float32",
        sha256=sha256,
        size_bytes=size_bytes,
        commit=card.training.commit,
        command=card.training.command,
        seed=card.training.seed,
        threshold=card.threshold.value,
        metrics={
            split: {name: estimate.value for name, estimate in reference.metrics.items()}
            for split, reference in card.references.items()
        },
    )
    models = {**manifest.models, card.name: entry}
    return Manifest(dict(sorted(models.items(), key=lambda item: -_auc(item[1]))))


def _auc(entry: ModelEntry) -> float:
    return entry.metrics.get("validation", {}).get("auc") or 0.0
