"""The baseline: a notebook's method of scoring a folder of images with the same VGG16.

Pillow opens each file, converts it to RGB and resizes it to the network's input size, one after the
other. Then Keras (TensorFlow) predicts in batches of 32. The network comes from a run folder, or
from ``trainer.model.networks`` with random weights, which need the same operations. Start-up,
loading and two warm-up predictions are not timed.

Prints one line of JSON: number of images (``films``), seconds, and the weights.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import click
import numpy as np
from PIL import Image

from batch_scorer.system.process import quiet_import

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_SIZE = 32


@click.command(epilog="Example: python benchmarks/keras_baseline.py originals --limit 200")
@click.argument("images", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--run", type=click.Path(path_type=Path, exists=True), help="A VGG16 run folder.")
@click.option(
    "--limit", type=click.IntRange(1), help="Maximum number of JPEG images.  [default: all]"
)
def main(images: Path, run: Path | None, limit: int | None) -> None:
    """Time a notebook's method of scoring on the JPEG images in IMAGES."""
    paths = sorted(path for path in images.rglob("*") if path.suffix in {".jpeg", ".jpg"})[:limit]
    if not paths:
        raise click.UsageError(f"Expected JPEG images in {images}, found none.")
    with quiet_import():
        model = load_network(run)
    side = model.input_shape[1]
    for n_images in (
        BATCH_SIZE,
        len(paths) % BATCH_SIZE or BATCH_SIZE,
    ):  # the two shapes to compile
        model.predict(np.zeros((n_images, side, side, 1), np.uint8), verbose=0)
    start = time.perf_counter()
    model.predict(read_images(paths, side), batch_size=BATCH_SIZE, verbose=0)
    seconds = time.perf_counter() - start
    weights = str(run) if run else "random"
    click.echo(json.dumps({"films": len(paths), "seconds": seconds, "weights": weights}))


def load_network(run: Path | None) -> Any:
    """Load the VGG16 of a run folder, or build one with random weights."""
    import keras

    from trainer.model.networks import build_vgg16

    if run:
        return keras.models.load_model(run / "model.keras", compile=False)
    return build_vgg16(1, augment=0)


def read_images(paths: list[Path], side_px: int) -> NDArray[np.uint8]:
    """Read the images, shape (N, side_px, side_px, 1); one of the equal RGB channels."""
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(np.asarray(image.convert("RGB").resize((side_px, side_px)))[..., :1])
    return np.stack(images)


if __name__ == "__main__":
    main()
