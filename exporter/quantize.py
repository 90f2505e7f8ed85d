"""Smaller number formats for a graph: int8 for CPUs, float16 for CUDA.

Only the convolutional body changes: convolutions, and the ReLUs and poolings between them, which
take nearly all the time. The layers before it (downsampling, normalisation) and after it (global
pooling, head, calibration, evidence map) stay float32. A quantised probability would have 256
values, and ties would distort the ranking. Names, types and shapes of inputs and outputs do not
change.

int8 is static: unsigned 8-bit activations with one range per tensor, signed weights with one range
per channel, and ranges from minimum and maximum over calibration images. Weights use seven of the
eight bits. CPUs without VNNI add pairs of products in 16 bits, which full weights silently overflow
(2 * 255 * 127 > 32,767). With seven bits no sum overflows (2 * 255 * 64), so every CPU gives the
verified scores.

Source: Jacob et al. 2018 (quantisation); ONNX Runtime's documentation, "Quantize ONNX models".
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from batch_scorer.errors import ConversionError, PrecisionRefused
from batch_scorer.model.onnx_runtime import import_submodule, ort_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

CALIBRATION_BATCH_SIZE = 20
_quantization = import_submodule("quantization")
_float16 = import_submodule("transformers.float16")
_DataReader: Any = _quantization.CalibrationDataReader
_onnx_model = import_submodule("transformers.onnx_model")


def quantize_int8(graph: onnx.ModelProto, images: NDArray[np.uint8]) -> onnx.ModelProto:
    """Quantise the convolutional body of a float32 graph.

    Args:
        graph: From ``convert``, without half-precision weights; it is not modified.
        images: Shape (N, S, S, 1) uint8, real images to calibrate the activation ranges on.

    Raises:
        PrecisionRefused: The graph has no convolution.
        ConversionError: ONNX Runtime cannot quantise it.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-int8-") as folder:
        given, prepared, quantised = (Path(folder) / f"{step}.onnx" for step in range(3))
        onnx.save(graph, given)
        try:
            # Symbolic shapes would need sympy; plain shape inference covers every convolution.
            _quantization.quant_pre_process(given, prepared, skip_symbolic_shape=True)
            _quantization.quantize_static(
                prepared,
                quantised,
                _CalibrationReader(images),
                quant_format=_quantization.QuantFormat.QDQ,
                nodes_to_quantize=_find_conv_body(onnx.load(prepared)),
                per_channel=True,
                reduce_range=True,
                activation_type=_quantization.QuantType.QUInt8,
                weight_type=_quantization.QuantType.QInt8,
                calibrate_method=_quantization.CalibrationMethod.MinMax,
            )
        except (
            ort_errors.Fail,
            ort_errors.InvalidArgument,
            ort_errors.InvalidGraph,
            ValueError,
            RuntimeError,
        ) as exc:
            raise ConversionError(f"ONNX Runtime cannot quantise this network: {exc}.") from exc
        return onnx.load(quantised)


def convert_float16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Convert the convolutional body of a float32 graph to half precision.

    Args:
        graph: From ``convert``, without half-precision weights; it is not modified.

    Raises:
        PrecisionRefused: The graph has no convolution.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    body = set(_find_conv_body(copy))
    kept = [node.name for node in copy.graph.node if node.name not in body]
    mixed = _onnx_model.OnnxModel(
        _float16.convert_float_to_float16(
            copy, keep_io_types=True, op_block_list=[], node_block_list=kept
        )
    )
    # The conversion also rounds between float32 operations; this removes those pairs of Casts.
    mixed.remove_cascaded_cast_nodes()
    mixed.topological_sort()
    halved: onnx.ModelProto = mixed.model
    return halved


def emulate_float16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Make a float16 graph round and overflow on a CPU as on a GPU, to check it without one.

    A CPU computes these convolutions in float32, and ONNX Runtime then omits the rounding between
    them. An Identity after each operation keeps it, in a session without the optimiser
    ``EliminateIdentity``.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    body = set(_find_conv_body(copy))
    nodes = []
    for node in copy.graph.node:
        nodes.append(node)
        if node.name in body:
            rounded, node.output[0] = node.output[0], f"{node.output[0]}_unrounded"
            nodes.append(helper.make_node("Identity", [node.output[0]], [rounded]))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _find_conv_body(model: onnx.ModelProto) -> list[str]:
    """Find the convolutions, and the ReLUs and poolings of their outputs.

    Returns:
        Node names.

    Raises:
        PrecisionRefused: The graph has no convolution.
    """
    body, computed = [], set()
    for node in model.graph.node:  # in the order of computation, as ONNX demands
        if node.op_type == "Conv" or (
            node.op_type in {"Relu", "MaxPool"} and node.input[0] in computed
        ):
            body.append(node.name)
            computed.update(node.output)
    if not body:
        raise PrecisionRefused(
            "Refused: the network has no convolution, and only convolutions can be reduced.",
            "Use the float32 file, which is small and fast.",
        )
    return body


class _CalibrationReader(_DataReader):  # type: ignore[misc]
    """Passes calibration images to ONNX Runtime in batches."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        parts = np.array_split(images, max(1, len(images) // CALIBRATION_BATCH_SIZE))
        self._parts = iter(parts)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        part = next(self._parts, None)
        return None if part is None else {"pixels": part}
