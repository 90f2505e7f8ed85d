"""Which images a model file rejects as no image that it knows, and which it flags as atypical.

Real images are to be let through: at most 1 % of the validation and of the test images may be
rejected. Images of other kinds are to be rejected: at least 95 % of each kind. Everything goes
through the real decoder and the real scorer's session; what the decoder refuses is rejected too.
Shares have Wilson's 95 % interval.

The validation images are those of the model's own training, split again by the seed on its card. No
label is used, that of a test image neither.
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
    """How many of ``n`` images were flagged and rejected; rejected ones count as flagged.

    ``undecodable`` of the rejected ones were not even decoded. ``image`` says whether they are images
    that must pass or images that must not; None where there is no rule.
    """

    kind: str
    n: int
    flagged: int
    rejected: int
    undecodable: int = 0
    in_distribution: bool | None = None

    @property
    def rule(self) -> str:
        """What must hold."""
        if self.in_distribution is None:
            return ""
        return (
            f"at most {MAX_REJECTED_SHARE:.0%}"
            if self.in_distribution
            else f"at least {MIN_REJECTED_OOD_SHARE:.0%}"
        )

    @property
    def is_met(self) -> bool:
        """Whether that holds."""
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
    help="Other images, counted without a rule. May be repeated.",
)
@click.option(
    "--photos",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Look at the JPEG photos below this folder too: those that come along are few.",
)
@click.option(
    "--test/--no-test",
    "open_test",
    default=True,
    show_default=True,
    help="Look at the official test films too, without their labels.",
)
@click.option(
    "--number",
    type=click.IntRange(20),
    default=200,
    show_default=True,
    help="Images of each kind that is no film.",
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
    """Count what the model file MODEL rejects: images in DATA, and images that are no images.

    Exit code 1: too many images are rejected, or too few of a kind that is no image.
    """
    classifier = Classifier.load(model, "cpu")
    _read_limits(classifier)
    click.echo(f"{'images':28s}{'n':>6s}{'flagged':>9s}  {'rejected':23s}{'refused':>8s}  rule")
    missed = []
    for row in measure_rejection(classifier, data, also, photos, number, open_test=open_test):
        click.echo(format_row(row))
        if not row.is_met:
            missed.append(row.kind)
    click.echo(f"Missed: {', '.join(missed)}" if missed else "Every rule is kept.")
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
    """One row after the other: images, other folders, and images that are no images."""
    training = classifier.card.training
    dataset = read_dataset(data, classifier.card.size_px, training.seed)
    if dataset.fingerprint != training.data_fingerprint:
        raise DatasetError(
            f"Expected the films that {classifier.path} was trained on, found others in {data}.",
            "Its validation films can only be told by splitting the same films again.",
        )
    validation = dataset.validation.pixels
    yield count_rejected("validation films", classifier, validation, in_distribution=True)
    if open_test and dataset.test is not None:
        yield count_rejected("test films", classifier, dataset.test.pixels, in_distribution=True)
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
    """The files below a folder, with one of some endings (in small letters) or with any."""
    for path in sorted(folder.glob("**/*")):
        wanted = endings is None or path.suffix.lower() in endings
        if wanted and path.is_file() and not path.name.startswith("."):
            yield path.read_bytes()


def count_rejected_files(
    kind: str,
    classifier: Classifier,
    files: Iterable[bytes],
    *,
    in_distribution: bool | None = None,
) -> RejectionRow:
    """Decode and judge encoded images.

    Raises:
        DatasetError: There is none.
    """
    pixels, undecodable = [], 0
    for content in files:
        try:
            pixels.append(decode_radiograph(content, classifier.card.size_px))
        except ImageError:  # counted: a file that is not decoded is not scored
            undecodable += 1
    if not pixels and not undecodable:
        raise DatasetError(
            f"Expected images to look at for {kind}, found none.", "Check NAME=FOLDER."
        )
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
    """Judge decoded images, shape (N, S, S, 1)."""
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
    """One line of the table."""
    share = estimate_proportion(row.rejected, row.n)
    rejected = f"{share.value:6.1%} [{share.low:.1%}, {share.high:.1%}]"
    rule = row.rule + ("" if row.is_met else ": MISSED")
    flagged = row.flagged / row.n
    return f"{row.kind:28s}{row.n:6d}{flagged:9.1%}  {rejected:23s}{row.undecodable:8d}  {rule}".rstrip()


def _read_limits(classifier: Classifier) -> OodDetection:
    """From which atypicality on images are flagged and rejected."""
    if classifier.card.typicality is None:
        raise ModelFileError(
            f"Expected a model that answers atypicality, found none in {classifier.path}.",
            "Export a network of this release.",
        )
    return classifier.card.typicality


if __name__ == "__main__":
    main()
