"""One trained network -> one verified model file, its card in Markdown, a line in the manifest."""

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
    """A model file that was verified and is in place; ``precision`` is None for float32."""

    path: Path
    sha256: str
    size_bytes: int
    images: int
    difference: float
    precision: Precision | None


def open_model_folder(folder: Path) -> tuple[Output, Manifest]:
    """Open a folder for model files, made where needed, and prove that it can be written.

    A folder without a record may have been exported by a version that kept none: it is taken over
    where its manifest states the hash of a model file in it.

    Returns:
        The folder, and its manifest.

    Raises:
        UsageError: It cannot be made or written.
        ConversionError: Its manifest is none of this release.
        ForeignFile: Its manifest was not written by an export.
    """
    output = open_output(folder.absolute())
    try:
        output.refuse_foreign_files(
            [MANIFEST_NAME], own=[MANIFEST_NAME]
        )  # neither a link nor a pipe is read
        manifest = read_manifest(output)
        old = {} if output.has_record else _find_unrecorded_export(output, manifest)
        output.refuse_foreign_files([MANIFEST_NAME], old)
        output.prepare()
        if not output.has_record:
            output.add_to_record(old)
    except OutputError as exc:
        raise UsageError(exc.sentence, exc.hint) from exc
    return output, manifest


def _find_unrecorded_export(output: Output, manifest: Manifest) -> OwnershipRecord:
    """The files of an export that kept no record."""
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
    """Read the manifest of a folder; an empty one where there is none.

    Raises:
        ConversionError: It is no manifest of this release.
        LedgerError: It cannot be read.
    """
    data = output.read(MANIFEST_NAME)
    try:
        return Manifest({}) if data is None else msgspec.json.decode(data, type=Manifest)
    except DECODE_ERRORS as exc:
        raise ConversionError(
            f"{output.url}/{MANIFEST_NAME} is no manifest of this release: {exc}.",
            "Export into another folder, or remove it and export every model again.",
        ) from exc


def format_manifest(manifest: Manifest) -> bytes:
    """Format a manifest as the JSON of its file."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def export_model(
    run: TrainedRun,
    folder: Path,
    kind: PrecisionName = "float32",
    *,
    beside: bool = False,
    license_id: str = "",
) -> ExportedModel:
    """Convert, verify, then write the model file, its card and its line of the manifest.

    Args:
        run: From ``read_run``.
        folder: Where to; made where needed.
        kind: "float32", "float16" or "int8".
        beside: Call the file NAME.KIND.onnx, since another one is NAME.onnx.
        license_id: The license that NAME.md states; empty for none.

    Raises:
        UsageError: The folder cannot be made or written.
        ForeignFile: The model file, the card or the manifest that is there was not exported.
        PrecisionRefused: The smaller format would lose too much; no file is left.
        ConversionError: The conversion is not right; no file is left.
        LedgerError: The model file, the card or the manifest cannot be written.
    """
    output, manifest = open_model_folder(folder)
    model = f"{run.card.name}.{kind}" if beside else run.card.name
    name = _format_file_name(model)
    output.refuse_foreign_files([name, format_card_name(model)])
    graph, card, expected = (
        _convert_float32(run) if kind == "float32" else _convert_reduced(run, kind)
    )
    if beside:
        card = msgspec.structs.replace(card, name=model, title=f"{card.title}, {kind}")
    others = run.parity_other_outputs if kind == "float32" else None
    with tempfile.TemporaryDirectory() as hidden:
        draft = Path(hidden) / name
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
    """The graph, its card, and Keras's answers for the parity films."""
    card = run.card
    graph = convert.store_half_weights(optimize_graph(convert.convert(run.model, card)))
    answers = predict_with_keras(card, run.model, draw_self_test_images(card.size_px))
    return graph, _add_self_test(card, answers, SELF_TEST_TOLERANCE), run.parity_probabilities


def _convert_reduced(run: TrainedRun, kind: ReducedPrecision) -> ConvertedModel:
    """The graph, its card, and its own answers for the parity films, once it was judged.

    Its weights are not halved: what is left in float32 is small, and the scales of an int8 file
    have to be plain constants.
    """
    card = run.card
    graph = convert.convert(run.model, card)
    if kind == "int8":
        graph = judged = optimize_graph(quantize_int8(graph, run.calibration.pixels))
        tolerance = SELF_TEST_TOLERANCE
    else:
        graph = optimize_graph(convert_float16(graph))
        judged, tolerance = emulate_float16(graph), FLOAT16_SELF_TEST_TOLERANCE
    precision = check_precision(kind, predict_with_graph(judged, run.validation.pixels), run)
    answers = predict_with_graph(judged, draw_self_test_images(card.size_px))
    card = msgspec.structs.replace(card, precision=precision)
    card = _add_self_test(card, answers, tolerance)
    return graph, card, predict_with_graph(graph, run.parity_images)


def _add_self_test(card: ModelCard, answers: NDArray[np.float64], tolerance: float) -> ModelCard:
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


def write_comparison(folder: Path, comparison: ModelComparison | None) -> None:
    """Enter the comparison of the models in their manifest, once all of them are in place.

    A folder that holds other models too has no comparison of all its models.
    """
    output, manifest = open_model_folder(folder)
    if comparison and comparison.names == set(manifest.models):
        compared = msgspec.structs.replace(manifest, comparison=comparison)
        output.write(MANIFEST_NAME, format_manifest(compared))


def _add_model(
    manifest: Manifest, card: ModelCard, sha256: str, size_bytes: int, card_sha256: str
) -> Manifest:
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
        card_sha256=card_sha256,
    )
    models = {**manifest.models, card.name: entry}
    return Manifest(dict(sorted(models.items(), key=lambda item: -_read_validation_auc(item[1]))))


def _read_validation_auc(entry: ModelEntry) -> float:
    return entry.metrics.get("validation", {}).get("auc") or 0.0
