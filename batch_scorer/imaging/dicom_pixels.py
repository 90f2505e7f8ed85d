"""DICOM pixels: from stored values through modality LUT and VOI window or LUT to grey.

Stored values have at most 16 bits, so each step works on a table with one entry per possible value;
only the last step works on the pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from batch_scorer.errors import ImageError, Truncated, Unreadable, Unsupported
from batch_scorer.imaging.dicom import (
    check_radiograph,
    dicom_errors,
    has_burned_in_annotation,
    open_dicom,
    read_identifiers,
)
from batch_scorer.imaging.dicom_codestream import check_frame
from batch_scorer.imaging.grayscale import map_to_grey, rescale_to_uint8
from batch_scorer.imaging.limits import out_of_memory_error, reserve_pixels

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

MAX_BITS = 16
_TYPICAL_BITS = 8


class DicomImage:
    """A DICOM file with a parsed header, whose pixels are decoded on request.

    Args:
        data: The whole file.
        start: The return value of ``find_elements``.

    Raises:
        ImageError: The header cannot be read.
    """

    def __init__(self, data: bytes | memoryview, start: int) -> None:
        self._error: ImageError | None = None
        self._grey: Image.Image | None = None
        try:
            self._dataset = open_dicom(data, start)
        except ImageError as exc:  # the header may be intact although the pixels are truncated
            self._error = exc
            self._dataset = _open_header(data, start, exc)
        self.patient_id, self.study_uid = read_identifiers(self._dataset)
        self.burned_in = has_burned_in_annotation(self._dataset)

    @property
    def size_px(self) -> tuple[int, int]:
        """(width_px, height_px).

        Raises:
            Unreadable: The header does not state them.
        """
        try:
            return int(self._dataset.Columns), int(self._dataset.Rows)
        except dicom_errors() as exc:
            raise Unreadable("The DICOM header does not state width and height.") from exc

    def decode(
        self,
        size_px: int,  # noqa: ARG002 - DICOM decoders have no reduced scale as Pillow's for JPEG
        reserve: Callable[[int], AbstractContextManager[None]] = reserve_pixels,
    ) -> Image.Image:
        """Decode to grey at full size, once for all target sizes.

        Raises:
            ImageError: The file is not a radiograph, or its pixels cannot be decoded.
        """
        if self._error:
            raise self._error
        if self._grey is None:
            self._grey = Image.fromarray(decode_dicom(self._dataset, reserve))
        return self._grey


def _open_header(data: bytes | memoryview, start: int, error: ImageError) -> Any:
    try:
        return open_dicom(data, start, header_only=True)
    except ImageError:
        raise error from None


def decode_dicom(
    dataset: Any, reserve: Callable[[int], AbstractContextManager[None]] = reserve_pixels
) -> NDArray[np.uint8]:
    """Decode one DICOM radiograph to grey.

    Args:
        dataset: The return value of ``open_dicom``, with pixels.
        reserve: Waits until this number of pixels may be decoded.

    Returns:
        Shape (height, width), uint8, 0 black to 255 white.

    Raises:
        ImageError: The file is not a radiograph, or its pixels cannot be decoded.

    Source: DICOM PS3.3 C.7.6.3 (pixels), C.11.1 (modality LUT) and C.11.2 (VOI LUT).
    """
    try:
        check_radiograph(dataset)
        with reserve(int(dataset.Columns) * int(dataset.Rows)):
            return _to_grey(dataset)
    except ImageError:
        raise
    except dicom_errors() as exc:
        if isinstance(exc, ValueError) and "less than expected" in str(exc):
            raise Truncated("The DICOM pixel data end too early.", "Send the file again.") from exc
        if isinstance(exc, MemoryError) or "Unable to allocate" in str(
            exc
        ):  # NumPy's message, through pydicom
            raise out_of_memory_error() from exc
        raise Unreadable(
            f"The DICOM pixels cannot be read ({type(exc).__name__}).", "Send the file again."
        ) from exc


def _to_grey(dataset: Any) -> NDArray[np.uint8]:
    stored = _read_stored_values(dataset)
    low, high = int(stored.min()), int(stored.max())
    values, occurring = _apply_modality_lut(dataset, stored, low, high)
    if dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None:
        grey = _apply_window(dataset, values)
    elif dataset.get("VOILUTSequence"):
        grey = rescale_to_uint8(*_apply_lut(values, dataset.VOILUTSequence[0]))
    else:
        ends = values[occurring]
        grey = rescale_to_uint8(values, float(ends.min()), float(ends.max()))
    pixels = map_to_grey(stored, low, grey)
    return 255 - pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels


def _read_stored_values(dataset: Any) -> NDArray[np.integer]:
    """Return the stored pixel values, shape (height, width), without unused bits."""
    from pydicom.pixels import pixel_array

    bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    if not 1 < bits <= allocated <= MAX_BITS:
        raise Unsupported(f"Expected 2 to 16 bits per pixel, found {bits} in {allocated}.")
    shift, plugin = 0, ""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        plugin = check_frame(dataset)
    else:
        shift = max(0, int(dataset.get("HighBit") or 0) + 1 - bits)
        dataset.BitsStored = bits + shift  # pydicom assumes that the pixel uses the lowest bits
    try:
        stored: NDArray[np.integer] = pixel_array(dataset, decoding_plugin=plugin)
    finally:
        dataset.BitsStored = bits
    if stored.ndim != 2 or stored.dtype.itemsize > MAX_BITS // 8:  # noqa: PLR2004 - height and width
        raise Unreadable("Expected one grey value per pixel, found another layout.")
    if shift:
        stored >>= shift
    return stored


def _apply_modality_lut(
    dataset: Any, stored: NDArray[np.integer], low: int, high: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the modality value of each stored value from ``low`` to ``high``.

    Returns:
        Both of shape (high - low + 1,): the modality values, and whether the image has each value.
    """
    values = np.arange(low, high + 1, dtype=np.float64)
    occurring = np.zeros(values.shape, np.bool_)
    for line in stored:
        occurring[line.astype(np.int64) - low] = True
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if dataset.get("ModalityLUTSequence"):
        values, *_ = _apply_lut(values, dataset.ModalityLUTSequence[0])
    elif slope is not None and intercept is not None:
        with np.errstate(over="ignore", invalid="ignore"):  # not finite: refused later
            values = values * float(slope) + float(intercept)
    return values, occurring


def _apply_window(dataset: Any, values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Apply the first VOI window with the function of the header (PS3.3 C.11.2.1.2 and 3)."""
    center, width = (
        float(value[0] if hasattr(value, "__len__") else value)
        for value in (dataset.WindowCenter, dataset.WindowWidth)
    )
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    linear = function not in ("LINEAR_EXACT", "SIGMOID")
    if not width >= 1 if linear else not width > 0:
        least = "at least 1 wide" if linear else "wider than 0"
        raise Unreadable(f"Expected a DICOM window {least}, found another.")
    if function == "SIGMOID":
        from scipy.special import expit

        return rescale_to_uint8(expit(4 * (values - center) / width), 0, 1)
    if linear:
        center, width = center - 0.5, width - 1
    return rescale_to_uint8(values, center - width / 2, center + width / 2)


def _apply_lut(values: NDArray[np.float64], item: Any) -> tuple[NDArray[np.float64], int, int]:
    """Apply a DICOM LUT (PS3.3 C.11.1.1); values beyond its ends get the end entries.

    Returns:
        The outputs, and the smallest and largest output of the LUT's bit depth.
    """
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries % 2**MAX_BITS or 2**MAX_BITS
    if not 1 <= bits <= MAX_BITS:
        raise Unreadable("Expected a DICOM lookup table of 8 to 16 bits, found another.")
    lut_data = item.LUTData
    if isinstance(lut_data, bytes):
        is_packed = len(lut_data) < 2 * entries and bits <= _TYPICAL_BITS  # one byte per entry
        order = "<" if item.original_encoding[1] is not False else ">"
        outputs = np.frombuffer(lut_data, np.uint8 if is_packed else f"{order}u2").astype(
            np.float64
        )
    else:
        outputs = np.atleast_1d(np.asarray(lut_data, dtype=np.float64))
    if len(outputs) < entries:
        raise Unreadable(f"Expected {entries} entries in a DICOM lookup table, found fewer.")
    if not np.isfinite(values).all():
        raise Unreadable("The image contains values that are not finite numbers.")
    indices = np.clip(values - first, 0, entries - 1).astype(np.int64)
    return outputs[indices], 0, 2**bits - 1
