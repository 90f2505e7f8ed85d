"""The engine of one machine: decode ahead in threads while the models work on the batch before."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.decoding import decode_radiograph, measure_radiograph
from batch_scorer.errors import ImageError
from batch_scorer.judgement import Film, judge_batch
from batch_scorer.records import Score, patient_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from batch_scorer.classifier import Classifier
    from batch_scorer.records import ImageRef
    from batch_scorer.source import Source

PREFETCH_BATCHES = 4
"""Decoded batches that may wait for the models; bounds the memory."""
_AT_ONCE = nullcontext()


@dataclass(frozen=True)
class Work:
    """What an engine has to do: turn each of ``refs`` into one row.

    ``known`` holds rows by content hash, of films that were scored before: what has the same
    content takes their answers and is not decoded. An engine may add to it.
    """

    source: Source
    refs: Sequence[ImageRef]
    labels: Mapping[str, str]
    classifiers: list[Classifier]
    known: dict[str, Score]
    threads: int
    batch_size: int
    keep_atypical: bool


def score_locally(work: Work) -> Generator[list[Score]]:
    """Rows in the order of the films, a batch at a time."""
    films = _decode_ahead(work)
    while batch := list(islice(films, work.batch_size)):
        yield list(
            judge_batch(batch, work.classifiers, work.known, keep_atypical=work.keep_atypical)
        )


def decode_film(work: Work, ref: ImageRef, turn: AbstractContextManager[object] = _AT_ONCE) -> Film:
    """Read one file and make it ready for the models. What is wrong with it stands in its row.

    Args:
        work: Where it lies, and what the models want.
        ref: The file.
        turn: Waited for between reading and decoding, which keeps a core busy.
    """
    row = Score(
        image=ref.key,
        status="scored",
        label=work.labels.get(ref.key, ""),
        patient=patient_of(ref.key),
        stamp=ref.stamp,
    )
    try:
        data = work.source.read(ref)
        row = msgspec.structs.replace(row, sha256=hashlib.sha256(data).hexdigest())
        if row.sha256 in work.known:
            return Film(row)
        sizes_px = {c.card.size_px for c in work.classifiers}
        with turn:
            pixels = {size: decode_radiograph(data, size) for size in sorted(sizes_px)}
            width_px, height_px = measure_radiograph(data)
    except ImageError as exc:
        return Film(
            msgspec.structs.replace(row, status=exc.status, reason=exc.code, detail=str(exc))
        )
    return Film(msgspec.structs.replace(row, width_px=width_px, height_px=height_px), pixels)


def _decode_ahead(work: Work) -> Iterator[Film]:
    """Read and decode in threads, in order, at most a few batches ahead of the models.

    From a bucket more films are read at once than are decoded: waiting for an answer needs no core.
    """
    refs = iter(work.refs)
    turn = BoundedSemaphore(work.threads)
    readers = max(work.threads, work.source.readers)
    with ThreadPoolExecutor(readers, thread_name_prefix="decode") as pool:
        waiting = deque(
            pool.submit(decode_film, work, ref, turn)
            for ref in islice(refs, PREFETCH_BATCHES * work.batch_size)
        )
        try:
            while waiting:
                film = waiting.popleft().result()
                waiting.extend(pool.submit(decode_film, work, ref, turn) for ref in islice(refs, 1))
                yield film
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
