"""The engine of one machine: as many threads as cores, each decoding a film or judging a batch.

No thread waits for another's share of an inference, and none is one too many: a session has no
threads of its own. While some threads judge a batch, the others read and decode what comes after.
"""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.engine.predict import (
    Batch,
    DecodedImage,
    classify_images,
    make_rows,
    select_unseen,
)
from batch_scorer.engine.prefetch import read_ahead
from batch_scorer.errors import DecoderKilled, ImageError
from batch_scorer.imaging.decode_pool import Decoder
from batch_scorer.imaging.deidentify import Deidentifier
from batch_scorer.imaging.file_names import parse_patient
from batch_scorer.results.schema import Score
from batch_scorer.results.usage import CLASSIFY, DECODE, READ, UsageMeter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from batch_scorer.model.classifier import Classifier, Predictions
    from batch_scorer.results.thumbnails import ReportImages
    from batch_scorer.storage.listing import ImageRef
    from batch_scorer.storage.source import Source

PREFETCH_BATCHES = 4
"""Decoded batches that may wait for the models; bounds the memory."""


@dataclass(frozen=True)
class EngineJob:
    """What an engine has to do: turn each of ``refs`` into one row.

    ``known`` holds rows by content hash, of films that were scored before: what has the same
    content takes their answers and is not decoded. An engine may add to it. ``usage`` counts what
    the engine spends. ``suspects`` are keys of images that may have ended an earlier run: of
    whatever kind, they are decoded in processes of their own by ``decoder``, which whoever makes
    the work closes at its end. ``report_images`` keeps what the report
    may show.
    """

    source: Source
    refs: Sequence[ImageRef]
    labels: Mapping[str, str]
    classifiers: list[Classifier]
    known: dict[str, Score]
    threads: int
    batch_size: int
    keep_atypical: bool
    identifiers: Deidentifier = field(default_factory=Deidentifier)
    usage: UsageMeter = field(default_factory=UsageMeter)
    suspects: frozenset[str] = frozenset()
    decoder: Decoder = field(default_factory=Decoder)
    report_images: ReportImages | None = None

    def read(self, ref: ImageRef) -> bytes:
        """Read one whole film, as `Source.read` does."""
        with self.usage.timing(READ):
            data = self.source.read(ref)
        self.usage.count_bytes(len(data))
        return data

    @property
    def sizes_px(self) -> list[int]:
        """Sides of the squares that the models and the report want of an image."""
        report_px = self.report_images.sizes_px if self.report_images else frozenset()
        return sorted({c.card.size_px for c in self.classifiers} | report_px)

    def classify(self, films: list[DecodedImage]) -> list[Predictions]:
        """What each model says of decoded films, as `classify_films` does."""
        with self.usage.timing(CLASSIFY):
            return classify_images(films, self.classifiers)


def score_locally(work: EngineJob) -> Generator[list[Score]]:
    """Rows in the order of the films, a batch at a time, each as soon as its turn has come.

    The processes that decode are ended with it.
    """
    with Decoder() as decoder:
        yield from score_batches(replace(work, decoder=decoder))


def score_batches(work: EngineJob) -> Generator[list[Score]]:
    """Rows as of ``score_locally``; the work's decoder stays open for more."""
    seen = set(work.known)
    under_way: deque[_PendingBatch] = deque()
    with ThreadPoolExecutor(work.threads, thread_name_prefix="cxr") as pool:
        films = _prefetch_decoded(work, pool)
        try:
            while batch := list(islice(films, work.batch_size)):
                fresh = select_unseen(batch, seen)
                answers = pool.submit(work.classify, fresh) if fresh else None
                under_way.append(_PendingBatch(batch, fresh, answers))
                while len(under_way) > work.threads or (under_way and under_way[0].is_done):
                    yield under_way.popleft().make_rows(work)
            while under_way:
                yield under_way.popleft().make_rows(work)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            work.usage.record_peak_memory(work.decoder.peak_memory_bytes)


@dataclass(frozen=True)
class _PendingBatch:
    """A decoded batch that the models may still be working on."""

    images: list[DecodedImage]
    unseen: list[DecodedImage]
    predictions: Future[list[Predictions]] | None

    @property
    def is_done(self) -> bool:
        """Whether nothing is waited for."""
        return self.predictions is None or self.predictions.done()

    def make_rows(self, work: EngineJob) -> list[Score]:
        """Wait for the models, and write the rows."""
        judged = Batch(
            self.images, self.unseen, self.predictions.result() if self.predictions else []
        )
        return list(
            make_rows(judged, work.classifiers, work.known, keep_atypical=work.keep_atypical)
        )


def decode_image(
    work: EngineJob, ref: ImageRef, read: Callable[[], bytes] | None = None
) -> DecodedImage:
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
        patient=work.identifiers.apply_to_patient_id(parse_patient(ref.key)),
        stamp=ref.stamp,
    )
    try:
        data = read() if read else work.read(ref)
        with work.usage.timing(DECODE):
            row = msgspec.structs.replace(row, sha256=hashlib.sha256(data).hexdigest())
            first = work.known.get(row.sha256)
            if first and first.reason == DecoderKilled.code:  # not even its header is safe
                return DecodedImage(row)
            known = row.sha256 in work.known
            sizes_px = () if known else work.sizes_px
            content = work.decoder.read(data, sizes_px, isolated=ref.key in work.suspects)
            patient, study = work.identifiers.apply(content.patient_id, content.study_uid)
            row = msgspec.structs.replace(row, patient=patient or row.patient, study=study)
    except ImageError as exc:  # it cannot be read
        return DecodedImage(_mark_unscored(row, exc))
    if content.error:
        row = _mark_unscored(row, content.error)
        if row.reason == DecoderKilled.code:
            work.known.setdefault(row.sha256, row)
        return DecodedImage(row)
    if known:
        return DecodedImage(row)
    if work.report_images:
        work.report_images.keep(row.sha256, content)
    row = msgspec.structs.replace(row, width_px=content.width_px, height_px=content.height_px)
    return DecodedImage(row, content.pixels)


def _mark_unscored(row: Score, problem: ImageError) -> Score:
    return msgspec.structs.replace(
        row, status=problem.status, reason=problem.code, detail=str(problem)
    )


def _prefetch_decoded(work: EngineJob, pool: ThreadPoolExecutor) -> Iterator[DecodedImage]:
    """Read and decode in threads, in order, at most a few batches ahead of the models."""
    with closing(read_ahead(work.source, work.refs, work.read)) as films:
        waiting = deque(
            pool.submit(decode_image, work, *film)
            for film in islice(films, PREFETCH_BATCHES * work.batch_size)
        )
        while waiting:
            decoded = waiting.popleft().result()
            waiting.extend(pool.submit(decode_image, work, *film) for film in islice(films, 1))
            yield decoded
