"""A process that decodes images for another one, within limits: ``python -m`` this module.

It reads one request after the other from standard input and answers on standard output, in
MessagePack behind its length, and ends when its input does. Nothing but plain values comes back,
so that an image which takes over its decoder gains no more than a wrong answer for itself.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from batch_scorer.imaging.decode import read_image
from batch_scorer.imaging.limits import LARGE_IMAGE_PIXELS
from batch_scorer.imaging.shared_memory import map_shared_buffer
from batch_scorer.system.process import peak_memory_bytes
from batch_scorer.system.process_setup import configure_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch_scorer.imaging.decode import DecodeResult

MAX_MESSAGE_BYTES = 64_000_000
"""Some pixel planes of the largest size that a model may ask for."""
_LENGTH_BYTES = 4
_MAX_OOM_SCORE = "1000"


class WorkerReady(msgspec.Struct, tag=True):
    """The worker has imported what it needs and has set its limits."""


class DecodeRequest(msgspec.Struct, tag=True):
    """Decode an image of ``size_bytes`` to squares of these sides.

    It is in the memory that both processes share, or follows where they share none.
    """

    sizes_px: list[int]
    size_bytes: int
    shared: bool


class ReservationRequest(msgspec.Struct, tag=True):
    """The image in hand has so many pixels: is there room for them?"""

    pixels: int


class ReservationGranted(msgspec.Struct, tag=True):
    """There is: go on."""


class DecodeResponse(msgspec.Struct, tag=True):
    """An `ImageContent` in plain values; ``error`` is code, sentence and hint.

    Texts are bytes in UTF-8 that may hold lone surrogates, as the headers of images may.
    ``peak_memory_bytes`` is the most that the worker has had so far.
    """

    patient_id: bytes
    study_uid: bytes
    width_px: int
    height_px: int
    pixels: dict[int, bytes]
    burned_in: bool
    error: tuple[str, bytes, bytes] | None
    peak_memory_bytes: int


def send_message(file: IO[bytes], message: msgspec.Struct, data: bytes = b"") -> None:
    """Send a message, and bytes behind it.

    Raises:
        OSError: The other process has ended.
    """
    packed = msgspec.msgpack.encode(message)
    file.write(len(packed).to_bytes(_LENGTH_BYTES, "little") + packed)
    file.write(data)
    file.flush()


def receive_message(file: IO[bytes], kind: Any) -> Any:
    """Wait for a message of a kind, which is one of the classes above, or a union of them.

    Raises:
        EOFError: The other process has ended.
        ValueError: What has come is no such message.
    """
    length = int.from_bytes(receive_bytes(file, _LENGTH_BYTES), "little")
    if length > MAX_MESSAGE_BYTES:
        raise ValueError("a message that is too long")
    return msgspec.msgpack.decode(receive_bytes(file, length), type=kind)


def receive_bytes(file: IO[bytes], length: int) -> bytes:
    """Wait for so many bytes.

    Raises:
        EOFError: The other process has ended.
    """
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data


def main(memory_bytes: int, limit_s: float, shared: int) -> None:
    """Answer requests until there are no more.

    Args:
        memory_bytes: How much the address space may grow.
        limit_s: Seconds for one image, where the other process was killed and cannot see to it.
        shared: Descriptor of the memory that both share.
    """
    source, sink = _take_pipes()
    configure_process()
    _import_decoders()
    room = map_shared_buffer(shared) if shared >= 0 else memoryview(b"")
    _limit_memory(memory_bytes)
    send_message(sink, WorkerReady())
    _silence(sys.stderr.fileno())
    ask = partial(_request_reservation, source, sink, limit_s)
    with suppress(EOFError, BrokenPipeError):
        while True:
            request = receive_message(source, DecodeRequest)
            size_bytes = request.size_bytes
            data = room[:size_bytes] if request.shared else receive_bytes(source, size_bytes)
            _set_alarm(limit_s)
            content = read_image(data, request.sizes_px, ask)
            _set_alarm(0)
            send_message(sink, _to_response(content))


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Keep both pipes to this module: C libraries print to standard output."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _silence(0)
    _silence(1)
    for name in ("SIGINT", "SIGTERM"):  # a terminal sends them to all: the other process decides
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    return source, sink


def _silence(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _import_decoders() -> None:
    """Import now what decoding would import later, so that it does not count as an image's."""
    import pydicom.encaps
    import pydicom.pixels  # noqa: F401


def _limit_memory(memory_bytes: int) -> None:
    """Let the system refuse what goes beyond, and kill this process before any other."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_MAX_OOM_SCORE, encoding="ascii")
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:  # macOS, which does not keep to this limit either
        return
    allowed = pages * resource.getpagesize() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or allowed < hard:
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def _set_alarm(seconds: float) -> None:
    """Let the system kill this process then; 0 takes it back."""
    if hasattr(signal, "setitimer"):  # Windows has none
        signal.setitimer(signal.ITIMER_REAL, seconds)


@contextmanager
def _request_reservation(
    source: IO[bytes], sink: IO[bytes], limit_s: float, pixels: int
) -> Iterator[None]:
    """Have the other process reserve the pixels of a large image; it knows when they are free."""
    if pixels > LARGE_IMAGE_PIXELS:
        _set_alarm(0)
        send_message(sink, ReservationRequest(pixels))
        receive_message(source, ReservationGranted)
        _set_alarm(limit_s)
    yield


def _to_response(content: DecodeResult) -> DecodeResponse:
    problem, told = content.error, None
    if problem:
        told = (problem.code, _encode_text(problem.sentence), _encode_text(problem.hint))
    return DecodeResponse(
        patient_id=_encode_text(content.patient_id),
        study_uid=_encode_text(content.study_uid),
        width_px=content.width_px,
        height_px=content.height_px,
        pixels={size_px: plane.tobytes() for size_px, plane in content.pixels.items()},
        burned_in=content.burned_in,
        error=told,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _encode_text(text: str) -> bytes:
    """Turn any text into bytes."""
    return text.encode("utf-8", "surrogatepass")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
