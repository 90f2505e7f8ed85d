"""Decoder: images that may crash a C library are decoded in worker processes.

JPEG, PNG and BMP files are decoded in this process, after a check of their headers. DICOM, TIFF and
WebP, and any image under suspicion, go to worker processes with limits on memory and time. A worker
that crashes or is killed affects one image only, which is tried once more in a new process.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
import weakref
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Self, cast

import msgspec
import numpy as np

from batch_scorer.errors import DecoderKilled, DecoderUnavailable, ImageError, Interrupted
from batch_scorer.imaging.decode import DecodeResult, detect_format, read_image
from batch_scorer.imaging.decode_worker import (
    DecodeRequest,
    DecodeResponse,
    ReservationGranted,
    ReservationRequest,
    WorkerReady,
    receive_message,
    send_message,
)
from batch_scorer.imaging.grayscale import MAX_PIXELS
from batch_scorer.imaging.limits import reserve_pixels
from batch_scorer.imaging.shared_memory import CAPACITY_BYTES, SharedBuffer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

UNTRUSTED_FORMATS = ("DICOM", "TIFF", "WebP")
"""Formats whose decoders reserve memory by many different fields of a file."""
START_TIMEOUT_S = 120.0
_WATCH_INTERVAL_S = 0.2
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
_COMMAND = ("-P", "-m", "batch_scorer.imaging.decode_worker")
_WORKER_ERRORS = (OSError, EOFError, ValueError, msgspec.MsgspecError)


@dataclass(frozen=True)
class WorkerLimits:
    """The limits of a worker for one image.

    At the largest accepted size, 80 megapixels, a DICOM file needs up to 0.8 GB beyond itself and a
    WebP file 1.25 GB. The slowest format, JPEG 2000, took 20 s on a busy core.
    """

    memory_bytes: int = 1_500_000_000
    timeout_s: float = 60.0

    def describe(self) -> str:
        """Describe the limits in words."""
        return f"{self.memory_bytes / 1e9:g} GB of memory or {self.timeout_s:g} seconds"


class Decoder:
    """Decodes images; starts a worker process if an image needs one and none is free.

    Any number of threads may use it, with at most one worker per decoding thread. The first worker
    starts when the first image needs it. A pickled copy starts its own workers.

    Args:
        limits: The limits of each worker; default: ``WorkerLimits()``.
        command: The Python interpreter and its arguments before the limits; default: this
            interpreter and the ``decode_worker`` module.
    """

    def __init__(
        self, limits: WorkerLimits | None = None, command: Sequence[str] | None = None
    ) -> None:
        self._limits = limits or WorkerLimits()
        self._command = (sys.executable, *_COMMAND) if command is None else tuple(command)
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._closed = False
        self.peak_memory_bytes = 0
        self._ended = threading.Event()
        self._end_workers = weakref.finalize(self, _end_workers, self._workers, self._ended)

    def __reduce__(self) -> tuple[type[Self], tuple[WorkerLimits, tuple[str, ...]]]:
        return type(self), (self._limits, self._command)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, including busy ones."""
        with self._lock:
            self._closed = True
        self._end_workers()

    def read(
        self, data: bytes, sizes_px: Collection[int], *, isolated: bool = False
    ) -> DecodeResult:
        """Read one image as ``read_image`` does, in a worker if its format requires that.

        Args:
            data: The whole file.
            sizes_px: Sides of the squares to make; if empty, no pixel is decoded.
            isolated: Use a worker for any format.

        Raises:
            DecoderUnavailable: No worker can be started.
            Interrupted: The decoder was closed meanwhile.
        """
        if not _needs_worker(data, sizes_px, isolated=isolated):
            return read_image(data, sizes_px)
        for get_worker in (self._acquire_worker, self._start_worker):
            worker = get_worker()
            try:
                content, peak_bytes = worker.read(data, list(sizes_px))
            except _WORKER_ERRORS:
                self._discard(worker)
                self._check_open()
                continue
            except BaseException:
                self._discard(worker)
                raise
            with self._lock:
                self._idle.append(worker)
                self.peak_memory_bytes = max(self.peak_memory_bytes, peak_bytes)
            return content
        return DecodeResult(
            error=DecoderKilled(
                f"Decoding failed twice: the image needed more than {self._limits.describe()}, "
                "or crashed the decoder.",
                "Check it in another program. It is tried again after the file has changed.",
            )
        )

    def _acquire_worker(self) -> _Worker:
        with self._lock:
            if self._idle and not self._closed:
                return self._idle.pop()
        return self._start_worker()

    def _start_worker(self) -> _Worker:
        self._check_open()
        worker = _Worker(self._command, self._limits)
        with self._lock:
            first = not self._workers
            self._workers.add(worker)
        try:
            if first:
                watch = (self._workers, self._lock, self._ended)
                threading.Thread(target=_kill_late_workers, args=watch, daemon=True).start()
            self._check_open()
            worker.wait_until_ready()
        except BaseException:
            self._discard(worker)
            self._check_open()
            raise
        return worker

    def _discard(self, worker: _Worker) -> None:
        worker.end()
        with self._lock:
            self._workers.discard(worker)

    def _check_open(self) -> None:
        if self._closed:
            raise Interrupted("The run ended while an image was decoded.")


def _needs_worker(data: bytes, sizes_px: Collection[int], *, isolated: bool) -> bool:
    try:
        kind = detect_format(data)
    except ImageError:  # such an image never reaches a decoder
        return False
    return kind == "DICOM" or bool(sizes_px and (isolated or kind in UNTRUSTED_FORMATS))


def _end_workers(workers: set[_Worker], ended: threading.Event) -> None:
    ended.set()
    for worker in list(workers):
        worker.end()


def _kill_late_workers(workers: set[_Worker], lock: threading.Lock, ended: threading.Event) -> None:
    """Kill each worker that exceeds its time limit, as long as any workers exist."""
    while not ended.wait(_WATCH_INTERVAL_S):
        with lock:
            if not workers:
                return
            for worker in workers:
                worker.kill_if_late()


class _Worker:
    """A worker process and the pipes to it.

    Raises:
        DecoderUnavailable: The process cannot be started.
    """

    def __init__(self, command: tuple[str, ...], limits: WorkerLimits) -> None:
        self._limits = limits
        self._shared = SharedBuffer.create_if_possible()
        shared_fds = [self._shared.descriptor] if self._shared else []
        try:
            self._process = subprocess.Popen(  # noqa: S603 - runs this program itself
                [
                    *command,
                    str(limits.memory_bytes),
                    str(limits.timeout_s),
                    *map(str, shared_fds or [-1]),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_make_environment(),
                pass_fds=shared_fds,
            )
        except (OSError, ValueError) as exc:
            self._close_shared()
            raise _decoder_unavailable(str(exc)) from exc
        self._stdin, self._stdout, stderr = (
            cast("IO[bytes]", pipe)
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._stderr = stderr
        self._deadline = math.inf
        _enlarge_pipe(self._stdin)

    def wait_until_ready(self) -> None:
        """Wait until the process has started.

        Raises:
            DecoderUnavailable: The process did not start.
        """
        with self._stderr as stderr, self._time_limit(START_TIMEOUT_S):
            try:
                receive_message(self._stdout, WorkerReady)
            except _WORKER_ERRORS as exc:
                self._process.kill()
                raise _decoder_unavailable(_last_line(stderr.read())) from exc

    def read(self, data: bytes, sizes_px: list[int]) -> tuple[DecodeResult, int]:
        """Read one image in the worker.

        Returns:
            The result, and the peak memory of the process in bytes.

        Raises:
            OSError, EOFError, ValueError, MsgspecError: The process crashed, was killed after its
                time limit, or sent an invalid response.
        """
        shared = self._shared if data and len(data) <= CAPACITY_BYTES else None
        if shared:
            shared.write(data)
        response = self._request(
            DecodeRequest(sizes_px, len(data), bool(shared)), b"" if shared else data
        )
        with ExitStack() as reserved:
            if isinstance(response, ReservationRequest):
                reserved.enter_context(reserve_pixels(min(response.pixels, MAX_PIXELS)))
                response = self._request(ReservationGranted())
        if not isinstance(response, DecodeResponse):
            raise msgspec.ValidationError("expected one reservation per image, found two")
        if shared:
            shared.release(len(data))
        return _to_result(response, sizes_px), response.peak_memory_bytes

    def _request(
        self, message: DecodeRequest | ReservationGranted, data: bytes = b""
    ) -> DecodeResponse | ReservationRequest:
        with self._time_limit(self._limits.timeout_s):
            send_message(self._stdin, message, data)
            response: DecodeResponse | ReservationRequest = receive_message(
                self._stdout, DecodeResponse | ReservationRequest
            )
            return response

    @contextmanager
    def _time_limit(self, timeout_s: float) -> Iterator[None]:
        self._deadline = time.monotonic() + timeout_s
        try:
            yield
        finally:
            self._deadline = math.inf

    def kill_if_late(self) -> None:
        """Kill the process if its time limit has passed."""
        if time.monotonic() > self._deadline:
            self._process.kill()

    def end(self) -> None:
        """Kill the process and release its pipes and memory."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout, self._stderr):
            with suppress(OSError):  # unread data cannot be flushed
                pipe.close()
        self._close_shared()

    def _close_shared(self) -> None:
        if self._shared:
            self._shared.close()


def _make_environment() -> dict[str, str]:
    """Give a worker this process's import path, and no numeric threads."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100 - of ""
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _enlarge_pipe(pipe: IO[bytes]) -> None:
    """Enlarge a pipe, so that a large image needs fewer context switches."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    with suppress(OSError):  # not on Linux, or beyond the system's limit
        fcntl.fcntl(pipe.fileno(), _F_SETPIPE_SZ, _PIPE_BYTES)


def _to_result(response: DecodeResponse, sizes_px: list[int]) -> DecodeResult:
    """Convert the response of a worker to a result.

    Raises:
        ValueError: The response has other sizes than requested, or an unknown error.
    """
    if not response.error and sorted(response.pixels) != sorted(sizes_px):
        raise ValueError("expected pixels of the requested sizes, found others")
    return DecodeResult(
        response.patient_id.decode("utf-8", "surrogatepass"),
        response.study_uid.decode("utf-8", "surrogatepass"),
        response.width_px,
        response.height_px,
        {
            size_px: np.frombuffer(plane, np.uint8).reshape(size_px, size_px)
            for size_px, plane in response.pixels.items()
        },
        _to_error(response.error) if response.error else None,
        response.burned_in,
    )


def _to_error(error: tuple[str, bytes, bytes]) -> ImageError:
    code, sentence, hint = error
    kinds: dict[str, type[ImageError]] = {kind.code: kind for kind in ImageError.__subclasses__()}
    if code not in kinds:
        raise ValueError("expected the code of an image error, found another")
    return kinds[code](*(text.decode("utf-8", "surrogatepass") for text in (sentence, hint)))


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it ended without a message"


def _decoder_unavailable(reason: str) -> DecoderUnavailable:
    return DecoderUnavailable(
        f"No process can be started to decode images: {reason.rstrip('.')}.",
        "Allow this program to start processes with its own Python interpreter.",
    )
