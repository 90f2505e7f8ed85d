"""Where images are decoded: what a C library may choke on, in processes of its own.

JPEG, PNG and BMP files are decoded in this process, once their headers were checked. DICOM, TIFF
and WebP, and any image that is under suspicion, go to worker processes with limits on memory and
time. A worker that ends, or has to be ended, costs one image at most: it is tried once more in a
fresh process.
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
"""Formats whose decoders reserve memory by what a file announces in many places."""
START_TIMEOUT_S = 120.0
_WATCH_INTERVAL_S = 0.2
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
_COMMAND = ("-P", "-m", "batch_scorer.imaging.decode_worker")
_WORKER_ERRORS = (OSError, EOFError, ValueError, msgspec.MsgspecError)


@dataclass(frozen=True)
class WorkerLimits:
    """What a worker may use for one image.

    Of the largest that are read, 80 megapixels, a DICOM file needs up to 0.8 GB beyond itself and a
    WebP file 1.25 GB; the slowest, JPEG 2000, took 20 s on a busy core.
    """

    memory_bytes: int = 1_500_000_000
    seconds: float = 60.0

    def describe(self) -> str:
        """Say them in words."""
        return f"{self.memory_bytes / 1e9:g} GB of memory or {self.seconds:g} seconds"


class Decoder:
    """Reads images; starts a worker where one is needed and none is free.

    Any number of threads may use it: there are never more workers than threads that decode at a
    time. Nothing is started before the first image needs it. A copy in another process has workers
    of its own.

    Args:
        limits: What a worker may use.
        command: The Python interpreter and what it runs as a worker, before the limits.
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
        self._end_all = weakref.finalize(self, _end_workers, self._workers, self._ended)

    def __reduce__(self) -> tuple[type[Self], tuple[WorkerLimits, tuple[str, ...]]]:
        return type(self), (self._limits, self._command)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, those too that have an image in hand."""
        with self._lock:
            self._closed = True
        self._end_all()

    def read(
        self, data: bytes, sizes_px: Collection[int], *, careful: bool = False
    ) -> DecodeResult:
        """Read one image as ``read_image`` does, in a worker where its kind needs that.

        Args:
            data: The whole file.
            sizes_px: Sides of the squares to make; with none, no pixel is decoded.
            careful: Use a worker whatever the kind.

        Raises:
            DecoderUnavailable: No worker can be started.
            Interrupted: The decoder was closed meanwhile.
        """
        if not _needs_worker(data, sizes_px, careful=careful):
            return read_image(data, sizes_px)
        for take in (self._acquire_worker, self._start_worker):
            worker = take()
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
                f"Decoding the image failed twice: it needed more than {self._limits.describe()}, "
                "or broke the decoder.",
                "Look at it with another program; it is tried again once the file has changed.",
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


def _needs_worker(data: bytes, sizes_px: Collection[int], *, careful: bool) -> bool:
    try:
        kind = detect_format(data)
    except ImageError:  # none that any decoder would get
        return False
    return kind == "DICOM" or bool(sizes_px and (careful or kind in UNTRUSTED_FORMATS))


def _end_workers(workers: set[_Worker], ended: threading.Event) -> None:
    ended.set()
    for worker in list(workers):
        worker.end()


def _kill_late_workers(workers: set[_Worker], lock: threading.Lock, ended: threading.Event) -> None:
    """End each worker that is past its limit of time, as long as there are any."""
    while not ended.wait(_WATCH_INTERVAL_S):
        with lock:
            if not workers:
                return
            for worker in workers:
                worker.kill_if_late()


class _Worker:
    """One process, and the pipes to it.

    Raises:
        DecoderUnavailable: It cannot be started.
    """

    def __init__(self, command: tuple[str, ...], limits: WorkerLimits) -> None:
        self._limits = limits
        self._shared = SharedBuffer.create_if_possible()
        passed = [self._shared.descriptor] if self._shared else []
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                [
                    *command,
                    str(limits.memory_bytes),
                    str(limits.seconds),
                    *map(str, passed or [-1]),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_make_environment(),
                pass_fds=passed,
            )
        except (OSError, ValueError) as exc:
            self._close_shared()
            raise _decoder_unavailable(str(exc)) from exc
        self._to, self._from, said = (
            cast("IO[bytes]", pipe)
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._said = said
        self._late_at = math.inf
        _enlarge_pipe(self._to)

    def wait_until_ready(self) -> None:
        """Wait until it has started.

        Raises:
            DecoderUnavailable: It has not.
        """
        with self._said as said, self._time_limit(START_TIMEOUT_S):
            try:
                receive_message(self._from, WorkerReady)
            except _WORKER_ERRORS as exc:
                self._process.kill()
                raise _decoder_unavailable(_last_line(said.read())) from exc

    def read(self, data: bytes, sizes_px: list[int]) -> tuple[DecodeResult, int]:
        """Have one image read.

        Returns:
            What was found, and the most memory in bytes that the process has had.

        Raises:
            OSError, EOFError, ValueError, MsgspecError: The process has ended, was ended because it
                took too long, or has answered what it should not.
        """
        shared = self._shared if data and len(data) <= CAPACITY_BYTES else None
        if shared:
            shared.write(data)
        answer = self._ask(
            DecodeRequest(sizes_px, len(data), bool(shared)), b"" if shared else data
        )
        with ExitStack() as reserved:
            if isinstance(answer, ReservationRequest):
                reserved.enter_context(reserve_pixels(min(answer.pixels, MAX_PIXELS)))
                answer = self._ask(ReservationGranted())
        if not isinstance(answer, DecodeResponse):
            raise msgspec.ValidationError("an image that is large twice")
        if shared:
            shared.forget(len(data))
        return _to_result(answer, sizes_px), answer.peak_memory_bytes

    def _ask(
        self, message: DecodeRequest | ReservationGranted, data: bytes = b""
    ) -> DecodeResponse | ReservationRequest:
        with self._time_limit(self._limits.seconds):
            send_message(self._to, message, data)
            answer: DecodeResponse | ReservationRequest = receive_message(
                self._from, DecodeResponse | ReservationRequest
            )
            return answer

    @contextmanager
    def _time_limit(self, seconds: float) -> Iterator[None]:
        self._late_at = time.monotonic() + seconds
        try:
            yield
        finally:
            self._late_at = math.inf

    def kill_if_late(self) -> None:
        """End the process where it has been waited for too long."""
        if time.monotonic() > self._late_at:
            self._process.kill()

    def end(self) -> None:
        """End the process, whatever it does, and leave nothing of it behind."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from, self._said):
            with suppress(OSError):  # what it was to read cannot be flushed
                pipe.close()
        self._close_shared()

    def _close_shared(self) -> None:
        if self._shared:
            self._shared.close()


def _make_environment() -> dict[str, str]:
    """Let a worker find what this process finds, and start no threads of its own."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100 - of ""
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _enlarge_pipe(pipe: IO[bytes]) -> None:
    """Let a pipe hold more, so that a large image takes fewer turns of the two processes."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    with suppress(OSError):  # not on Linux, or no room for more
        fcntl.fcntl(pipe.fileno(), _F_SETPIPE_SZ, _PIPE_BYTES)


def _to_result(found: DecodeResponse, sizes_px: list[int]) -> DecodeResult:
    """Turn plain values back.

    Raises:
        ValueError: They are not what was asked for.
    """
    if not found.error and sorted(found.pixels) != sorted(sizes_px):
        raise ValueError("pixels of other sizes than those asked for")
    return DecodeResult(
        found.patient_id.decode("utf-8", "surrogatepass"),
        found.study_uid.decode("utf-8", "surrogatepass"),
        found.width_px,
        found.height_px,
        {
            size_px: np.frombuffer(plane, np.uint8).reshape(size_px, size_px)
            for size_px, plane in found.pixels.items()
        },
        _to_error(found.error) if found.error else None,
        found.burned_in,
    )


def _to_error(problem: tuple[str, bytes, bytes]) -> ImageError:
    code, sentence, hint = problem
    kinds: dict[str, type[ImageError]] = {kind.code: kind for kind in ImageError.__subclasses__()}
    if code not in kinds:
        raise ValueError("a problem that there is no word for")
    return kinds[code](*(text.decode("utf-8", "surrogatepass") for text in (sentence, hint)))


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it ended without a word"


def _decoder_unavailable(reason: str) -> DecoderUnavailable:
    return DecoderUnavailable(
        f"No process can be started to decode images in: {reason}",
        "Let this program start processes, with the Python that it runs in itself.",
    )
