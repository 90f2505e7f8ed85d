"""Give exported files the cheaper operations that were found since, bit for bit the same answers.

For a folder of model files whose run folder is no longer at hand; ``cxr export`` does it by itself.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
import numpy as np
import onnx

from batch_scorer.classifier import MANIFEST, Classifier
from batch_scorer.decoding import decode_radiograph
from batch_scorer.errors import CxrError, ParityError, UsageError
from exporter.manifest import read_manifest, write_manifest
from exporter.rewrites import make_cheaper

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_SIZE = 16


@click.command(epilog="Example: python -m exporter.renewal batch_scorer/models chest_xray")
@click.argument("models", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("films", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(models: Path, films: Path) -> None:
    """Rewrite every file of the manifest in MODELS, if its answers on FILMS stay the same bits."""
    try:
        pixels = read_films(films)
        for name in read_manifest(models / MANIFEST).models:
            click.echo(renew(models, name, pixels))
    except CxrError as exc:
        raise click.ClickException(str(exc)) from exc


def read_films(folder: Path) -> NDArray[np.uint8]:
    """Every JPEG film below a folder, shape (N, 224, 224, 1).

    Raises:
        UsageError: There is none.
        ImageError: One of them cannot be read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".jpeg", ".jpg"})
    if not paths:
        raise UsageError(f"Expected JPEG films in {folder}, found none.")
    return np.stack([decode_radiograph(path.read_bytes(), 224) for path in paths])[..., None]


def renew(folder: Path, name: str, pixels: NDArray[np.uint8]) -> str:
    """Rewrite one file and its line of the manifest; what became of it, in one line.

    Args:
        folder: Of the file and its manifest.
        name: The model's.
        pixels: Shape (N, S, S, 1) uint8, real films.

    Raises:
        ParityError: An answer differs in any bit; nothing is changed.
        ModelFileError: The new file's self-test does not hold; nothing is changed.
    """
    path = folder / f"{name}.onnx"
    with tempfile.TemporaryDirectory(prefix=".renew-", dir=folder) as hidden:
        draft = Path(hidden) / path.name
        onnx.save(make_cheaper(onnx.load(path)), draft)
        onnx.checker.check_model(str(draft), full_check=True)
        _compare(path, draft, pixels)
        draft.replace(path)
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    manifest = read_manifest(folder / MANIFEST)
    entry = msgspec.structs.replace(manifest.models[name], sha256=sha256, size_bytes=len(data))
    models = {**manifest.models, name: entry}
    write_manifest(folder / MANIFEST, msgspec.structs.replace(manifest, models=models))
    return f"{path}  sha256 {sha256[:12]}  the same bits on {len(pixels)} films"


def _compare(old: Path, new: Path, pixels: NDArray[np.uint8]) -> None:
    expected, found = (
        Classifier.load(path, "cpu", batch_size=BATCH_SIZE).predict(pixels) for path in (old, new)
    )
    for answer, values in vars(expected).items():
        if not np.array_equal(values, getattr(found, answer)):
            raise ParityError(f"The rewritten {old.name} answers otherwise in {answer}.")


if __name__ == "__main__":
    main()
