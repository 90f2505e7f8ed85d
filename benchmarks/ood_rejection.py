"""The share of images that a model file rejects as out of distribution or flags as atypical.

Chest X-rays must pass: at most 1 % of the validation and of the test images may be rejected. Other
images must not: at least 95 % of each kind must be rejected. All go through the scorer's own
decoder and session; images that do not decode count as rejected. Shares have Wilson's 95 %
interval.

The validation images are those of the model's own training, split again by the seed on its card. No
label is used, not even of test images.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from batch_scorer.errors import DatasetError, ImageError, ModelFileError
from batch_scorer.imaging.decode import decode_radiograph
from batch_scorer.metrics.classification import estimate_proportion
from batch_scorer.model.classifier import Classifier
from benchmarks.command import BenchmarkCommand
from benchmarks.nonfilms import OOD_GENERATORS, OOD_TRANSFORMS, WHOLE_PHOTOS, encode_png
from trainer.cli import parse_named_folders
from trainer.data.dataset import read_dataset

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from numpy.typing import NDArray

    from batch_scorer.model.card_sections import OodDetection

MAX_REJECTED_SHARE = 0.01
MIN_REJECTED_OOD_SHARE = 0.95
BATCH_SIZE = 64
JPEG_SUFFIXES = {".jpg", ".jpeg"}
SEED = 0


@dataclass(frozen=True)
class RejectionRow:
    """Counts of flagged and rejected images among ``n``; rejected ones also count as flagged.

    ``undecodable`` of the rejected ones did not decode. ``in_distribution`` is True for images that
    must pass and False for images that must not; None if no rule applies.
    """

    kind: str
    n: int
    flagged: int
    rejected: int
    undecodable: int = 0
    in_distribution: bool | None = None

    @property
    def rule(self) -> str:
        """The limit that applies, as text."""
        if self.in_distribution is None:
            return ""
        return (
            f"at most {MAX_REJECTED_SHARE:.0%}"
            if self.in_distribution
            else f"at least {MIN_REJECTED_OOD_SHARE:.0%}"
        )

    @property
    def is_met(self) -> bool:
        """True if the row meets its limit or has none."""
        if self.in_distribution is None:
            return True
        share = self.rejected / self.n
        return (
            share <= MAX_REJECTED_SHARE if self.in_distribution else share >= MIN_REJECTED_OOD_SHARE
        )


@click.command(
    cls=BenchmarkCommand,
    epilog="Example: python benchmarks/ood_rejection.py models/cnn.onnx chest_xray "
    "--also adults=adult_normal",
)
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--also",
    multiple=True,
    metavar="NAME=FOLDER",
    callback=parse_named_folders,
    help="Further images, counted without a limit; may be repeated.",
)
@click.option(
    "--photos",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Also use the JPEG photos in this folder: the bundled ones are few.",
)
@click.option(
    "--test/--no-test",
    "open_test",
    default=True,
    show_default=True,
    help="Also use the official test images, without their labels.",
)
@click.option(
    "--number",
    type=click.IntRange(20),
    default=200,
    show_default=True,
    help="Images of each out-of-distribution kind.",
)
@click.pass_context
def main(  # noqa: PLR0913, PLR0917 - an argument for each option
    ctx: click.Context,
    model: Path,
    data: Path,
    also: dict[str, Path],
    photos: Path | None,
    open_test: bool,
    number: int,
) -> None:
    """Count the images that MODEL rejects: chest X-rays in DATA, and images of other kinds.

    Exit code 1: too many chest X-rays are rejected, or too few images of another kind.
    """
    classifier = Classifier.load(model, "cpu")
    _read_limits(classifier)
    click.echo(f"{'images':28s}{'n':>6s}{'flagged':>9s}  {'rejected':23s}{'no image':>9s}  limit")
    missed = []
    for row in measure_rejection(classifier, data, also, photos, number, open_test=open_test):
        click.echo(format_row(row))
        if not row.is_met:
            missed.append(row.kind)
    click.echo(f"Missed: {', '.join(missed)}" if missed else "Every limit is met.")
    ctx.exit(1 if missed else 0)


def measure_rejection(
    classifier: Classifier,
    data: Path,
    also: dict[str, Path],
    photos: Path | None,
    number: int,
    *,
    open_test: bool,
) -> Iterator[RejectionRow]:
    """Measure one row after the other: chest X-rays, other folders, and other kinds of images."""
    training = classifier.card.training
    dataset = read_dataset(data, classifier.card.size_px, training.seed)
    if dataset.fingerprint != training.data_fingerprint:
        raise DatasetError(
            f"Expected the images that {classifier.path} was trained on, found others in {data}.",
            "Pass the training folder: its validation images are found by splitting it again.",
        )
    validation = dataset.validation.pixels
    yield count_rejected("validation images", classifier, validation, in_distribution=True)
    if open_test and dataset.test is not None:
        yield count_rejected("test images", classifier, dataset.test.pixels, in_distribution=True)
    for name, folder in also.items():
        yield count_rejected_files(name, classifier, read_files(folder))
    rng = np.random.default_rng(SEED)
    for kind, draw in OOD_GENERATORS.items():
        images = (encode_png(image) for image in draw(rng, number))
        more = read_files(photos, JPEG_SUFFIXES) if photos and kind == WHOLE_PHOTOS else ()
        yield count_rejected_files(kind, classifier, chain(images, more), in_distribution=False)
    chosen = validation[rng.permutation(len(validation))[:number], :, :, 0]
    for kind, change in OOD_TRANSFORMS.items():
        images = (encode_png(change(image)) for image in chosen)
        yield count_rejected_files(kind, classifier, images, in_distribution=False)


def read_files(folder: Path, endings: Collection[str] | None = None) -> Iterator[bytes]:
    """Read the files below a folder, with one of these lower-case endings or with any."""
    for path in sorted(folder.glob("**/*")):
        selected = endings is None or path.suffix.lower() in endings
        if selected and path.is_file() and not path.name.startswith("."):
            yield path.read_bytes()


def count_rejected_files(
    kind: str,
    classifier: Classifier,
    files: Iterable[bytes],
    *,
    in_distribution: bool | None = None,
) -> RejectionRow:
    """Decode and predict encoded images.

    Raises:
        DatasetError: There are no images.
    """
    pixels, undecodable = [], 0
    for content in files:
        try:
            pixels.append(decode_radiograph(content, classifier.card.size_px))
        except ImageError:  # counted: a file that is not decoded is not scored
            undecodable += 1
    if not pixels and not undecodable:
        raise DatasetError(f"Expected images of {kind}, found none.", "Check NAME=FOLDER.")
    size_px = classifier.card.size_px
    decoded = np.array(pixels, np.uint8).reshape(-1, size_px, size_px, 1)
    return count_rejected(
        kind, classifier, decoded, undecodable=undecodable, in_distribution=in_distribution
    )


def count_rejected(
    kind: str,
    classifier: Classifier,
    pixels: NDArray[np.uint8],
    *,
    undecodable: int = 0,
    in_distribution: bool | None = None,
) -> RejectionRow:
    """Predict decoded images, shape (N, S, S, 1)."""
    limits = _read_limits(classifier)
    batches = [
        classifier.predict(pixels[start : start + BATCH_SIZE]).atypicality
        for start in range(0, len(pixels), BATCH_SIZE)
    ]
    known = [found for found in batches if found is not None]
    atypicality = np.concatenate(known) if known else np.empty(0, np.float32)
    flagged = int((atypicality > limits.flag_above).sum())
    rejected = int((atypicality > limits.reject_above).sum())
    n = len(pixels) + undecodable
    return RejectionRow(
        kind, n, flagged + undecodable, rejected + undecodable, undecodable, in_distribution
    )


def format_row(row: RejectionRow) -> str:
    """Format one line of the table."""
    share = estimate_proportion(row.rejected, row.n)
    rejected = f"{share.value:6.1%} [{share.low:.1%}, {share.high:.1%}]"
    rule = row.rule + ("" if row.is_met else ": MISSED")
    flagged = row.flagged / row.n
    counts = f"{row.kind:28s}{row.n:6d}{flagged:9.1%}  {rejected:23s}{row.undecodable:9d}"
    return f"{counts}  {rule}".rstrip()


def _read_limits(classifier: Classifier) -> OodDetection:
    """Read the limits of atypicality from the model's card."""
    if classifier.card.typicality is None:
        raise ModelFileError(
            f"Expected a model with atypicality limits, found none in {classifier.path}.",
            "Export a network of this release.",
        )
    return classifier.card.typicality


if __name__ == "__main__":
    main()
