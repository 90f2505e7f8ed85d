"""The pixel contract: how the bytes of one film become the pixels of every model.

Training, calibration, parity checks and scoring all come through ``decode_radiograph``.
The rules, one per kind of file:

===================  ==========================================================================
JPEG                 its luma, read at a reduced DCT scale where at least twice the target
                     remains; CMYK through RGB
PNG                  8 bits as they are; 16-bit grey from the film's own minimum (black) to its
                     maximum (white); 16-bit colour by its high byte
EXIF orientation     applied
alpha                laid over black
palette              looked up, then luma (ITU-R 601)
DICOM                modality LUT or rescale; then the first VOI window (linear), else the VOI
                     LUT, else the film's own minimum to maximum; MONOCHROME1 inverted
===================  ==========================================================================

Every film is then stretched to the square with one antialiased bilinear filter, as the training
films were (of Pillow's five filters it lies closest to how they were made: mean difference 2.1
grey levels between a full-size film and its published 224-pixel copy, the others 2.3 to 2.5).

``DECODE_VERSION`` is stored in every model card. Raise it by one whenever a change makes any file
decode to other pixels; every model must then be trained or verified again, because the scorer
refuses a model whose number differs.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from batch_scorer.errors import (
    ImageError,
    NotRadiograph,
    TooLarge,
    TooSmall,
    Truncated,
    Unreadable,
    Unsupported,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECODE_VERSION = 1
FILTER = Image.Resampling.BILINEAR
REDUCED_SCALE_MARGIN = 2
PICTURE_FORMATS = ("JPEG", "PNG")
MIN_SIDE_PX = 64
MAX_PIXELS = 80_000_000
RADIOGRAPH_MODALITIES = ("", "CR", "DX", "RG", "OT")

# Pillow warns between its limit and twice its limit: for a film this large both mean the same.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# A doubtful header is judged here by what it decodes to: no library need tell the terminal.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def decode_radiograph(data: bytes, size_px: int) -> NDArray[np.uint8]:
    """Turn one encoded X-ray into the pixels that every model was trained on.

    Args:
        data: A whole JPEG, PNG or DICOM file.
        size_px: Side of the square to return, from the model card.

    Returns:
        Shape (size_px, size_px), 0 black to 255 white, not normalised.

    Raises:
        ImageError: The bytes are truncated, too large or small, or no radiograph.

    Source: DECODE_VERSION 1; DICOM PS3.3 C.7.6.3 and C.11.
    """
    if sniff(data) == "DICOM":
        return _stretch(_decode_dicom(data), size_px)
    return _stretch(_decode_picture(data, size_px), size_px)


def measure_radiograph(data: bytes) -> tuple[int, int]:
    """Read the width and height that a film has before it is stretched, from its header.

    Returns:
        (width_px, height_px), after EXIF orientation.

    Raises:
        ImageError: The header cannot be read.
    """
    if sniff(data) == "DICOM":
        header = _open_dicom(data, header_only=True)
        return int(header.Columns), int(header.Rows)  # decoding has read both already
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size
    except _PILLOW_ERRORS as exc:
        raise _translate(exc) from exc


def sniff(data: bytes) -> str:
    """Name the format of a file by its first bytes, never by its name.

    Returns:
        "JPEG", "PNG" or "DICOM".

    Raises:
        Unreadable: The file is empty.
        Unsupported: It is none of the three.
    """
    if not data:
        raise Unreadable("The file is empty.", "Copy it again from where it came from.")
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[128:132] == b"DICM":
        return "DICOM"
    raise Unsupported(
        "The content is not JPEG, PNG or DICOM.", "Convert it to one of these, or leave it out."
    )


_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def _decode_picture(data: bytes, size_px: int) -> Image.Image:
    if ImageFile.LOAD_TRUNCATED_IMAGES:  # half a film would decode in silence
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as image:
            _check_size(*image.size)
            image.draft("L", (REDUCED_SCALE_MARGIN * size_px, REDUCED_SCALE_MARGIN * size_px))
            image.load()
            return _to_grey(ImageOps.exif_transpose(image))
    except _PILLOW_ERRORS as exc:
        raise _translate(exc) from exc


def _to_grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_stretch_range(np.asarray(image, dtype=np.float32)))
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return image.convert("L")


def _open_dicom(data: bytes, *, header_only: bool = False) -> Any:
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=header_only)
    except (InvalidDicomError, BytesLengthException, *_DICOM_ERRORS) as exc:
        raise Unreadable(f"The DICOM header cannot be read: {_first_line(exc)}") from exc


_DICOM_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
    EOFError,
    struct.error,
    zlib.error,
)


def _decode_dicom(data: bytes) -> Image.Image:
    from pydicom.errors import BytesLengthException

    dataset = _open_dicom(data)
    try:
        return Image.fromarray(_dicom_grey(dataset))
    except ImageError:
        raise
    except (BytesLengthException, *_DICOM_ERRORS) as exc:
        if isinstance(exc, ValueError) and "less than expected" in str(exc):
            raise Truncated("The DICOM pixel data end too early.", "Send the file again.") from exc
        raise Unreadable(f"The DICOM pixels cannot be read: {_first_line(exc)}") from exc


def _dicom_grey(dataset: Any) -> NDArray[np.uint8]:
    from pydicom.pixels import apply_modality_lut, apply_voi

    if "PixelData" not in dataset:
        raise NotRadiograph("The DICOM file holds no image.")
    if str(dataset.get("Modality", "")) not in RADIOGRAPH_MODALITIES:
        raise NotRadiograph(
            f"Expected a radiograph (DICOM modality CR or DX), found modality {dataset.Modality}."
        )
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise NotRadiograph(f"Expected one film, found {dataset.NumberOfFrames} frames.")
    _check_size(int(dataset.Columns), int(dataset.Rows))
    photometric = str(dataset.PhotometricInterpretation)
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or "MONOCHROME" not in photometric:
        raise NotRadiograph(f"Expected a greyscale film, found {photometric} pixels.")

    values = np.asarray(apply_modality_lut(dataset.pixel_array, dataset), dtype=np.float64)
    if dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None:
        grey = _stretch_range(values, *_window(dataset))
    elif "VOILUTSequence" in dataset:
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        grey = _stretch_range(apply_voi(values.astype(np.int32), dataset), 0, 2**bits - 1)
    else:
        grey = _stretch_range(values)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _window(dataset: Any) -> tuple[float, float]:
    """The first VOI window as (black, white), by the LINEAR function of PS3.3 C.11.2.1.2."""
    center, width = (
        float(value[0] if hasattr(value, "__len__") else value)
        for value in (dataset.WindowCenter, dataset.WindowWidth)
    )
    if width < 1:
        raise Unreadable(f"Expected a DICOM window at least 1 wide, found {width:g}.")
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def _stretch_range(
    values: NDArray[Any], black: float | None = None, white: float | None = None
) -> NDArray[np.uint8]:
    """Map black..white (the film's own minimum and maximum if not given) to 0..255."""
    if not np.isfinite(values).all():
        raise Unreadable("The film holds values that are not numbers.")
    low = float(values.min()) if black is None else black
    high = float(values.max()) if white is None else white
    if high <= low:  # a window of width 1, or one flat value
        return np.where(values > low, 255, 0).astype(np.uint8)
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _stretch(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    pixels = np.asarray(image.resize((size_px, size_px), FILTER), dtype=np.uint8)
    if pixels.min() == pixels.max():
        raise NotRadiograph(
            "Expected a film, found a picture of one flat grey.",
            "For DICOM, check the window (tags 0028,1050 and 0028,1051).",
        )
    return pixels


def _check_size(width_px: int, height_px: int) -> None:
    if width_px * height_px > MAX_PIXELS:
        raise TooLarge(
            f"Expected at most {MAX_PIXELS // 1_000_000} megapixels, "
            f"found {width_px} by {height_px}."
        )
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise TooSmall(
            f"Expected at least {MIN_SIDE_PX} pixels a side, found {width_px} by {height_px}."
        )


def _translate(exc: BaseException) -> ImageError:
    """One border for everything that Pillow raises."""
    text = str(exc).lower()
    if isinstance(exc, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return TooLarge(f"Expected at most {MAX_PIXELS // 1_000_000} megapixels, found far more.")
    if "truncated" in text or "unrecognized data stream" in text or isinstance(exc, EOFError):
        return Truncated("The file ends before the image does.", "Copy it again.")
    if isinstance(exc, UnidentifiedImageError):
        return Unreadable("The image header is damaged.", "Copy the file again.")
    return Unreadable(f"The image cannot be decoded: {_first_line(exc)}")


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:160]
