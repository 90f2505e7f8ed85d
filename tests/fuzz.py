"""Mutated films: each one must give pixels or an ImageError, and nothing else.

``python -m tests.fuzz --count 20000`` decodes so many, from a seed, so that every one of them can
be made again. It writes each before it is decoded to FILE (``--last FILE``), so that one that kills
the process is still there.
"""

from __future__ import annotations

import io
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click
import imagecodecs
import numpy as np
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless

from batch_scorer.errors import ImageError
from batch_scorer.imaging.decode import open_image, read_image
from tests.batch_scorer.imaging.pixel_table import ROWS, dicom
from tests.images import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("JPEG", "PNG", "DICOM", "TIFF", "WebP", "BMP")
TELLING_NUMBERS = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
SLOW_S = 10.0


def seeds() -> dict[str, list[bytes]]:
    """Sound films of each kind: the whole pixel table, and films with more to break."""
    films = {kind: [row.data for row in ROWS if row.name.split()[0] == kind] for kind in KINDS}
    y, x = np.mgrid[0:150, 0:200]
    film = (127 + 100 * np.sin(x / 9) * np.cos(y / 11)).astype(np.uint8)
    films["JPEG"] += [
        encode(film, "JPEG"),
        encode(film, "JPEG", progressive=True),
        encode(np.stack([film] * 3, axis=-1), "JPEG", icc_profile=bytes(500)),
    ]
    films["PNG"] += [encode(film), encode(film.astype(np.uint16) * 200), interlaced(film)]
    films["TIFF"] += [encode(film, "TIFF", compression=name) for name in ("packbits", "jpeg")]
    films["WebP"] += [encode(np.stack([film] * 3, axis=-1), "WEBP", quality=80)]
    films["DICOM"] += [
        dicom(film, syntax=syntax, encoded=frame)
        for syntax, frame in {
            JPEGBaseline8Bit: encode(film, "JPEG"),
            JPEGLosslessSV1: imagecodecs.ljpeg_encode(film),
            JPEGLSLossless: imagecodecs.jpegls_encode(film),
            JPEG2000Lossless: imagecodecs.jpeg2k_encode(film, level=0, codecformat="j2k"),
        }.items()
    ]
    return {kind: [data for data in found if len(data) < 200_000] for kind, found in films.items()}


def interlaced(film: np.ndarray) -> bytes:
    """A PNG with text, so that more than one kind of chunk can break."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", "of the film", zip=True)
    info.add_itxt("Title", "film", zip=True)
    buffer = io.BytesIO()
    Image.fromarray(film).convert("P").save(buffer, "PNG", pnginfo=info, optimize=True)
    return buffer.getvalue()


def flip(broken: bytearray, place: int, rng: np.random.Generator) -> None:
    broken[place] ^= 1 << int(rng.integers(8))


def overwrite(broken: bytearray, place: int, rng: np.random.Generator) -> None:
    broken[place] = int(rng.integers(256))


def tell(broken: bytearray, place: int, rng: np.random.Generator) -> None:
    """Put numbers where lengths and sizes may stand that programs stumble over."""
    size = int(rng.choice([1, 2, 4]))
    broken[place : place + size] = bytes([int(rng.choice(TELLING_NUMBERS))]) * size


def cut(broken: bytearray, place: int, rng: np.random.Generator) -> None:
    del broken[place : place + some_length(rng)]


def repeat(broken: bytearray, place: int, rng: np.random.Generator) -> None:
    broken[place:place] = broken[place : place + some_length(rng)]


def move(broken: bytearray, place: int, rng: np.random.Generator) -> None:
    start, length = int(rng.integers(len(broken))), some_length(rng)
    broken[place : place + length] = broken[start : start + length]


def end(broken: bytearray, place: int, rng: np.random.Generator) -> None:
    if rng.random() < 0.3:
        del broken[max(1, place) :]


MUTATIONS = (flip, overwrite, tell, tell, cut, repeat, move, end)


def some_length(rng: np.random.Generator) -> int:
    return int(2 ** rng.uniform(0, 10))


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Break a film in one to eight places, more often near its beginning, where headers are."""
    broken = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        place = int(len(broken) * rng.random() ** rng.choice([1, 3]))
        MUTATIONS[int(rng.integers(len(MUTATIONS)))](broken, place, rng)
        if not broken:
            return b""
    return bytes(broken)


def with_checksums(data: bytes) -> bytes:
    """A broken PNG with sound checksums, so that what they guard is read too."""
    mended, place = bytearray(data), 8
    while place + 12 <= len(mended):
        end_of_chunk = place + 8 + int.from_bytes(mended[place : place + 4], "big")
        if end_of_chunk + 4 > len(mended):
            break
        checksum = zlib.crc32(mended[place + 4 : end_of_chunk])
        mended[end_of_chunk : end_of_chunk + 4] = checksum.to_bytes(4, "big")
        place = end_of_chunk + 4
    return bytes(mended)


def mutants(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many broken films with their kinds; half of them JPEG, PNG and DICOM in equal parts."""
    rng = np.random.default_rng(seed)
    films = seeds()
    for _ in range(count):
        kind = str(rng.choice(KINDS, p=[0.25, 0.25, 0.3, 0.1, 0.05, 0.05]))
        data = mutate(films[kind][int(rng.integers(len(films[kind])))], rng)
        yield kind, with_checksums(data) if kind == "PNG" and rng.random() < 0.5 else data


def outcome(data: bytes) -> str:
    """ "pixels", or the code of the ImageError; any other exception goes through."""
    try:
        content = read_image(data, [32])
        if content.error:
            return content.error.code
        width_px, height_px = open_image(data).size_px
    except ImageError as exc:
        return exc.code
    pixels = content.pixels[32]
    assert (content.width_px, content.height_px) == (width_px, height_px)
    assert pixels.shape == (32, 32)
    assert pixels.dtype == np.uint8
    assert min(width_px, height_px) > 0
    return "pixels"


def fuzz(count: int, seed: int, last: Path | None = None) -> Counter[str]:
    """Decode so many broken films; count what came of each kind.

    Raises:
        AssertionError: One took longer than ``SLOW_S``.
    """
    outcomes: Counter[str] = Counter()
    for number, (kind, data) in enumerate(mutants(count, seed)):
        if last:
            last.write_bytes(data)
        started = time.process_time()  # a busy machine makes no decoder slow
        outcomes[f"{kind} {outcome(data)}"] += 1
        took = time.process_time() - started
        assert took < SLOW_S, f"film {number} of seed {seed} took {took:.0f} s"
    return outcomes


@click.command()
@click.option("--count", default=20_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--last", type=click.Path(path_type=Path), help="Where the film in hand is kept.")
def main(count: int, seed: int, last: Path | None) -> None:
    """Decode COUNT mutated films and print what came of them."""
    started = time.perf_counter()
    outcomes = fuzz(count, seed, last)
    for name, times in sorted(outcomes.items()):
        click.echo(f"{times:7,}  {name}")
    click.echo(f"{outcomes.total():7,}  films in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
