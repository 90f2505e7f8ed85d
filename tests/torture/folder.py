"""Hostile names, what is no picture, what is no plain file; and the folder of all."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import zipfile
from gzip import compress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.batch_scorer.imaging.pixel_table import GREY
from tests.images import encode, make_film
from tests.torture.dicoms import compressed, damaged, whole
from tests.torture.outcomes import (
    SCORED,
    TOO_LARGE,
    UNREADABLE,
    UNSUPPORTED,
    Expected,
    Files,
    noise,
)
from tests.torture.pictures import bitmaps, jpegs, pngs, tiffs

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES: list[str | bytes] = [
    '<img src=x onerror="alert(1)">.png',
    "<script>alert('x')<!-- .png",
    "{{ 7 * 7 }}{% raw %}.png",
    "=cmd|' C calc'!A0.png",
    "+1+1.png",
    "@SUM(A1).png",
    "-rf.png",
    "--output=elsewhere.png",
    "two\nlines.png",
    "carriage\rreturn.png",
    "tab\tstop.png",
    "\x1b[31mred.png",
    "\u202egnp.right-to-left",
    "zero\u200bwidth.png",
    "é.png",
    "e\u0301.png",
    "%s%n%x{0}.png",
    "quote\"and'comma,.png",
    "back\\slash.png",
    "$(reboot)`reboot`;&.png",
    "CON",
    " ",
    "🫁.png",
    "x" * 251 + ".png",
    b"invalid-\xff\xfe.png",
]
"""Each holds a film of its own."""


def no_films() -> Files:
    """What is no picture at all."""
    film = make_film(seed=900)
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("film.png", film)
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as archive:
        archive.writestr("inner.zip", zipped.getvalue())
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        entry = tarfile.TarInfo("film.png")
        entry.size = len(film)
        archive.addfile(entry, io.BytesIO(film))
    return {
        "empty.png": (b"", UNREADABLE),
        "one byte.png": (b"\xff", UNSUPPORTED),
        "zeros.dcm": (bytes(10_000), UNSUPPORTED),
        "noise.bin": (noise().tobytes(), UNSUPPORTED),
        "letter.jpeg": (b"Dear doctor, BM", UNSUPPORTED),
        "BM.bmp": (b"BM, said the doctor, and more words than a header has", UNSUPPORTED),
        "page.html": (b"<!doctype html><script>alert(1)</script>", UNSUPPORTED),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', UNSUPPORTED),
        "report.pdf": (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n", UNSUPPORTED),
        "setup.exe": (b"MZ" + bytes(200) + b"PE\0\0", UNSUPPORTED),
        "program": (b"\x7fELF" + bytes(200), UNSUPPORTED),
        "script.sh": (b"#!/bin/sh\nexit 1\n", UNSUPPORTED),
        "rows.csv": (b"image,status\n=1+1,scored\n", UNSUPPORTED),
        "films.zip": (zipped.getvalue(), UNSUPPORTED),
        "zip in zip.zip": (nested.getvalue(), UNSUPPORTED),
        "films.tar": (tarred.getvalue(), UNSUPPORTED),
        "film.png.gz": (compress(film), UNSUPPORTED),
        "moving.gif": (encode(GREY, "GIF"), UNSUPPORTED),
        "pdf then jpeg": (b"%PDF-1.7\n" + encode(GREY, "JPEG"), UNSUPPORTED),
        "film.png.part": (film[8:], UNSUPPORTED),
    }


MAKERS = (no_films, jpegs, pngs, tiffs, bitmaps, whole, damaged, compressed)


def special_files(root: Path) -> Iterator[tuple[str, Expected]]:
    """What is no plain file; a device only where this user may make one."""
    for name, target in {
        "loop a": "loop b",
        "loop b": "loop a",
        "link to itself": "link to itself",
        "link to nowhere": "nowhere",
        "link to the folder": ".",
        "link to a device": "/dev/zero",
    }.items():
        (root / name).symlink_to(target)
        yield name, UNREADABLE
    (root / "link to a film").symlink_to("png without ending")
    yield "link to a film", SCORED
    os.mkfifo(root / "pipe")
    yield "pipe", UNREADABLE
    place = os.open(root, os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as listener:  # its path may have 107 bytes only
        listener.bind(f"/proc/self/fd/{place}/socket")
    os.close(place)
    yield "socket", UNREADABLE
    if os.geteuid() == 0:
        os.mknod(root / "device", 0o20666, os.makedev(1, 5))
        yield "device", UNREADABLE
    (root / "unreadable.png").write_bytes(make_film(seed=904))
    (root / "unreadable.png").chmod(0)
    readable = os.access(root / "unreadable.png", os.R_OK)  # to an administrator it is
    yield "unreadable.png", SCORED if readable else UNREADABLE
    with (root / "600 MB of nothing.dcm").open("wb") as file:
        file.truncate(600_000_000)
    yield "600 MB of nothing.dcm", TOO_LARGE


def make_folder(root: Path) -> dict[str, Expected]:
    """Fill a folder; return what the row of each file must say, by its key."""
    root.mkdir(parents=True)
    expected: dict[str, Expected] = {}
    files: Files = {name: (make_film(seed=seed), SCORED) for seed, name in enumerate(NAMES)}
    for make in MAKERS:
        files.update(make())
    for name, (data, row) in files.items():
        path = os.fsencode(root) + b"/" + os.fsencode(name)
        Path(os.fsdecode(path)).write_bytes(data)
        key = os.fsdecode(name).encode("utf-8", "backslashreplace").decode()
        expected[key] = row
    expected.update(special_files(root))
    return expected
