"""Peak memory of `cxr score` on few images and on many: it must not grow with their number.

The images are the JPEG files of a folder, repeated as needed. Each gets a different JPEG comment,
since byte-identical copies would be scored once. Both runs are complete, without a report.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

import click

from benchmarks.command import BenchmarkCommand

EXAMPLE_IMAGES = Path(__file__).parent.parent / "examples" / "xrays"
MAX_PEAK_BYTES = 600e6
MAX_GROWTH = 0.10


@click.command(cls=BenchmarkCommand, epilog="Example: python benchmarks/memory.py originals")
@click.argument(
    "images", type=click.Path(path_type=Path, exists=True, file_okay=False), default=EXAMPLE_IMAGES
)
@click.option("--model", default="vgg16", show_default=True)
@click.option("--few", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--many", type=click.IntRange(1), default=20_000, show_default=True)
@click.pass_context
def main(ctx: click.Context, images: Path, model: str, few: int, many: int) -> None:
    """Measure the peak memory of `cxr score` on copies of the images in IMAGES.

    Exit code 1: over 600 MB, or over 10 % more for many images than for few.
    """
    paths = [path for path in sorted(images.rglob("*")) if path.suffix in {".jpeg", ".jpg"}]
    if not paths:
        raise click.UsageError(f"Expected JPEG images in {images}, found none.")
    peaks = []
    for number in (few, many):
        with tempfile.TemporaryDirectory(prefix="cxr-memory-") as folder:
            make_images(paths, Path(folder) / "films", number)
            peaks.append(measure_peak(Path(folder), model))
        click.echo(f"{model} {number:7d} images  peak {peaks[-1] / 1e6:6.0f} MB")
    growth = peaks[1] / peaks[0] - 1
    click.echo(f"growth {growth:+.1%}")
    ctx.exit(0 if max(peaks) <= MAX_PEAK_BYTES and growth <= MAX_GROWTH else 1)


def make_images(paths: list[Path], folder: Path, number: int) -> None:
    """Write ``number`` images with different bytes."""
    folder.mkdir()
    for index, path in enumerate(islice(cycle(paths), number)):
        data = add_jpeg_comment(path.read_bytes(), f"{index:09d}".encode())
        (folder / f"{index:09d}.jpeg").write_bytes(data)


def add_jpeg_comment(jpeg: bytes, comment: bytes) -> bytes:
    """Add a comment to a JPEG file: other bytes, the same pixels."""
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


LAUNCHER_SCRIPT = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""A small launcher, because a child process inherits the memory count of its parent."""


def measure_peak(folder: Path, model: str) -> int:
    """Measure the peak memory of one run in bytes (resident set)."""
    command = ["score", folder / "films", "-o", folder / "out", "--model", model, "--no-report"]
    run = [sys.executable, "-m", "batch_scorer", *map(str, command)]
    done = subprocess.run(  # noqa: S603 - this project's own program
        [sys.executable, "-c", LAUNCHER_SCRIPT, *run], check=True, capture_output=True, text=True
    )
    code, peak = map(int, done.stdout.split())
    if code not in {0, 3}:
        raise click.ClickException(f"cxr score ended with exit code {code}.")
    return peak * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
