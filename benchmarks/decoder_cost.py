"""Cost of decoding DICOM images in worker processes, compared with this process.

Both methods read the same generated images on the same threads, in alternating order. The output
shows medians over turns: images per second, and the ratios of clock time and of processor time,
workers included. When every core is busy, images per second follow processor time, which other
programs disturb less. The limit therefore applies to processor time.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
import numpy as np

from batch_scorer.imaging.decode import read_image
from batch_scorer.imaging.decode_pool import Decoder
from batch_scorer.system.process import available_cores
from benchmarks.command import BenchmarkCommand, require_packages

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from batch_scorer.imaging.decode import DecodeResult

HEIGHT_PX, WIDTH_PX = 1760, 2140
SIZES_PX = (224,)
MAX_OVERHEAD = 0.03


@click.command(cls=BenchmarkCommand, epilog="Example: python benchmarks/decoder_cost.py --turns 5")
@click.option(
    "--images", type=click.IntRange(1), default=40, show_default=True, help="Images per turn."
)
@click.option("--turns", type=click.IntRange(1), default=9, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Number of threads.  [default: all cores]")
@click.option("--kind", multiple=True, help="Only this kind; may be repeated.  [default: all]")
@click.pass_context
def main(
    ctx: click.Context, images: int, turns: int, threads: int | None, kind: tuple[str, ...]
) -> None:
    """Measure images per second, in workers and in this process, for each compression.

    Exit code 1: workers cost more than 3 % of processor time for any compression.
    """
    threads = threads or available_cores()
    good = True
    with TemporaryDirectory(prefix="cxr-decoder-") as folder, Decoder() as decoder:
        for name, path in write_images(Path(folder)).items():
            if kind and name not in kind:
                continue
            data = path.read_bytes()
            methods: list[Callable[[], DecodeResult]] = [
                partial(decoder.read, data, SIZES_PX),
                partial(read_image, data, SIZES_PX),
            ]
            wall_s, processor_s = time_alternately(methods, images, turns, threads)
            workers, here = np.median(images / wall_s, axis=1)
            by_clock = np.median(wall_s[0] / wall_s[1]) - 1
            low, cost, high = np.quantile(processor_s[0] / processor_s[1], (0.25, 0.5, 0.75)) - 1
            good &= bool(cost <= MAX_OVERHEAD)
            click.echo(
                f"{name:14} {len(data) / 1e6:4.1f} MB  workers {workers:5.1f} images/s, this "
                f"process {here:5.1f} ({by_clock:+.1%}); processor time {cost:+.1%} "
                f"(quartiles {low:+.1%}, {high:+.1%}; {threads} threads, {turns} turns)"
            )
    ctx.exit(0 if good else 1)


def write_images(folder: Path) -> dict[str, Path]:
    """Write one image of 3.8 megapixels with 12 bits, uncompressed and in each compression."""
    with require_packages():
        import imagecodecs
    from pydicom.uid import (
        ExplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
    )

    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    noise = np.random.default_rng(1).normal(0, 6, (HEIGHT_PX, WIDTH_PX))
    pixels = (2048 + 1200 * np.sin(x / 300) * np.cos(y / 400) + noise).astype(np.uint16)
    frames = {
        "plain": (ExplicitVRLittleEndian, None),
        "JPEG lossless": (JPEGLosslessSV1, imagecodecs.ljpeg_encode(pixels, bitspersample=12)),
        "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode(pixels)),
        "JPEG 2000": (
            JPEG2000Lossless,
            imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", bitspersample=12),
        ),
    }
    paths = {name: folder / f"{name}.dcm" for name in frames}
    for name, (syntax, frame) in frames.items():
        write_image(paths[name], pixels, syntax, frame)
    return paths


def write_image(
    path: Path, pixels: np.ndarray, syntax: str, frame: bytes | bytearray | None
) -> None:
    """Write a DICOM file with the elements that a computed radiograph needs."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ComputedRadiographyImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset("", {}, bytes(128), meta)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.SamplesPerPixel = "CR", 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = pixels.tobytes() if frame is None else encapsulate([bytes(frame)])
    dataset.save_as(path, enforce_file_format=True)


def time_alternately(
    methods: list[Callable[[], DecodeResult]], images: int, turns: int, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time the methods: clock and processor seconds, (methods, turns), after one warm-up turn."""
    wall_s, processor_s = np.zeros((2, len(methods), turns + 1))
    order = list(range(len(methods)))
    with ThreadPoolExecutor(threads) as pool:
        for turn in range(turns + 1):
            order.reverse()
            for method in order:
                start, used = time.perf_counter(), read_cpu_time_s()
                for content in pool.map(lambda _, method=method: methods[method](), range(images)):
                    if content.error:
                        raise content.error
                wall_s[method, turn] = time.perf_counter() - start
                processor_s[method, turn] = read_cpu_time_s() - used
    return wall_s[:, 1:], processor_s[:, 1:]


def read_cpu_time_s() -> float:
    """Read the processor time of this process and its children, as counted by Linux."""
    own = Path("/proc/self/task")
    pids = " ".join(path.read_text("ascii") for path in own.glob("*/children")).split()
    spent_ns = (Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0] for pid in pids)
    return time.process_time() + sum(int(ns) for ns in spent_ns) / 1e9


if __name__ == "__main__":
    main()
