"""A graph with a smaller number format: int8 for CPUs, float16 for CUDA.

Only the convolutional body changes: convolutions and the ReLUs and poolings between them, where
nearly all the time goes. What comes before (shrinking, normalisation) and after (pooling over the
image, head, calibration, evidence map) stays float32: a quantised probability would have 256 values,
and ties cost ranking. Names, types and shapes of inputs and outputs stay as they are.

int8 is static: unsigned 8-bit activations with one range per tensor, signed weights with one range
per channel, ranges by minimum and maximum over calibration images. Weights use seven of the eight
bits. CPUs without VNNI add pairs of products in 16 bits, which full weights overflow in silence
(2 * 255 * 127 > 32,767); with seven bits (2 * 255 * 64) no sum can, so every CPU gives the answers
that were judged.

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
        graph: From ``convert``, its weights not halved; it is not changed.
        images: Shape (N, S, S, 1) uint8, real images to take the activations' ranges from.

    Raises:
        PrecisionRefused: The graph has no convolution.
        ConversionError: ONNX Runtime cannot quantise it.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-int8-") as folder:
        given, prepared, quantised = (Path(folder) / f"{step}.onnx" for step in range(3))
        onnx.save(graph, given)
        try:
            # Without its symbolic shapes, which need sympy: the plain ones reach every convolution.
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
    """Compute the convolutional body of a float32 graph in half precision.

    Args:
        graph: From ``convert``, its weights not halved; it is not changed.

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
    # It rounds every number between two float32 operations too; this takes such pairs out again.
    mixed.remove_cascaded_cast_nodes()
    mixed.topological_sort()
    halved: onnx.ModelProto = mixed.model
    return halved


def emulate_float16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A float16 graph that rounds and overflows on a CPU as on a GPU, to judge it by.

    A CPU computes its convolutions in float32, and ONNX Runtime then leaves out the rounding
    between them; an Identity behind each operation keeps it, in a session without the optimiser
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
    """Names of the convolutions, and of the ReLUs and poolings that work on their output.

    Raises:
        PrecisionRefused: There is no convolution.
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
            "Refused: it has no convolution, and only convolutions are made smaller.",
            "Use the float32 file, which is small and fast.",
        )
    return body


class _CalibrationReader(_DataReader):  # type: ignore[misc]
    """Hands calibration images to ONNX Runtime, some at a time."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        parts = np.array_split(images, max(1, len(images) // CALIBRATION_BATCH_SIZE))
        self._parts = iter(parts)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        part = next(self._parts, None)
        return None if part is None else {"pixels": part}
