"""Text that was burned into an image: found in its border, and painted over in small pictures.

A name at the edge of an X-ray is legible on a thumbnail that is passed on with a report. This is a
precaution and no de-identification: text elsewhere in the image is not looked for, handwriting and
faint or large letters are not found, and nothing but the small pictures is changed.
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
"""Of width and height, at each side. Scanners write into the corners, lungs lie further in."""
DETECTION_SIZE_PX = 640
"""Text is looked for at this size, twice that of a thumbnail."""
MASK_VALUE = 0
_SCALES = ((11, (4, 10)), (21, (10, 20)))
"""For small letters, then for large ones: the widest stroke, and the gaps that join letters."""
_MIN_CONTRAST = 40
_LINE_HEIGHT_PX = (6, 47)
_MIN_STROKES = 6
"""Upright strokes that a line has at least: three or four letters. A side marker has fewer."""
_FILL_RANGE = (0.15, 0.7)
_PITCH_RANGE = (0.2, 1.4)
"""From one upright stroke to the next, in heights of the line."""


def needs_border_mask(content: DecodeResult) -> bool:
    """Whether the border of an image may show who the patient is.

    Args:
        content: An image without a problem, decoded to ``DETECTION_SIZE_PX`` too.

    Returns:
        True where a DICOM header says that something is burned in, or where a line of text is
        found in the border.
    """
    return content.burned_in or has_border_text(content.pixels[DETECTION_SIZE_PX])


def mask_border(picture: Image.Image) -> Image.Image:
    """Paint the outer ``BORDER_SHARE`` of each side black."""
    width_px, height_px = picture.size
    across, down = (max(1, round(side * BORDER_SHARE)) for side in picture.size)
    box = (across, down, width_px - across, height_px - down)
    painted = Image.new(picture.mode, picture.size, MASK_VALUE)
    painted.paste(picture.crop(box), box[:2])
    return painted


def has_border_text(pixels: NDArray[np.uint8]) -> bool:
    """Look for a line of text in the border, along either axis, bright or dark.

    A line of any script is a small blob, once its letters are joined, in which narrow strokes and
    gaps take turns.

    Args:
        pixels: Shape (SIDE_PX, SIDE_PX).
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
    """Whether strokes in the border, joined across gaps, make a line of text along the second axis.

    Args:
        strokes: Shape (SIDE_PX, SIDE_PX).
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
    """Whether the strokes (height, width) of one blob look like a line of text."""
    height, width = strokes.shape
    if (
        not _LINE_HEIGHT_PX[0] <= height <= _LINE_HEIGHT_PX[1]
        or width < 2 * height
        or gap_px > 1.5 * height
    ):
        return False
    begins = np.diff(strokes.astype(np.int8), axis=1, prepend=0) == 1
    number = np.sort(begins.sum(axis=1))[-max(2, height // 3) :].mean()  # of the richest rows
    return bool(
        number >= _MIN_STROKES
        and _FILL_RANGE[0] <= strokes.mean() <= _FILL_RANGE[1]
        and _PITCH_RANGE[0] * height <= width / number <= _PITCH_RANGE[1] * height
    )
