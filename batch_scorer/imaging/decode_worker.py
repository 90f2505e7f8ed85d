"""Decode worker: a process with limits on memory and time, run by ``python -m`` this module.

It reads requests from stdin and writes responses to stdout, as MessagePack preceded by its length,
and ends when stdin ends. Responses hold plain values only, so an image that exploits its decoder
can falsify its own result at most.
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
"""Room for several pixel planes of the largest model input."""
_LENGTH_BYTES = 4
_MAX_OOM_SCORE = "1000"


class WorkerReady(msgspec.Struct, tag=True):
    """The message that the worker has finished its imports and set its limits."""


class DecodeRequest(msgspec.Struct, tag=True):
    """A request to decode an image of ``size_bytes`` to squares of these sides.

    The image is in shared memory if ``shared``; otherwise its bytes follow the message.
    """

    sizes_px: list[int]
    size_bytes: int
    shared: bool


class ReservationRequest(msgspec.Struct, tag=True):
    """A request to reserve the pixels of the current image."""

    pixels: int


class ReservationGranted(msgspec.Struct, tag=True):
    """The permission to decode the image."""


class DecodeResponse(msgspec.Struct, tag=True):
    """A `DecodeResult` in plain values; ``error`` is code, sentence and hint.

    Texts are UTF-8 bytes that may contain lone surrogates, as image headers do.
    ``peak_memory_bytes`` is the worker's peak so far.
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
    """Send a message, followed by raw bytes.

    Raises:
        OSError: The other process has ended.
    """
    packed = msgspec.msgpack.encode(message)
    file.write(len(packed).to_bytes(_LENGTH_BYTES, "little") + packed)
    file.write(data)
    file.flush()


def receive_message(file: IO[bytes], kind: Any) -> Any:
    """Wait for a message of a kind: one of the classes above, or a union of them.

    Raises:
        EOFError: The other process has ended.
        ValueError: The message is too long or of another kind.
    """
    length = int.from_bytes(receive_bytes(file, _LENGTH_BYTES), "little")
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(
            f"expected a message of at most {MAX_MESSAGE_BYTES:,} bytes, found {length:,}"
        )
    return msgspec.msgpack.decode(receive_bytes(file, length), type=kind)


def receive_bytes(file: IO[bytes], length: int) -> bytes:
    """Wait for this number of bytes.

    Raises:
        EOFError: The other process has ended.
    """
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data


def main(memory_bytes: int, timeout_s: float, shared: int) -> None:
    """Handle requests until stdin ends.

    Args:
        memory_bytes: The allowed growth of the address space.
        timeout_s: Time limit per image in seconds, in case the parent process was killed and cannot
            enforce it.
        shared: Descriptor of the shared memory; -1 for none.
    """
    source, sink = _take_pipes()
    configure_process()
    _import_decoders()
    shared_view = map_shared_buffer(shared) if shared >= 0 else memoryview(b"")
    _limit_memory(memory_bytes)
    send_message(sink, WorkerReady())
    _silence(sys.stderr.fileno())
    ask = partial(_request_reservation, source, sink, timeout_s)
    with suppress(EOFError, BrokenPipeError):
        while True:
            request = receive_message(source, DecodeRequest)
            size_bytes = request.size_bytes
            data = shared_view[:size_bytes] if request.shared else receive_bytes(source, size_bytes)
            _set_alarm(timeout_s)
            content = read_image(data, request.sizes_px, ask)
            _set_alarm(0)
            send_message(sink, _to_response(content))


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Take both pipes for this module alone, because C libraries print to stdout."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _silence(0)
    _silence(1)
    for name in ("SIGINT", "SIGTERM"):  # a terminal signals all processes: the parent decides
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    return source, sink


def _silence(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _import_decoders() -> None:
    """Import lazy dependencies now, so that they do not count against an image's limits."""
    import pydicom.encaps
    import pydicom.pixels  # noqa: F401


def _limit_memory(memory_bytes: int) -> None:
    """Limit the address space, and make this process the first one to kill when out of memory."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_MAX_OOM_SCORE, encoding="ascii")
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:  # macOS, which does not enforce this limit anyway
        return
    allowed = pages * resource.getpagesize() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or allowed < hard:
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def _set_alarm(seconds: float) -> None:
    """Let the system kill this process after a time; 0 cancels it."""
    if hasattr(signal, "setitimer"):  # missing on Windows
        signal.setitimer(signal.ITIMER_REAL, seconds)


@contextmanager
def _request_reservation(
    source: IO[bytes], sink: IO[bytes], timeout_s: float, pixels: int
) -> Iterator[None]:
    """Ask the parent process to reserve the pixels of a large image."""
    if pixels > LARGE_IMAGE_PIXELS:
        _set_alarm(0)
        send_message(sink, ReservationRequest(pixels))
        receive_message(source, ReservationGranted)
        _set_alarm(timeout_s)
    yield


def _to_response(content: DecodeResult) -> DecodeResponse:
    error, packed_error = content.error, None
    if error:
        packed_error = (error.code, _encode_text(error.sentence), _encode_text(error.hint))
    return DecodeResponse(
        patient_id=_encode_text(content.patient_id),
        study_uid=_encode_text(content.study_uid),
        width_px=content.width_px,
        height_px=content.height_px,
        pixels={size_px: plane.tobytes() for size_px, plane in content.pixels.items()},
        burned_in=content.burned_in,
        error=packed_error,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _encode_text(text: str) -> bytes:
    """Encode a text that may contain lone surrogates."""
    return text.encode("utf-8", "surrogatepass")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
