"""Burned-in text: detection in the border of an image, and masking in thumbnails.

A name at the edge of an X-ray is legible on a thumbnail in a report. This is a precaution, not a
de-identification: text inside the border, handwriting and faint or large letters are not detected,
and only thumbnails are changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from batch_scorer.imaging.decode import DecodeResult

BORDER_SHARE = 1 / 8
"""The proportion of width and height at each side. Scanners write there; lungs lie further in."""
DETECTION_SIZE_PX = 640
"""The image size for text detection, twice that of a thumbnail."""
MASK_VALUE = 0
_SCALES = ((11, (4, 10)), (21, (10, 20)))
"""For small and for large letters: the widest stroke, and the gaps to close between letters."""
_MIN_CONTRAST = 40
_LINE_HEIGHT_PX = (6, 47)
_MIN_STROKES = 6
"""Upright strokes of three or four letters. A side marker has fewer."""
_FILL_RANGE = (0.15, 0.7)
_PITCH_RANGE = (0.2, 1.4)
"""The distance between upright strokes, in line heights."""


def needs_border_mask(content: DecodeResult) -> bool:
    """Return whether the border of an image may identify the patient.

    Args:
        content: A result without an error, decoded to ``DETECTION_SIZE_PX`` among other sizes.

    Returns:
        True if the DICOM header states a burned-in annotation, or the border contains text.
    """
    return content.burned_in or has_border_text(content.pixels[DETECTION_SIZE_PX])


def mask_border(image: Image.Image) -> Image.Image:
    """Paint the outer ``BORDER_SHARE`` of each side black."""
    width_px, height_px = image.size
    across, down = (max(1, round(side * BORDER_SHARE)) for side in image.size)
    box = (across, down, width_px - across, height_px - down)
    masked = Image.new(image.mode, image.size, MASK_VALUE)
    masked.paste(image.crop(box), box[:2])
    return masked


def has_border_text(pixels: NDArray[np.uint8]) -> bool:
    """Detect a line of text in the border, along either axis, bright or dark.

    In any script, a line with joined letters is a small blob of alternating narrow strokes and
    gaps.

    Args:
        pixels: Shape (DETECTION_SIZE_PX, DETECTION_SIZE_PX), uint8.
    """
    for stroke_px, gaps_px in _SCALES:
        for keep_thin in (ndimage.white_tophat, ndimage.black_tophat):
            strokes = keep_thin(pixels, (stroke_px, stroke_px)) >= _MIN_CONTRAST
            if any(
                _has_text_line(turned, gap) for turned in (strokes, strokes.T) for gap in gaps_px
            ):
                return True
    return False


def _has_text_line(strokes: NDArray[np.bool_], gap_px: int) -> bool:
    """Return whether strokes in the border form a line of text along the second axis.

    Args:
        strokes: Shape (DETECTION_SIZE_PX, DETECTION_SIZE_PX).
        gap_px: The widest gap between two strokes of a line.
    """
    joined = ndimage.maximum_filter1d(strokes.view(np.uint8), gap_px, axis=1)
    blobs, _ = ndimage.label(ndimage.minimum_filter1d(joined, gap_px, axis=1), np.ones((3, 3)))
    border_px = DETECTION_SIZE_PX * BORDER_SHARE
    for number, box in enumerate(ndimage.find_objects(blobs), start=1):
        middles = [(side.start + side.stop) / 2 for side in box]
        if min(
            *middles, *(DETECTION_SIZE_PX - middle for middle in middles)
        ) < border_px and _is_text_line(strokes[box] & (blobs[box] == number), gap_px):
            return True
    return False


def _is_text_line(strokes: NDArray[np.bool_], gap_px: int) -> bool:
    """Return whether the strokes (height, width) of one blob look like a line of text."""
    height, width = strokes.shape
    if (
        not _LINE_HEIGHT_PX[0] <= height <= _LINE_HEIGHT_PX[1]
        or width < 2 * height
        or gap_px > 1.5 * height
    ):
        return False
    begins = np.diff(strokes.astype(np.int8), axis=1, prepend=0) == 1
    number = np.sort(begins.sum(axis=1))[
        -max(2, height // 3) :
    ].mean()  # of the rows with most strokes
    return bool(
        number >= _MIN_STROKES
        and _FILL_RANGE[0] <= strokes.mean() <= _FILL_RANGE[1]
        and _PITCH_RANGE[0] * height <= width / number <= _PITCH_RANGE[1] * height
    )
