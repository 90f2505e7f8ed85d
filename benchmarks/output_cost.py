"""Cost of the further outputs of a model file: evidence map, atypicality, viral or bacterial.

Each model file is timed against the same graph with `probability` as its only output, and with one
further output at a time. All take turns. Times are medians of one thread's processor time, so other
load on the machine hardly counts. The reduced graph is the ceiling: no file can be faster than its
probability alone. It is timed twice, and the second time shows the noise.

The images are the synthetic ones of examples/xrays, repeated to fill a batch.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from batch_scorer.model.card import CARD_KEY, decode_card
from batch_scorer.model.onnx_runtime import ort
from benchmarks.command import BenchmarkCommand, require_packages
from benchmarks.precision import read_images, time_alternately

with require_packages():
    import onnx
    from onnx.utils import Extractor

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBABILITY = "probability"
MAX_OVERHEAD = 0.10
"""Limit of the extra time of all outputs, relative to the probability alone."""
PROBABILITY_REPEATED = "probability, again"
MAX_NOISE = 0.05
MAX_DIFFERENCE = 1e-5


@click.command(
    cls=BenchmarkCommand,
    epilog="Example: python benchmarks/output_cost.py batch_scorer/models --turns 15",
)
@click.argument("models", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=9, show_default=True)
@click.pass_context
def main(ctx: click.Context, models: Path, batch_size: int, turns: int) -> None:
    """Measure the cost of the further outputs of the model files in the folder MODELS.

    Exit code 1: all outputs of a file take over 10 % longer than its probability alone, or the
    measurement is too noisy.
    """
    found = {path: onnx.load(path) for path in sorted(models.glob("*.onnx"))}
    found = {path: model for path, model in found.items() if len(model.graph.output) > 1}
    if not found:
        raise click.UsageError(
            f"Expected model files with further outputs in {models}, found none: "
            "export networks of this release."
        )
    click.echo(f"1 thread, batch {batch_size}, {turns} turns")
    click.echo(f"{'file':20s}{'outputs':26s}{'ms per image':>14s}{'x probability':>15s}")
    missed = []
    for path, model in found.items():
        seconds = _measure_outputs(path, model, batch_size, turns)
        for name, taken in seconds.items():
            ratio = taken / seconds[PROBABILITY]
            click.echo(f"{path.name:20s}{name:26s}{1000 * taken / batch_size:14.3f}{ratio:15.3f}")
        cost, noise = (
            seconds[name] / seconds[PROBABILITY] - 1 for name in ("all", PROBABILITY_REPEATED)
        )
        if abs(noise) > MAX_NOISE:
            missed.append(f"{path.name} (too noisy: {noise:+.1%})")
        elif cost > MAX_OVERHEAD:
            missed.append(f"{path.name} {cost:.1%}")
    bar = f"At most {MAX_OVERHEAD:.0%} for all further outputs"
    click.echo(f"{bar}: {'missed by ' + ', '.join(missed) if missed else 'met'}")
    ctx.exit(1 if missed else 0)


def extract_outputs(model: onnx.ModelProto, outputs: list[str]) -> onnx.ModelProto:
    """Extract the graph from ``pixels`` to some outputs, without nodes that only others need."""
    return Extractor(model).extract_model([model.graph.input[0].name], outputs)


def _measure_outputs(
    path: Path, model: onnx.ModelProto, batch_size: int, turns: int
) -> dict[str, float]:
    """Measure median seconds per batch: probability alone, with each further output, and all."""
    card = decode_card({p.key: p.value for p in model.metadata_props}.get(CARD_KEY), str(path))
    images = read_images(card.size_px, batch_size)
    further = [output.name for output in model.graph.output if output.name != PROBABILITY]
    graphs = {
        name: extract_outputs(model, [PROBABILITY]) for name in (PROBABILITY, PROBABILITY_REPEATED)
    }
    if len(further) > 1:
        graphs |= {f"and {name}": extract_outputs(model, [PROBABILITY, name]) for name in further}
    graphs["all"] = model
    sessions = {name: _open_session(graph) for name, graph in graphs.items()}
    _check_same_probabilities(path, sessions, images)
    return time_alternately(
        {
            name: partial(session.run, None, {"pixels": images})
            for name, session in sessions.items()
        },
        turns,
        clock=time.thread_time,
    )


def _open_session(model: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # only the calling thread is timed
    options.inter_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _check_same_probabilities(
    path: Path, sessions: dict[str, Any], images: NDArray[np.uint8]
) -> None:
    """Check that all graphs compute the same probabilities."""
    probabilities = {
        name: session.run([PROBABILITY], {"pixels": images})[0]
        for name, session in sessions.items()
    }
    off = max(float(np.abs(found - probabilities["all"]).max()) for found in probabilities.values())
    if not off <= MAX_DIFFERENCE:
        raise click.ClickException(
            f"Expected equal probabilities from all graphs of {path}, found a difference of {off}."
        )


if __name__ == "__main__":
    main()
