"""Read images ahead of decoding, many at once from remote storage, where waiting needs no core."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future

    from batch_scorer.storage.listing import ImageRef
    from batch_scorer.storage.source import Source

MAX_UNDECODED_PER_READER = 2
"""Maximum number of images per reader that are being read or wait for decoding; bounds the memory.
"""


def read_ahead(
    source: Source, refs: Iterable[ImageRef], read: Callable[[ImageRef], bytes] | None = None
) -> Generator[tuple[ImageRef, Callable[[], bytes]]]:
    """Yield each image in order, with a call that returns its bytes and must be made exactly once.

    From a local disk, the call itself reads. From remote storage, reading starts before the call;
    when too many images wait for their call, the next read waits too.

    Args:
        source: The source of the images.
        refs: The images.
        read: Reads one whole image and raises the errors of `Source.read`, which is the default.
    """
    read = read or source.read
    if not source.readers:
        for ref in refs:
            yield ref, partial(read, ref)
        return
    slots = BoundedSemaphore(MAX_UNDECODED_PER_READER * source.readers)
    pool = ThreadPoolExecutor(source.readers, thread_name_prefix="read")
    cancelled = True
    try:
        for ref in refs:
            slots.acquire()
            yield ref, partial(_take_result, pool.submit(read, ref), slots)
        cancelled = False
    finally:
        pool.shutdown(wait=False, cancel_futures=cancelled)


def _take_result(future: Future[bytes], slots: BoundedSemaphore) -> bytes:
    try:
        return future.result()
    finally:
        slots.release()
