"""Workers that go wrong: ``python -P -c`` a few lines around the real one."""

from __future__ import annotations

import sys

_START = """
import os, signal, sys, time
import msgspec
from batch_scorer.imaging import decode_worker as worker
from batch_scorer.imaging.decode import read_image
from batch_scorer.imaging.limits import LARGE_IMAGE_PIXELS
"""
_END = """
worker.main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
"""
_PATCHES = {
    "die_of_patients": """
def read(data, *rest):
    if b"FATAL" in bytes(data):
        os.kill(os.getpid(), signal.SIGKILL)
    return read_image(data, *rest)
worker.read_image = read
""",
    "die_of_everything": """
worker.read_image = lambda *_: os.abort()
""",
    "sleep_at_patients": """
def read(data, *rest):
    if b"SLOW" in bytes(data):
        time.sleep(600)
    return read_image(data, *rest)
worker.read_image = read
""",
    "fill_the_memory": """
def decode(*_):
    bytearray(1_000_000_000)
import batch_scorer.imaging.dicom_pixels
batch_scorer.imaging.dicom_pixels.decode_dicom = decode
""",
    "answer_noise": """
def send(file, message, data=b""):
    done = isinstance(message, worker.DecodeResponse)
    file.write(b"\\x05\\0\\0\\0noise" if done else packed(message))
    file.flush()
def packed(message):
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(4, "little") + data
worker.send_message = send
""",
    "answer_endlessly": """
def read(*_):
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b"\\xff\\xff\\xff\\xff" + bytes(100))
        except OSError:
            pass
    time.sleep(600)
worker.read_image = read
""",
    "answer_other_sizes": """
worker.read_image = lambda data, sizes, *rest: read_image(data, [7], *rest)
""",
    "print_everywhere": """
def read(data, *rest):
    os.write(1, b"out"), os.write(2, b"err"), print("more", flush=True)
    return read_image(data, *rest)
worker.read_image = read
""",
    "count_headers": """
import pydicom
dcmread = pydicom.dcmread
def count(*arguments, **options):
    with open(os.environ["HEADERS"], "a") as file:
        file.write("header\\n")
    return dcmread(*arguments, **options)
pydicom.dcmread = count
""",
    "ask_for_much_room": """
def read(data, sizes, reserve):
    with reserve(LARGE_IMAGE_PIXELS + 1):
        return read_image(data, sizes)
worker.read_image = read
""",
}


def command_of(patch: str) -> tuple[str, ...]:
    """A worker's command after one of the patches."""
    return sys.executable, *options_of(patch)


def options_of(patch: str) -> tuple[str, ...]:
    """Such a command without the interpreter."""
    return "-P", "-c", _START + _PATCHES[patch] + _END
