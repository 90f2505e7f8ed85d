"""One trained network -> a verified model file, its Markdown card, and an entry in the manifest."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import onnx
import tf2onnx

from batch_scorer.errors import ConversionError, OutputError, UsageError
from batch_scorer.model.card import (
    SELF_TEST_RECIPE,
    decode_card,
    draw_self_test_images,
    encode_card,
)
from batch_scorer.model.card_sections import (
    FLOAT16_SELF_TEST_TOLERANCE,
    SELF_TEST_TOLERANCE,
    SelfTest,
)
from batch_scorer.model.classifier import MANIFEST_NAME, MAX_MODEL_BYTES, Manifest, ModelEntry
from batch_scorer.model.onnx_runtime import ort
from batch_scorer.report.formats.card_markdown import format_card_markdown
from batch_scorer.storage.output import open_output, sha256_hex
from batch_scorer.system.strict_json import DECODE_ERRORS
from exporter import convert
from exporter.optimize import optimize_graph
from exporter.quantize import convert_float16, emulate_float16, quantize_int8
from exporter.run_reader import predict_with_keras
from exporter.validate import check_precision, predict_with_graph, verify_model_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import ModelComparison, Precision, ReducedPrecision
    from batch_scorer.storage.output import Output, OwnershipRecord
    from exporter.run_reader import TrainedRun

    PrecisionName = Literal["float32"] | ReducedPrecision
    ConvertedModel = tuple[onnx.ModelProto, ModelCard, NDArray[np.float64]]


@dataclass(frozen=True)
class ExportedModel:
    """An exported and verified model file; ``precision`` is None for float32."""

    path: Path
    sha256: str
    size_bytes: int
    images: int
    difference: float
    precision: Precision | None


def open_model_folder(folder: Path) -> tuple[Output, Manifest]:
    """Open a folder for model files, created if needed, and check that it is writable.

    A folder without a record may come from a release that kept none. Files whose hash is in its
    manifest are then added to the record.

    Returns:
        The folder and its manifest.

    Raises:
        UsageError: The folder cannot be created or written.
        ConversionError: The manifest is not of this release.
        ForeignFile: The manifest was not written by an export.
    """
    output = open_output(folder.absolute())
    try:
        output.refuse_foreign_files(
            [MANIFEST_NAME], own=[MANIFEST_NAME]
        )  # before reading, because the name may be a link or a pipe
        manifest = read_manifest(output)
        unrecorded = {} if output.has_record else _find_unrecorded_export(output, manifest)
        output.refuse_foreign_files([MANIFEST_NAME], unrecorded)
        output.prepare()
        if not output.has_record:
            output.add_to_record(unrecorded)
    except OutputError as exc:
        raise UsageError(exc.sentence, exc.hint) from exc
    return output, manifest


def _find_unrecorded_export(output: Output, manifest: Manifest) -> OwnershipRecord:
    """Find the files of an export without a record."""
    stated = {_format_file_name(name): entry.sha256 for name, entry in manifest.models.items()}
    stated |= {format_card_name(name): entry.card_sha256 for name, entry in manifest.models.items()}
    contents = {name: output.read(name, MAX_MODEL_BYTES) for name in stated}
    found = {
        name: [stated[name]]
        for name, data in contents.items()
        if data is not None and sha256_hex(data) == stated[name]
    }
    return (
        {**found, MANIFEST_NAME: [sha256_hex(output.read(MANIFEST_NAME) or b"")]} if found else {}
    )


def _format_file_name(model: str) -> str:
    return f"{model}.onnx"


def format_card_name(model: str) -> str:
    """Name the Markdown card of a model."""
    return f"{model}.md"


def read_manifest(output: Output) -> Manifest:
    """Read the manifest of a folder; empty if there is none.

    Raises:
        ConversionError: The file is not a manifest of this release.
        OutputError: The file cannot be read.
    """
    data = output.read(MANIFEST_NAME)
    try:
        return Manifest({}) if data is None else msgspec.json.decode(data, type=Manifest)
    except DECODE_ERRORS as exc:
        raise ConversionError(
            f"{output.url}/{MANIFEST_NAME} is not a manifest of this release: {exc}.",
            "Export into another folder, or remove it and export every model again.",
        ) from exc


def format_manifest(manifest: Manifest) -> bytes:
    """Format a manifest as the JSON text of its file."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def export_model(
    run: TrainedRun,
    folder: Path,
    precision_name: PrecisionName = "float32",
    *,
    with_suffix: bool = False,
    license_id: str = "",
) -> ExportedModel:
    """Convert and verify, then write the model file, its Markdown card and its manifest entry.

    Args:
        run: From ``read_run``.
        folder: The output folder; created if needed.
        precision_name: "float32", "float16" or "int8".
        with_suffix: Name the file NAME.PRECISION.onnx, because NAME.onnx is another format.
        license_id: The license that NAME.md states; empty for none.

    Raises:
        UsageError: The folder cannot be created or written.
        ForeignFile: An existing model file, card or manifest was not exported.
        PrecisionRefused: The smaller format would lose too much accuracy; no file is written.
        ConversionError: The converted file is wrong; no file is written.
        OutputError: The model file, the card or the manifest cannot be written.
    """
    output, manifest = open_model_folder(folder)
    model = f"{run.card.name}.{precision_name}" if with_suffix else run.card.name
    name = _format_file_name(model)
    output.refuse_foreign_files([name, format_card_name(model)])
    graph, card, expected = (
        _convert_float32(run)
        if precision_name == "float32"
        else _convert_reduced(run, precision_name)
    )
    if with_suffix:
        card = msgspec.structs.replace(card, name=model, title=f"{card.title}, {precision_name}")
    others = run.parity_other_outputs if precision_name == "float32" else None
    with tempfile.TemporaryDirectory() as temporary:
        draft = Path(temporary) / name
        onnx.save(convert.embed_card(graph, card), draft)
        difference = verify_model_file(draft, run.parity_images, expected, others)
        data = draft.read_bytes()
    sha256 = sha256_hex(data)
    stored = decode_card(encode_card(card), name)  # its keys in the order of the model file
    markdown = format_card_markdown(stored, sha256, license_id).encode()
    listed = _add_model(manifest, card, sha256, len(data), sha256_hex(markdown))
    output.write_all(
        {name: data, format_card_name(model): markdown, MANIFEST_NAME: format_manifest(listed)}
    )
    return ExportedModel(
        folder / name, sha256, len(data), len(run.parity_images), difference, card.precision
    )


def _convert_float32(run: TrainedRun) -> ConvertedModel:
    """Return the graph, its card, and Keras's probabilities for the parity images."""
    card = run.card
    graph = convert.store_half_weights(optimize_graph(convert.convert(run.model, card)))
    probabilities = predict_with_keras(card, run.model, draw_self_test_images(card.size_px))
    return graph, _add_self_test(card, probabilities, SELF_TEST_TOLERANCE), run.parity_probabilities


def _convert_reduced(run: TrainedRun, precision_name: ReducedPrecision) -> ConvertedModel:
    """Return the checked graph, its card, and its own probabilities for the parity images.

    The weights are not stored in half precision: the float32 ones are few, and int8 scales must be
    plain constants.
    """
    card = run.card
    graph = convert.convert(run.model, card)
    if precision_name == "int8":
        graph = checked = optimize_graph(quantize_int8(graph, run.calibration.pixels))
        tolerance = SELF_TEST_TOLERANCE
    else:
        graph = optimize_graph(convert_float16(graph))
        checked, tolerance = emulate_float16(graph), FLOAT16_SELF_TEST_TOLERANCE
    precision = check_precision(
        precision_name, predict_with_graph(checked, run.validation.pixels), run
    )
    probabilities = predict_with_graph(checked, draw_self_test_images(card.size_px))
    card = msgspec.structs.replace(card, precision=precision)
    card = _add_self_test(card, probabilities, tolerance)
    return graph, card, predict_with_graph(graph, run.parity_images)


def _add_self_test(
    card: ModelCard, probabilities: NDArray[np.float64], tolerance: float
) -> ModelCard:
    """Add the probabilities for the self-test images, and the exporter's versions."""
    return msgspec.structs.replace(
        card,
        self_test=SelfTest(SELF_TEST_RECIPE, probabilities.tolist(), tolerance),
        versions={
            **card.versions,
            "tf2onnx": tf2onnx.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": ort.__version__,
            "opset": str(convert.OPSET),
        },
    )


def write_comparison(folder: Path, comparison: ModelComparison | None) -> None:
    """Add the comparison to the manifest after all models are exported.

    A folder with other models has no comparison of all its models, so nothing is written.
    """
    output, manifest = open_model_folder(folder)
    if comparison and comparison.names == set(manifest.models):
        compared = msgspec.structs.replace(manifest, comparison=comparison)
        output.write(MANIFEST_NAME, format_manifest(compared))


def _add_model(
    manifest: Manifest, card: ModelCard, sha256: str, size_bytes: int, card_sha256: str
) -> Manifest:
    """Add a model, best validation AUC first, and drop the comparison with its predecessor."""
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
        card_sha256=card_sha256,
    )
    models = {**manifest.models, card.name: entry}
    return Manifest(dict(sorted(models.items(), key=lambda item: -_read_validation_auc(item[1]))))


def _read_validation_auc(entry: ModelEntry) -> float:
    return entry.metrics.get("validation", {}).get("auc") or 0.0
