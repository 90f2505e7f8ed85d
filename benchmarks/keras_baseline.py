"""The peer: how a notebook scores a folder of images with the same VGG16.

Pillow opens each file, makes it RGB and resizes it to the network's input size, one after the other
as a loop in a notebook does; then Keras (TensorFlow) predicts in batches of 32. The network is the
one of ``trainer.models``, with random weights (they change no operation), or the one of a run
folder. Start-up, loading and two warm-up predictions are not timed.

Prints one line of JSON: images, seconds, and which weights.
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
@click.option("--limit", type=click.IntRange(1), help="Only the first so many JPEG films.")
def main(images: Path, run: Path | None, limit: int | None) -> None:
    """Score the JPEG images in IMAGES as a notebook does, and time it."""
    paths = sorted(path for path in images.rglob("*") if path.suffix in {".jpeg", ".jpg"})[:limit]
    if not paths:
        raise click.UsageError(f"Expected JPEG films in {images}, found none.")
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
    """The VGG16 of a run folder, or a new one."""
    import keras

    from trainer.model.networks import build_vgg16

    if run:
        return keras.models.load_model(run / "model.keras", compile=False)
    return build_vgg16(1, augment=0)


def read_images(paths: list[Path], side_px: int) -> NDArray[np.uint8]:
    """Shape (N, side_px, side_px, 1); one channel of RGB, since the network takes grey."""
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(np.asarray(image.convert("RGB").resize((side_px, side_px)))[..., :1])
    return np.stack(images)


if __name__ == "__main__":
    main()
