"""Score images in this process, with one thread per core that decodes images and runs models.

Each ONNX Runtime session runs single-threaded, so the threads never compete for cores. While some
threads run the models on a batch, the others read and decode the next batches.
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
"""Maximum number of decoded batches that wait for the models; bounds the memory."""


@dataclass(frozen=True)
class EngineJob:
    """Work for an engine: turn each of ``refs`` into one row.

    ``known`` maps content hashes to rows of images that were scored before; an image with the same
    content copies their scores and is not decoded. An engine may add to it. ``usage`` counts what
    the engine consumes. ``suspects`` are keys of images that may have killed an earlier run:
    whatever their format, they are decoded in separate processes by ``decoder``. The caller that
    creates the job closes the decoder. ``report_images`` keeps images that the report may show.
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
        """Read one whole image, as `Source.read` does."""
        with self.usage.timing(READ):
            data = self.source.read(ref)
        self.usage.count_bytes(len(data))
        return data

    @property
    def sizes_px(self) -> list[int]:
        """Side lengths in pixels of the squares that the models and the report need."""
        report_px = self.report_images.sizes_px if self.report_images else frozenset()
        return sorted({c.card.size_px for c in self.classifiers} | report_px)

    def classify(self, images: list[DecodedImage]) -> list[Predictions]:
        """Run each model on decoded images, as `classify_images` does."""
        with self.usage.timing(CLASSIFY):
            return classify_images(images, self.classifiers)


def score_locally(job: EngineJob) -> Generator[list[Score]]:
    """Yield rows in the order of the images, one batch at a time, as soon as each is ready.

    The decoder processes end with the generator.
    """
    with Decoder() as decoder:
        yield from score_batches(replace(job, decoder=decoder))


def score_batches(job: EngineJob) -> Generator[list[Score]]:
    """Yield rows as ``score_locally`` does, but leave the job's decoder open."""
    seen = set(job.known)
    pending: deque[_PendingBatch] = deque()
    with ThreadPoolExecutor(job.threads, thread_name_prefix="cxr") as pool:
        decoded = _prefetch_decoded(job, pool)
        try:
            while batch := list(islice(decoded, job.batch_size)):
                unseen = select_unseen(batch, seen)
                future = pool.submit(job.classify, unseen) if unseen else None
                pending.append(_PendingBatch(batch, unseen, future))
                while len(pending) > job.threads or (pending and pending[0].is_done):
                    yield pending.popleft().make_rows(job)
            while pending:
                yield pending.popleft().make_rows(job)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            job.usage.record_peak_memory(job.decoder.peak_memory_bytes)


@dataclass(frozen=True)
class _PendingBatch:
    """A decoded batch that the models may still be classifying."""

    images: list[DecodedImage]
    unseen: list[DecodedImage]
    predictions: Future[list[Predictions]] | None

    @property
    def is_done(self) -> bool:
        """True if the predictions are ready."""
        return self.predictions is None or self.predictions.done()

    def make_rows(self, job: EngineJob) -> list[Score]:
        """Wait for the models, then make the rows."""
        batch = Batch(
            self.images, self.unseen, self.predictions.result() if self.predictions else []
        )
        return list(make_rows(batch, job.classifiers, job.known, keep_atypical=job.keep_atypical))


def decode_image(
    job: EngineJob, ref: ImageRef, read: Callable[[], bytes] | None = None
) -> DecodedImage:
    """Read and decode one file. A problem with it becomes part of its row, not an exception.

    Args:
        job: The job, with the source and the sizes that the models need.
        ref: The file.
        read: Returns the file's bytes if reading has already started; reads the file by default.
    """
    row = Score(
        image=ref.key,
        status="scored",
        label=job.labels.get(ref.key, ""),
        patient=job.identifiers.apply_to_patient_id(parse_patient(ref.key)),
        stamp=ref.stamp,
    )
    try:
        data = read() if read else job.read(ref)
        with job.usage.timing(DECODE):
            row = msgspec.structs.replace(row, sha256=hashlib.sha256(data).hexdigest())
            first = job.known.get(row.sha256)
            if first and first.reason == DecoderKilled.code:  # not even its header is safe
                return DecodedImage(row)
            known = row.sha256 in job.known
            sizes_px = () if known else job.sizes_px
            content = job.decoder.read(data, sizes_px, isolated=ref.key in job.suspects)
            patient, study = job.identifiers.apply(content.patient_id, content.study_uid)
            row = msgspec.structs.replace(row, patient=patient or row.patient, study=study)
    except ImageError as exc:  # the file could not be read
        return DecodedImage(_mark_unscored(row, exc))
    if content.error:
        row = _mark_unscored(row, content.error)
        if row.reason == DecoderKilled.code:
            job.known.setdefault(row.sha256, row)
        return DecodedImage(row)
    if known:
        return DecodedImage(row)
    if job.report_images:
        job.report_images.keep(row.sha256, content)
    row = msgspec.structs.replace(row, width_px=content.width_px, height_px=content.height_px)
    return DecodedImage(row, content.pixels)


def _mark_unscored(row: Score, problem: ImageError) -> Score:
    return msgspec.structs.replace(
        row, status=problem.status, reason=problem.code, detail=str(problem)
    )


def _prefetch_decoded(job: EngineJob, pool: ThreadPoolExecutor) -> Iterator[DecodedImage]:
    """Read and decode in threads, in order, at most a few batches ahead of the models."""
    with closing(read_ahead(job.source, job.refs, job.read)) as reads:
        pending = deque(
            pool.submit(decode_image, job, *image)
            for image in islice(reads, PREFETCH_BATCHES * job.batch_size)
        )
        while pending:
            decoded = pending.popleft().result()
            pending.extend(pool.submit(decode_image, job, *image) for image in islice(reads, 1))
            yield decoded
