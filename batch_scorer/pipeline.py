"""The engine of one machine: decode ahead in threads while the models work on the batch before."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.decoding import decode_radiograph, measure_radiograph
from batch_scorer.errors import ImageError
from batch_scorer.judgement import Film, judge_batch
from batch_scorer.reading import read_ahead
from batch_scorer.records import Score, patient_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from batch_scorer.classifier import Classifier
    from batch_scorer.records import ImageRef
    from batch_scorer.source import Source

PREFETCH_BATCHES = 4
"""Decoded batches that may wait for the models; bounds the memory."""


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


def decode_film(work: Work, ref: ImageRef, read: Callable[[], bytes] | None = None) -> Film:
    """Read one file and make it ready for the models. What is wrong with it stands in its row.

    Args:
        work: Where it lies, and what the models want.
        ref: The file.
        read: Gives its bytes, where reading them has begun before.
    """
    row = Score(
        image=ref.key,
        status="scored",
        label=work.labels.get(ref.key, ""),
        patient=patient_of(ref.key),
        stamp=ref.stamp,
    )
    try:
        data = read() if read else work.source.read(ref)
        row = msgspec.structs.replace(row, sha256=hashlib.sha256(data).hexdigest())
        if row.sha256 in work.known:
            return Film(row)
        sizes_px = {c.card.size_px for c in work.classifiers}
        pixels = {size: decode_radiograph(data, size) for size in sorted(sizes_px)}
        width_px, height_px = measure_radiograph(data)
    except ImageError as exc:
        return Film(
            msgspec.structs.replace(row, status=exc.status, reason=exc.code, detail=str(exc))
        )
    return Film(msgspec.structs.replace(row, width_px=width_px, height_px=height_px), pixels)


def _decode_ahead(work: Work) -> Iterator[Film]:
    """Read and decode in threads, in order, at most a few batches ahead of the models."""
    with (
        closing(read_ahead(work.source, work.refs)) as films,
        ThreadPoolExecutor(work.threads, thread_name_prefix="decode") as pool,
    ):
        waiting = deque(
            pool.submit(decode_film, work, *film)
            for film in islice(films, PREFETCH_BATCHES * work.batch_size)
        )
        try:
            while waiting:
                decoded = waiting.popleft().result()
                waiting.extend(pool.submit(decode_film, work, *film) for film in islice(films, 1))
                yield decoded
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
