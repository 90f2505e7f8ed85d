"""DICOM headers: detection by content, parsing with limits, and a check for chest radiographs.

Hospitals send files without the 128-byte preamble, without the prefix ``DICM`` or without the file
meta information. A file is DICOM if its first elements parse as those of a DICOM data set.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from functools import cache
from typing import Any, NoReturn

from batch_scorer.errors import ImageError, NotRadiograph, TooLarge, Truncated, Unreadable
from batch_scorer.imaging.grayscale import check_size
from batch_scorer.imaging.limits import ParseBudget, out_of_memory_error

PREFIX = b"DICM"
PREAMBLE_BYTES = 128
_AFTER_PREFIX = PREAMBLE_BYTES + len(PREFIX)
DETECTION_BYTES = 4096
"""The part of a file without prefix that is parsed to detect DICOM."""
MAX_INFLATED_BYTES = 200_000_000
"""More than the largest accepted image."""
MAX_INFLATION_RATIO = 300
"""Bytes from one deflated byte; an X-ray gives about 10, zeros give 1,030."""
MIN_INFLATION_LIMIT_BYTES = 1_000_000
"""Any deflated data may inflate to this size."""
MAX_VALUE_BYTES = 65_536
"""The longest value of an element that is converted to numbers or text."""
MAX_LUT_BYTES = 262_144
MAX_ITEMS = 64
VALUE_KEYWORDS = (
    *("SOPClassUID", "Modality", "PatientID", "StudyInstanceUID", "BodyPartExamined"),
    *("ViewPosition", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("RescaleIntercept", "RescaleSlope", "BurnedInAnnotation"),
)
SEQUENCE_KEYWORDS = (
    *("AnatomicRegionSequence", "ViewCodeSequence", "ModalityLUTSequence", "VOILUTSequence"),
)
ITEM_KEYWORDS = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning", "LUTDescriptor")
"""All keywords that are read; other elements are skipped."""
UINT16_KEYWORDS = ("Rows", "Columns", "BitsAllocated", "BitsStored")
"""Numbers that messages quote. DICOM stores them in 16 bits, so a longer one may be any text."""
MAX_UINT16 = 65_535
RADIOGRAPH_MODALITIES = ("", "CR", "DX", "RG", "OT")
RADIOGRAPH_SOP_CLASSES = (
    *("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"),  # CR; DX for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # DX for processing
    *(f"1.2.840.10008.5.1.4.1.1.7{end}" for end in ("", ".1", ".2", ".3", ".4")),  # capture
)
NON_FRONTAL_VIEWS = ("LL", "RL", "LLD", "RLD", "LLO", "RLO")
NON_FRONTAL_WORDS = re.compile(r"\blat|obliq|decub|sagittal|axial", re.IGNORECASE)
OTHER_BODY_PARTS = re.compile(
    r"ABDOMEN|ANKLE|ARM|BLADDER|BRAIN|BREAST|CALCANEUS|CLAVICLE|COCCYX|CSPINE|ELBOW|"
    r"EXTREMITY|EYE|FEMUR|FINGER|FOOT|FOREARM|HAND|HEAD|HEEL|HIP|HUMERUS|JAW|KIDNEY|KNEE|"
    r"LEG|LSPINE|MANDIBLE|MAXILLA|NECK|NOSE|ORBIT|PATELLA|PELVIS|RIB|SACRUM|SCAPULA|SELLA|"
    r"SHOULDER|SIJOINT|SINUS|SKULL|SPINE|SSPINE|STERNUM|TEETH|THIGH|THUMB|TIBFIB|TIBIA|TMJ|"
    r"TOE|TSPINE|WRIST|ZYGOMA"
)
"""Defined terms of DICOM PS3.16 annex L. Other words, such as a hospital's own, are accepted."""
_IDENTIFICATION_GROUP = 0x0008
_FILE_META_GROUP = 0x0002
_PIXEL_DATA = 0x7FE00010
_PIXEL_VRS = (None, "OB", "OW", "UN", "OB or OW")
_ELEMENT_HEADER_BYTES = 8
_CHARACTER_SET = (b"\x08\0\x05\0", b"\0\x08\0\x05")
_CONVERTED_GROUPS = (b"\0\0", b"\x02\0")


def dicom_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions that pydicom and its decoders raise on damaged files."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        InvalidDicomError,
        BytesLengthException,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,  # includes RecursionError: endlessly nested sequences
        ArithmeticError,
        AssertionError,
        MemoryError,
        EOFError,
        struct.error,
        zlib.error,
        Warning,  # where the caller's filters turn them into errors
    )


def find_elements(data: bytes | memoryview) -> int | None:
    """Find the offset of the first element of a DICOM file; 1024 bytes are enough.

    Returns:
        The offset; None if the content is not DICOM.
    """
    if data[PREAMBLE_BYTES:_AFTER_PREFIX] == PREFIX:
        return _AFTER_PREFIX
    if data[: len(PREFIX)] == PREFIX:
        return len(PREFIX)
    for start in (0, PREAMBLE_BYTES):
        if _starts_with_elements(data[start : start + DETECTION_BYTES]):
            return start
    return None


def open_dicom(data: bytes | memoryview, start: int, *, header_only: bool = False) -> Any:
    """Parse a DICOM file.

    Args:
        data: The whole file.
        start: The return value of ``find_elements``.
        header_only: Whether to stop before the pixels.

    Returns:
        A pydicom data set with its transfer syntax.

    Raises:
        ImageError: The file cannot be parsed, or is too large after inflation.
    """
    try:
        dataset = _parse(data, start, header_only=header_only)
        _check_lengths(dataset)
    except ImageError:
        raise
    except dicom_errors() as exc:
        if isinstance(exc.__context__, TooLarge):  # pydicom treats it as damage
            raise exc.__context__ from None
        if isinstance(exc, MemoryError):
            raise out_of_memory_error() from exc
        # pydicom's message may quote the file and thus a patient, so only its type is shown.
        raise Unreadable(
            f"The DICOM header cannot be read ({type(exc).__name__}).", "Send the file again."
        ) from exc
    return dataset


def read_identifiers(dataset: Any) -> tuple[str, str]:
    """Read PatientID and StudyInstanceUID; empty if absent or unreadable.

    Args:
        dataset: The return value of ``open_dicom``.
    """
    return _read_text(dataset, "PatientID"), _read_text(dataset, "StudyInstanceUID")


def has_burned_in_annotation(dataset: Any) -> bool:
    """Return whether the header states a burned-in annotation.

    Args:
        dataset: The return value of ``open_dicom``.
    """
    return _read_text(dataset, "BurnedInAnnotation").strip().upper() == "YES"


def _read_text(dataset: Any, name: str) -> str:
    try:
        value = getattr(dataset, name, None)
        return "" if value is None else str(value).strip("\0 ")
    except dicom_errors():
        return ""


def check_radiograph(dataset: Any) -> None:
    """Refuse a file whose header does not describe a single frontal chest radiograph.

    Raises:
        NotRadiograph: No image, several frames, colour, or another modality, view or body part.
        TooLarge: More pixels than are safe to decode.
        TooSmall: Too few pixels to score.
    """
    other_kind = _format_other_sop_class(dataset)
    if "PixelData" not in dataset:
        _refuse_without_pixels(dataset, other_kind)
    modality = str(dataset.get("Modality") or "")
    if modality not in RADIOGRAPH_MODALITIES:
        raise NotRadiograph(
            "Expected a radiograph (DICOM modality CR or DX), found modality "
            f"{_format_term(modality, _defined_modalities())}."
        )
    if other_kind:
        raise NotRadiograph(f"Expected a radiograph, found another kind of image{other_kind}.")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise NotRadiograph("Expected a single image, found several frames.")
    _check_view(dataset)
    photometric = str(dataset.PhotometricInterpretation)
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        raise NotRadiograph(
            "Expected a greyscale X-ray, found pixels "
            f"{_format_term(photometric, _defined_photometrics())}."
        )
    for name in UINT16_KEYWORDS:
        if not 0 <= int(getattr(dataset, name)) <= MAX_UINT16:
            raise Unreadable(
                f"Expected DICOM {name} from 0 to {MAX_UINT16:,}, found another value."
            )
    check_size(int(dataset.Columns), int(dataset.Rows))


def _refuse_without_pixels(dataset: Any, other_kind: str) -> NoReturn:
    """Refuse a file without pixels: as another kind of object, or as a damaged image."""
    if other_kind or ("SOPClassUID" in dataset and "Rows" not in dataset):
        raise NotRadiograph(
            f"Expected a radiograph, found a DICOM file without an image{other_kind}."
        )
    if "Rows" in dataset:
        raise Truncated("The DICOM file ends before its pixels.", "Send the file again.")
    raise Unreadable(
        "The DICOM header cannot be read (it does not state the kind of object).",
        "Send the file again.",
    )


def _check_view(dataset: Any) -> None:
    """Refuse another view or body part, if the header states them."""
    view = str(dataset.get("ViewPosition") or "").upper()
    coded = [_read_view_meaning(item) for item in dataset.get("ViewCodeSequence") or ()]
    if view in NON_FRONTAL_VIEWS or any(
        NON_FRONTAL_WORDS.search(words) for words in (view, *coded)
    ):
        named = f" ({view})" if view in NON_FRONTAL_VIEWS else ""
        raise NotRadiograph(f"Expected a frontal view, found another view{named}.")
    regions = dataset.get("AnatomicRegionSequence") or ()
    body_parts = [dataset.get("BodyPartExamined"), *(item.get("CodeMeaning") for item in regions)]
    for words in body_parts:
        part = re.sub(r"[^A-Z]", "", str(words or "").upper())
        if OTHER_BODY_PARTS.fullmatch(part):
            raise NotRadiograph(f"Expected a chest X-ray, found body part {part}.")


def _read_view_meaning(item: Any) -> str:
    """Return the meaning of a coded view: DICOM's own (PS3.16 CID 4010), else the file's."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    value, scheme, meaning = (
        str(item.get(name) or "") for name in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    )
    view = Code(value, scheme, meaning)  # an older SRT code equals its successor
    return next((code.meaning for code in codes.cid4010.concepts.values() if code == view), meaning)


def _format_other_sop_class(dataset: Any) -> str:
    """Return the name of a standard SOP class in brackets, if it is not a radiograph's."""
    from pydicom.uid import UID

    text = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""
    uid = UID(str(text))
    known = uid.type == "SOP Class" and uid not in RADIOGRAPH_SOP_CLASSES
    return f" ({uid.name})" if known else ""


def _format_term(text: str, defined: frozenset[str]) -> str:
    """Return a DICOM term for a message. Other texts are hidden: they may name a patient."""
    return text if text in defined else "that DICOM does not define"


@cache
def _defined_modalities() -> frozenset[str]:
    """Return the modalities of DICOM PS3.16 CID 33."""
    from pydicom.sr.codedict import codes

    return frozenset(code.value for code in codes.cid33.concepts.values())


@cache
def _defined_photometrics() -> frozenset[str]:
    """Return the photometric interpretations of DICOM PS3.3 C.7.6.3.1.2."""
    from pydicom.pixels.common import PhotometricInterpretation

    return frozenset(term.value for term in PhotometricInterpretation)


def _starts_with_elements(head: bytes | memoryview) -> bool:
    """Return whether the first two elements are standard and of the first groups."""
    if head[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return False
    from pydicom.datadict import dictionary_has_tag
    from pydicom.filereader import read_partial

    try:
        dataset = read_partial(io.BytesIO(head), stop_when=_after_identification, force=True)
    except dicom_errors():
        return False
    tags = [*dataset.file_meta.keys(), *dataset.keys()]
    return len(tags) > 1 and all(dictionary_has_tag(tag) for tag in tags[:2])


def _after_identification(tag: int, vr: str | None, length: int) -> bool:  # noqa: ARG001 - pydicom's
    return tag >> 16 > _IDENTIFICATION_GROUP


class _Deflated(Exception):
    """The data set is deflated: pydicom would inflate it without a limit."""


class _BudgetedReader:
    """A file object for pydicom over the elements, without a copy and with a parse budget.

    pydicom converts character sets and file meta information while it reads; each byte of those
    counts as a step.
    """

    def __init__(self, data: bytes | memoryview, start: int = 0) -> None:
        self._data = memoryview(data)[start:]
        self._position = 0
        self._tag = b""
        self._budget = ParseBudget()

    def read(self, size: int = -1) -> bytes:
        if size < 0:  # pydicom reads the whole rest only to inflate it
            raise _Deflated
        found = bytes(self._data[self._position : self._position + size])
        self._position += len(found)
        self._budget.count_read(len(found))
        if len(found) == _ELEMENT_HEADER_BYTES:
            self._tag = found[:4]
        elif self._tag in _CHARACTER_SET or self._tag[:2] in _CONVERTED_GROUPS:
            self._budget.spend(len(found))
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._data)}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position


@cache
def _wanted_tags() -> list[int]:
    from pydicom.datadict import tag_for_keyword

    names = (*VALUE_KEYWORDS, *SEQUENCE_KEYWORDS, "PixelData")
    return [tag for name in names if (tag := tag_for_keyword(name)) is not None]


def _check_lengths(dataset: Any) -> None:
    """Refuse values and sequences that would fill the memory when pydicom converts them."""
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import read_sequence

    _check_values(dataset, VALUE_KEYWORDS)
    if "PixelData" in dataset and dataset.get_item("PixelData").VR not in _PIXEL_VRS:
        raise Unreadable("Expected DICOM pixels as bytes, found another kind of value.")
    for name in SEQUENCE_KEYWORDS:
        raw = dataset.get_item(name) if name in dataset else None
        if isinstance(raw, RawDataElement) and raw.value and raw.VR != "UN":  # UN is short
            read_sequence(
                _BudgetedReader(raw.value),
                raw.is_implicit_VR,
                raw.is_little_endian,
                len(raw.value),
                "iso8859",
            )
        items = dataset.get(name) or ()
        if len(items) > MAX_ITEMS:
            raise TooLarge(f"Expected at most {MAX_ITEMS} items in {name}, found {len(items)}.")
        for item in items:
            _check_values(item, ITEM_KEYWORDS)
            _check_values(item, ("LUTData",), MAX_LUT_BYTES)


def _check_values(dataset: Any, names: tuple[str, ...], limit: int = MAX_VALUE_BYTES) -> None:
    for name in names:
        value = dataset.get_item(name).value if name in dataset else None
        length = len(value) if isinstance(value, bytes) else 0
        if length > limit:
            raise TooLarge(
                f"Expected at most {limit:,} bytes in the DICOM element {name}, found {length:,}."
            )


def _parse(data: bytes | memoryview, start: int, *, header_only: bool) -> Any:
    import pydicom

    has_preamble = start in (0, _AFTER_PREFIX)
    try:
        dataset = pydicom.dcmread(
            _BudgetedReader(data, 0 if has_preamble else start),
            stop_before_pixels=header_only,
            force=True,
            specific_tags=_wanted_tags(),
        )
    except _Deflated:
        return _parse_deflated(memoryview(data)[start:], header_only=header_only)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _uncompressed_syntax(*dataset.original_encoding)
    return dataset


def _parse_deflated(data: memoryview, *, header_only: bool) -> Any:
    from pydicom.filereader import read_dataset
    from pydicom.uid import ExplicitVRLittleEndian

    elements = _BudgetedReader(data)
    meta = read_dataset(elements, False, True, stop_when=_after_file_meta)  # noqa: FBT003 - pydicom's
    dataset = read_dataset(
        _BudgetedReader(_inflate(data[elements.tell() :])),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=_at_pixels if header_only else None,
        specific_tags=_wanted_tags(),
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    return dataset


def _after_file_meta(tag: int, vr: str | None, length: int) -> bool:  # noqa: ARG001 - pydicom's
    return tag >> 16 != _FILE_META_GROUP


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:  # noqa: ARG001 - pydicom's
    return tag == _PIXEL_DATA


def _uncompressed_syntax(implicit: bool, little_endian: bool) -> Any:  # noqa: FBT001 - as pydicom does
    """Return the transfer syntax of uncompressed elements."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def _inflate(data: bytes | memoryview) -> bytes:
    """Inflate a deflated data set, up to a limit on its size."""
    limit = min(MAX_INFLATED_BYTES, max(MIN_INFLATION_LIMIT_BYTES, MAX_INFLATION_RATIO * len(data)))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, limit)
    if inflater.unconsumed_tail:
        raise TooLarge(f"Expected at most {limit / 1e6:.0f} MB after inflation, found more.")
    if not inflater.eof:
        raise EOFError("deflated data end too early")
    return inflated
