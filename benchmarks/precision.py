"""Speed of each number format: float32, int8 and, with CUDA, float16.

For every model file in a folder, the output shows images per second, the ratio to the float32 file
of the same network, the share of a ceiling, and the largest difference in probability from the
float32 file. Times are medians over turns in which all files alternate, so a busy machine slows all
alike. The ceiling divides the machine's arithmetic peak in the same format by the operations of the
network's convolutions. The peak is the best of many short matrix products, which fit between other
load. A busy machine therefore shows true ratios and a low share of the ceiling. On CUDA no ceiling
is measured.

The images are the synthetic ones of examples/xrays, repeated to fill a batch.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from batch_scorer.errors import ImageError
from batch_scorer.imaging.decode import decode_radiograph
from batch_scorer.model.classifier import PROVIDERS, Classifier
from batch_scorer.model.onnx_runtime import ort
from batch_scorer.system.process import available_cores
from benchmarks.command import BenchmarkCommand, require_packages

with require_packages():
    import onnx
    from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EXAMPLE_IMAGES = Path(__file__).parent.parent / "examples" / "xrays"
PEAK_MATRIX_SIDES = (512, 1024)
PEAK_PRODUCTS = 100


@click.command(
    cls=BenchmarkCommand, epilog="Example: python benchmarks/precision.py models --turns 15"
)
@click.argument("models", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--provider", type=click.Choice(sorted(PROVIDERS)), default="cpu", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=7, show_default=True)
def main(models: Path, provider: str, batch_size: int, turns: int) -> None:
    """Compare the number formats of the model files in the folder MODELS."""
    found = [Classifier.load(path, provider) for path in sorted(models.glob("*.onnx"))]
    if provider == "cpu":  # CPUs lack float16 arithmetic and convert it to float32 and back
        found = [model for model in found if get_precision(model) != "float16"]
    if not found:
        raise click.UsageError(f"Expected model files in {models}, found none to measure.")
    images = [read_images(model.card.size_px, batch_size) for model in found]
    tasks = {
        model.path.name: partial(model.predict, f) for model, f in zip(found, images, strict=True)
    }
    peaks = {kind: measure_peak(kind) for kind in ("float32", "int8") if provider == "cpu"}
    seconds = time_alternately(tasks, turns)
    probabilities = {model.path.name: tasks[model.path.name]().probability for model in found}

    click.echo(f"{available_cores()} cores, {provider}, batch {batch_size}, {turns} turns")
    click.echo(f"{'file':24s}{'images/s':>10s}{'x float32':>11s}{'of ceiling':>12s}{'off by':>9s}")
    for model in found:
        name, base, kind = model.path.name, find_float32_file(model), get_precision(model)
        ratio = f"{seconds[base] / seconds[name]:.2f}" if base in seconds else "-"
        difference = (
            f"{np.abs(probabilities[name] - probabilities[base]).max():.4f}"
            if base in probabilities
            else "-"
        )
        operations = batch_size * count_convolution_operations(model.path)
        share = "-"
        if operations and kind in peaks:
            share = f"{operations / seconds[name] / peaks[kind]:.0%}"
        rate = batch_size / seconds[name]
        click.echo(f"{name:24s}{rate:10.1f}{ratio:>11s}{share:>12s}{difference:>9s}")
    for kind, peak in peaks.items():
        click.echo(f"peak {kind}: {peak / 1e9:,.0f} billion operations per second")


def get_precision(model: Classifier) -> str:
    """Return the number format of a model file."""
    return model.card.precision.kind if model.card.precision else "float32"


def find_float32_file(model: Classifier) -> str:
    """Return the name of the float32 file of the same network."""
    return model.path.name.split(".")[0] + ".onnx"


def read_images(size_px: int, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode the example images, shape (number, size_px, size_px, 1)."""
    images = []
    for path in sorted(EXAMPLE_IMAGES.rglob("*.*")):
        try:
            images.append(decode_radiograph(path.read_bytes(), size_px))
        except ImageError:  # some examples are invalid on purpose
            continue
    return np.stack(list(islice(cycle(images), number)))[..., None]


def measure_peak(kind: str) -> float:
    """Measure the most operations per second over matrix products of several sizes."""
    best = 0.0
    for side in PEAK_MATRIX_SIDES:
        product = make_matrix_product(kind, side)
        for _ in range(PEAK_PRODUCTS):
            start = time.perf_counter()
            product()
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def make_matrix_product(kind: str, side: int) -> Callable[[], Any]:
    """Make one square matrix product in ONNX Runtime, of float32 or of unsigned by signed bytes."""
    small = kind == "int8"
    rng = np.random.default_rng(0)
    left = rng.integers(0, 255, (side, side)).astype(np.uint8 if small else np.float32)
    right = rng.integers(-64, 64, (side, side)).astype(np.int8 if small else np.float32)
    types = (TensorProto.UINT8, TensorProto.INT32) if small else (TensorProto.FLOAT,) * 2
    shape = [side, side]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if small else "MatMul", ["left", "right"], ["product"])],
        "peak",
        [helper.make_tensor_value_info("left", types[0], shape)],
        [helper.make_tensor_value_info("product", types[1], shape)],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cores()
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return partial(session.run, None, {"left": left})


def time_alternately(
    tasks: Mapping[str, Callable[[], Any]],
    turns: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each task, run right after a warm-up of itself.

    The warm-up matters: a small task varies by a sixth with the content of the processor's caches.
    Every second turn runs backwards, so that no task always follows the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    order = list(tasks.items())
    for _ in range(turns):
        order.reverse()
        for name, task in order:
            task()
            start = clock()
            task()
            seconds[name].append(clock() - start)
    return {name: float(np.median(each)) for name, each in seconds.items()}


def count_convolution_operations(path: Path) -> int:
    """Count the multiplications and additions of a file's convolutions for one image."""
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    } | {weight.name: list(weight.dims) for weight in graph.initializer}
    return sum(
        2 * int(np.prod(shapes[node.output[0]]) * np.prod(shapes[node.input[1]][1:]))
        for node in graph.node
        if node.op_type == "Conv"
    )


if __name__ == "__main__":
    main()
