"""Thumbnails of the images that the report shows first, and their evidence maps.

A border that may show a patient's name is masked in both.
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
"""Largest run whose decoded images are kept for the report, which shows most of them.
By default a report shows up to 30 images. Keeping an image takes 2.8 ms (JPEG of 224 pixels) to
20 ms (DICOM of 3.8 megapixels) of processor time, and half a megabyte. Reading it again takes 3.1
to 49 ms, or 460 ms for a compressed DICOM. In a run of 20,000 images, keeping all thumbnails would
cost 60 to 400 s and save about 2 s."""


class ReportImages:
    """The images that a report may show, kept from the scoring or read again.

    Args:
        source: The source of the images.
        images: Number of images to decode. None is kept if there are more than ``MOST_KEPT``.
    """

    def __init__(self, source: Source, images: int = 0) -> None:
        self.source = source
        self.sizes_px = THUMBNAIL_SIZES_PX if 0 < images <= MOST_KEPT else frozenset()
        self._kept: dict[str, DecodeResult] = {}

    def keep(self, sha256: str, content: DecodeResult) -> None:
        """Keep an image that was also decoded to ``sizes_px``, by the hash of its content."""
        if self.sizes_px:
            self._kept[sha256] = content

    def read(
        self, decoder: Decoder, ref: ImageRef | None, sha256: str, sizes_px: frozenset[int]
    ) -> DecodeResult | None:
        """Return an image as it was scored; None if it is missing, changed or damaged.

        Raises:
            DecoderUnavailable: No process to decode it can be started.
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
    """An image of the report: its row, its thumbnail, and (S, S) pixels if it gets a map."""

    row: Score
    thumbnail: Image.Image
    pixels: NDArray[np.uint8] | None


def write_thumbnails(
    output: Output,
    images: ReportImages,
    rows: Sequence[Score],
    threshold: float,
    gallery: Gallery,
    load_model: Callable[[], Classifier | None],
) -> Gallery:
    """Write the thumbnails and evidence maps of the images that the report shows.

    Only the images that get a map go through the model once more.

    Args:
        output: The output of the run.
        images: The images of the run.
        rows: All rows of the run.
        threshold: The first model's threshold.
        gallery: The requested images and maps.
        load_model: Loads the first model, called only if an image gets a map; returns None if the
            model's file is missing.

    Returns:
        The gallery with the maps that were written.

    Raises:
        DecoderUnavailable: No process to decode an image can be started.
        OutputError: The output cannot be written.
        ModelFileError: The model failed.
    """
    groups = select_for_review(rows, threshold, gallery.review_minutes).values()
    selected = [row for group in groups for row in group]
    mapped_keys = {row.image for row in selected if _needs_map(row, gallery)}
    classifier = load_model() if mapped_keys else None
    explainer = classifier if classifier and classifier.card.evidence else None
    size_px = explainer.card.size_px if explainer else None
    with Decoder() as decoder:
        shown = list(_read_images(decoder, images, selected, mapped_keys, size_px))
    output.write_all(dict(store.encode_thumbnail(image.row, image.thumbnail) for image in shown))
    mapped = [(image, image.pixels) for image in shown if image.pixels is not None]
    if mapped_keys and explainer is None:
        return msgspec.structs.replace(
            gallery, no_maps_reason="unanswered" if classifier else "model"
        )
    if not mapped or explainer is None:
        return gallery
    return msgspec.structs.replace(gallery, maps=_write_evidence_maps(output, mapped, explainer))


def _needs_map(row: Score, gallery: Gallery) -> bool:
    flagged = row.prediction == CLASSES[1]
    return gallery.heatmaps == "all" or (gallery.heatmaps == "flagged" and flagged)


def _read_images(
    decoder: Decoder,
    images: ReportImages,
    rows: Sequence[Score],
    mapped_keys: set[str],
    size_px: int | None,
) -> Iterator[_GalleryImage]:
    """Yield the images that have not changed since; the report says which ones are missing."""
    names = {row.image for row in rows}
    refs = {ref.key: ref for ref in images.source.refs if ref.key in names}
    for row in rows:
        map_px = size_px if row.image in mapped_keys else None
        sizes_px = THUMBNAIL_SIZES_PX | ({map_px} if map_px else set())
        content = images.read(decoder, refs.get(row.image), row.sha256, sizes_px)
        if content is None:
            continue
        thumbnail = _restore_aspect_ratio(content.pixels[THUMBNAIL_SIZE_PX], row)
        if needs_border_mask(content):
            thumbnail = mask_border(thumbnail)
        yield _GalleryImage(row, thumbnail, content.pixels[map_px] if map_px else None)


def _restore_aspect_ratio(pixels: NDArray[np.uint8], row: Score) -> Image.Image:
    """Resize a stretched square to the image's own aspect ratio."""
    width_px, height_px = row.width_px or 1, row.height_px or 1
    scale = THUMBNAIL_SIZE_PX / max(width_px, height_px)
    size = (max(1, round(width_px * scale)), max(1, round(height_px * scale)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def _write_evidence_maps(
    output: Output, images: list[tuple[_GalleryImage, NDArray[np.uint8]]], classifier: Classifier
) -> dict[str, Peak]:
    """Write evidence maps, all on one scale; skip evidence with a value that is not finite.

    Returns:
        The peak of each map by the stem of the thumbnail.
    """
    evidence = _compute_evidence(classifier, [pixels for _, pixels in images])
    drawn = [
        (image, values)
        for (image, _), values in zip(images, evidence, strict=True)
        if np.isfinite(values).all()
    ]
    max_evidence = max((float(values.max()) for _, values in drawn), default=0.0)
    output.write_all(
        dict(
            store.encode_evidence_map(
                image.row, overlay_heatmap(image.thumbnail, values, max_evidence)
            )
            for image, values in drawn
        )
    )
    return {store.thumbnail_stem(image.row): find_peak(values) for image, values in drawn}


def _compute_evidence(
    classifier: Classifier, pixels: list[NDArray[np.uint8]]
) -> list[NDArray[np.float32]]:
    """Compute the evidence (height, width) of each image, by a model that gives evidence."""
    batches = [pixels[start : start + BATCH_SIZE] for start in range(0, len(pixels), BATCH_SIZE)]
    results = [classifier.predict(np.stack(batch)[..., None]).evidence for batch in batches]
    return [values for found in results if found is not None for values in found]
