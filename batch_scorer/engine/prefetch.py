"""Read films ahead of their decoding: from a bucket many at once, because waiting needs no core."""

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
"""Films whose bytes may be on their way or wait to be decoded; bounds the memory."""


def read_ahead(
    source: Source, refs: Iterable[ImageRef], read: Callable[[ImageRef], bytes] | None = None
) -> Generator[tuple[ImageRef, Callable[[], bytes]]]:
    """Each film, in order, with a call that gives its bytes, to be made exactly once.

    From disk the call itself reads. From elsewhere reading has begun before; where too many films
    wait for their call, the next one is held back until a call was made.

    Args:
        source: Where the films lie.
        refs: The films.
        read: Reads one whole film, and raises what `Source.read` does; by default that itself.
    """
    read = read or source.read
    if not source.readers:
        for ref in refs:
            yield ref, partial(read, ref)
        return
    places = BoundedSemaphore(MAX_UNDECODED_PER_READER * source.readers)
    pool = ThreadPoolExecutor(source.readers, thread_name_prefix="read")
    given_up = True
    try:
        for ref in refs:
            places.acquire()
            yield ref, partial(_take_result, pool.submit(read, ref), places)
        given_up = False
    finally:
        pool.shutdown(wait=False, cancel_futures=given_up)


def _take_result(coming: Future[bytes], places: BoundedSemaphore) -> bytes:
    try:
        return coming.result()
    finally:
        places.release()
