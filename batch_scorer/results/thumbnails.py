"""Small pictures of the films that the report shows first, and their evidence maps.

Where a border may show a patient's name, it is painted over in both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from PIL import Image

from batch_scorer.errors import ImageError
from batch_scorer.imaging.burned_in import DETECTION_SIZE_PX, mask_border, needs_border_mask
from batch_scorer.imaging.decode_pool import Decoder
from batch_scorer.imaging.heatmap import find_peak, overlay_heatmap
from batch_scorer.model.card import CLASSES
from batch_scorer.results import store
from batch_scorer.results.worklist import select_for_review
from batch_scorer.system.process import BATCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from batch_scorer.imaging.decode import DecodeResult
    from batch_scorer.imaging.heatmap import Peak
    from batch_scorer.model.classifier import Classifier
    from batch_scorer.results.schema import Gallery, Score
    from batch_scorer.storage.listing import ImageRef
    from batch_scorer.storage.output import Output
    from batch_scorer.storage.source import Source

THUMBNAIL_SIZE_PX = 320
THUMBNAIL_SIZES_PX = frozenset({THUMBNAIL_SIZE_PX, DETECTION_SIZE_PX})
MOST_KEPT = 32
"""A report shows up to 30 images unless minutes are asked for: of a run of so few, most are shown.
To keep an image takes 2.8 ms (JPEG of 224 pixels) to 20 ms (DICOM of 3.8 megapixels) of processor
time, and half a megabyte; to read it again takes 3.1 to 49 ms, and a compressed DICOM 460 ms. Kept
from the first decoding of 20,000 images, thumbnails would cost 60 to 400 s and save some 2 s."""


class ReportImages:
    """The images that a report may show: kept while they are scored, or else read again.

    Args:
        source: Where the images are.
        images: How many the run has to decode. More than ``MOST_KEPT``, and none is kept.
    """

    def __init__(self, source: Source, images: int = 0) -> None:
        self.source = source
        self.sizes_px = THUMBNAIL_SIZES_PX if 0 < images <= MOST_KEPT else frozenset()
        self._kept: dict[str, DecodeResult] = {}

    def keep(self, sha256: str, content: DecodeResult) -> None:
        """Keep an image, by the hash of its content, that was decoded to ``sizes_px`` too."""
        if self.sizes_px:
            self._kept[sha256] = content

    def read(
        self, decoder: Decoder, ref: ImageRef | None, sha256: str, sizes_px: frozenset[int]
    ) -> DecodeResult | None:
        """Give an image as it was scored; None where it is gone, has changed or is damaged.

        Raises:
            DecoderUnavailable: No process can be started to decode it in.
        """
        content = self._kept.get(sha256)
        if content and content.pixels.keys() >= sizes_px:
            return content
        if ref is None:
            return None
        try:
            data = self.source.read(ref)
        except ImageError:
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        content = decoder.read(data, sorted(sizes_px))
        return None if content.error else content


@dataclass(frozen=True)
class _GalleryImage:
    """A film of the report: its row, its thumbnail, and (S, S) pixels where it gets a map."""

    row: Score
    thumbnail: Image.Image
    pixels: NDArray[np.uint8] | None


def write_thumbnails(
    output: Output,
    images: ReportImages,
    rows: Sequence[Score],
    threshold: float,
    asked: Gallery,
    load_model: Callable[[], Classifier | None],
) -> Gallery:
    """Write each film that the report shows, small, at its own proportions, and its evidence map.

    The films that get a map, and no others, go through the model once more.

    Args:
        output: Where they go.
        images: Where the films come from.
        rows: All rows of the run.
        threshold: The first model's.
        asked: Which films are shown, and which of them with a map.
        load_model: Loads the first model, called only where a film gets a map; gives None where
            the model's file is not at hand.

    Returns:
        What was asked, and which maps there are now.

    Raises:
        DecoderUnavailable: No process can be started to decode a film in.
        LedgerError: The output cannot be written.
        ModelFileError: The model failed.
    """
    groups = select_for_review(rows, threshold, asked.review_minutes).values()
    shown = [row for group in groups for row in group]
    wanted = {row.image for row in shown if _needs_map(row, asked)}
    classifier = load_model() if wanted else None
    able = classifier if classifier and classifier.card.evidence else None
    size_px = able.card.size_px if able else None
    with Decoder() as decoder:
        films = list(_read_images(decoder, images, shown, wanted, size_px))
    output.write_all(dict(store.encode_thumbnail(film.row, film.thumbnail) for film in films))
    mapped = [(film, film.pixels) for film in films if film.pixels is not None]
    if wanted and able is None:
        return msgspec.structs.replace(
            asked, no_maps_reason="unanswered" if classifier else "model"
        )
    if not mapped or able is None:
        return asked
    return msgspec.structs.replace(asked, maps=_write_evidence_maps(output, mapped, able))


def _needs_map(row: Score, asked: Gallery) -> bool:
    return asked.heatmaps == "all" or (asked.heatmaps == "flagged" and row.prediction == CLASSES[1])


def _read_images(
    decoder: Decoder,
    images: ReportImages,
    rows: Sequence[Score],
    wanted: set[str],
    size_px: int | None,
) -> Iterator[_GalleryImage]:
    """The films that are still as they were scored: of others the report says what is missing."""
    names = {row.image for row in rows}
    refs = {ref.key: ref for ref in images.source.refs if ref.key in names}
    for row in rows:
        map_px = size_px if row.image in wanted else None
        sizes_px = THUMBNAIL_SIZES_PX | ({map_px} if map_px else set())
        content = images.read(decoder, refs.get(row.image), row.sha256, sizes_px)
        if content is None:
            continue
        thumbnail = _restore_aspect_ratio(content.pixels[THUMBNAIL_SIZE_PX], row)
        if needs_border_mask(content):
            thumbnail = mask_border(thumbnail)
        yield _GalleryImage(row, thumbnail, content.pixels[map_px] if map_px else None)


def _restore_aspect_ratio(pixels: NDArray[np.uint8], row: Score) -> Image.Image:
    """A stretched square at the film's own proportions."""
    width_px, height_px = row.width_px or 1, row.height_px or 1
    scale = THUMBNAIL_SIZE_PX / max(width_px, height_px)
    size = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def _write_evidence_maps(
    output: Output, films: list[tuple[_GalleryImage, NDArray[np.uint8]]], classifier: Classifier
) -> dict[str, Peak]:
    """Write the maps of films, all on one scale; their peaks by the stem of the thumbnail.

    An image whose evidence is not all finite numbers gets none.
    """
    evidence = _compute_evidence(classifier, [pixels for _, pixels in films])
    drawn = [
        (film, places)
        for (film, _), places in zip(films, evidence, strict=True)
        if np.isfinite(places).all()
    ]
    top = max((float(places.max()) for _, places in drawn), default=0.0)
    output.write_all(
        dict(
            store.encode_evidence_map(film.row, overlay_heatmap(film.thumbnail, places, top))
            for film, places in drawn
        )
    )
    return {store.thumbnail_stem(film.row): find_peak(places) for film, places in drawn}


def _compute_evidence(
    classifier: Classifier, pixels: list[NDArray[np.uint8]]
) -> list[NDArray[np.float32]]:
    """The evidence (height, width) of each film, by a model that answers it."""
    batches = [pixels[start : start + BATCH_SIZE] for start in range(0, len(pixels), BATCH_SIZE)]
    answers = [classifier.predict(np.stack(batch)[..., None]).evidence for batch in batches]
    return [places for found in answers if found is not None for places in found]
