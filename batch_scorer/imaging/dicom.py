"""DICOM files: told by their content, parsed with limits, and asked whether they are a chest film.

Hospitals send files without the 128-byte preamble, without the prefix ``DICM`` or without the file
meta information. What counts is that their first elements parse as those of a DICOM data set.
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
"""How much of a file without prefix is parsed to tell whether it is DICOM."""
MAX_INFLATED_BYTES = 200_000_000
"""More than the largest film that is read."""
MAX_INFLATION_RATIO = 300
"""Bytes from one deflated byte; a film gives 10 or so, zeros 1,030."""
MIN_INFLATION_LIMIT_BYTES = 1_000_000
"""Whatever was deflated may inflate to so much."""
MAX_VALUE_BYTES = 65_536
"""Of an element that is converted to numbers or text: what an explicit length may say."""
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
"""All that is read of a file; whatever else is in it is skipped."""
UINT16_KEYWORDS = ("Rows", "Columns", "BitsAllocated", "BitsStored")
"""Numbers that messages tell. DICOM keeps them in 16 bits; one that needs more is another text."""
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
"""Defined terms of DICOM PS3.16 annex L. Other words, a hospital's own language, pass."""
_IDENTIFICATION_GROUP = 0x0008
_FILE_META_GROUP = 0x0002
_PIXEL_DATA = 0x7FE00010
_PIXEL_VRS = (None, "OB", "OW", "UN", "OB or OW")
_ELEMENT_HEADER_BYTES = 8
_CHARACTER_SET = (b"\x08\0\x05\0", b"\0\x08\0\x05")
_CONVERTED_GROUPS = (b"\0\0", b"\x02\0")


def dicom_errors() -> tuple[type[BaseException], ...]:
    """What pydicom and its decoders raise at damaged files."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        InvalidDicomError,
        BytesLengthException,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,  # RecursionError among them: sequences nested without end
        ArithmeticError,
        AssertionError,
        MemoryError,
        EOFError,
        struct.error,
        zlib.error,
        Warning,  # where the caller's filters turn them into errors
    )


def find_elements(data: bytes | memoryview) -> int | None:
    """Find where the elements of a DICOM file begin; the first 1024 bytes are enough.

    Returns:
        None where the content is not DICOM.
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
        start: What ``find_elements`` returned.
        header_only: Leave the pixels out.

    Returns:
        A pydicom data set that knows its transfer syntax.

    Raises:
        ImageError: It cannot be parsed, or is too large once inflated.
    """
    try:
        dataset = _parse(data, start, header_only=header_only)
        _check_lengths(dataset)
    except ImageError:
        raise
    except dicom_errors() as exc:
        if isinstance(exc.__context__, TooLarge):  # pydicom takes it for damage
            raise exc.__context__ from None
        if isinstance(exc, MemoryError):
            raise out_of_memory_error() from exc
        # What pydicom says may quote the file, and with it a patient: only the kind is told.
        raise Unreadable(
            f"The DICOM header cannot be read ({type(exc).__name__}).", "Send the file again."
        ) from exc
    return dataset


def read_identifiers(dataset: Any) -> tuple[str, str]:
    """Read PatientID and StudyInstanceUID as texts; empty where absent or unreadable.

    Args:
        dataset: What ``open_dicom`` returns.
    """
    return _read_text(dataset, "PatientID"), _read_text(dataset, "StudyInstanceUID")


def has_burned_in_annotation(dataset: Any) -> bool:
    """Whether the header says that something is burned in that may show who the patient is.

    Args:
        dataset: What ``open_dicom`` returns.
    """
    return _read_text(dataset, "BurnedInAnnotation").strip().upper() == "YES"


def _read_text(dataset: Any, name: str) -> str:
    try:
        value = getattr(dataset, name, None)
        return "" if value is None else str(value).strip("\0 ")
    except dicom_errors():
        return ""


def check_radiograph(dataset: Any) -> None:
    """Refuse what says of itself that it is no single frontal chest film of a size to be judged.

    Raises:
        NotRadiograph: No image, several frames, colour, or another kind, view or part of the body.
        TooLarge: More pixels than are safe to decode.
        TooSmall: Too few pixels to judge.
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
        raise NotRadiograph("Expected one film, found several frames.")
    _check_view(dataset)
    photometric = str(dataset.PhotometricInterpretation)
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        raise NotRadiograph(
            f"Expected a greyscale film, found pixels {_format_term(photometric, _defined_photometrics())}."
        )
    for name in UINT16_KEYWORDS:
        if not 0 <= int(getattr(dataset, name)) <= MAX_UINT16:
            raise Unreadable(
                f"Expected DICOM {name} from 0 to {MAX_UINT16:,}, found another value."
            )
    check_size(int(dataset.Columns), int(dataset.Rows))


def _refuse_without_pixels(dataset: Any, other_kind: str) -> NoReturn:
    """A report is no film; a film that lacks its pixels is damaged."""
    if other_kind or ("SOPClassUID" in dataset and "Rows" not in dataset):
        raise NotRadiograph(f"The DICOM file holds no image{other_kind}.")
    if "Rows" in dataset:
        raise Truncated("The DICOM file ends before its pixels.", "Send the file again.")
    raise Unreadable("The DICOM header cannot be read (it names no kind).", "Send the file again.")


def _check_view(dataset: Any) -> None:
    """The view and the part of the body, where the header names them."""
    view = str(dataset.get("ViewPosition") or "").upper()
    coded = [_read_view_meaning(item) for item in dataset.get("ViewCodeSequence") or ()]
    if view in NON_FRONTAL_VIEWS or any(
        NON_FRONTAL_WORDS.search(words) for words in (view, *coded)
    ):
        named = f" ({view})" if view in NON_FRONTAL_VIEWS else ""
        raise NotRadiograph(f"Expected a frontal view, found another view{named}.")
    regions = dataset.get("AnatomicRegionSequence") or ()
    told = [dataset.get("BodyPartExamined"), *(item.get("CodeMeaning") for item in regions)]
    for words in told:
        part = re.sub(r"[^A-Z]", "", str(words or "").upper())
        if OTHER_BODY_PARTS.fullmatch(part):
            raise NotRadiograph(f"Expected a chest film, found body part {part}.")


def _read_view_meaning(item: Any) -> str:
    """A coded view in words: DICOM's own (PS3.16 CID 4010), else those that stand beside it."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    value, scheme, meaning = (
        str(item.get(name) or "") for name in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    )
    told = Code(value, scheme, meaning)  # equal to its successor where it is of the older SRT
    return next((code.meaning for code in codes.cid4010.concepts.values() if code == told), meaning)


def _format_other_sop_class(dataset: Any) -> str:
    """The name of the SOP class in brackets, where it is one of DICOM's own and no radiograph's."""
    from pydicom.uid import UID

    told = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""
    uid = UID(str(told))
    known = uid.type == "SOP Class" and uid not in RADIOGRAPH_SOP_CLASSES
    return f" ({uid.name})" if known else ""


def _format_term(text: str, defined: frozenset[str]) -> str:
    """A term of the header for a message; only DICOM's own: any other may name a patient."""
    return text if text in defined else "that DICOM does not define"


@cache
def _defined_modalities() -> frozenset[str]:
    """Source: DICOM PS3.16 CID 33."""
    from pydicom.sr.codedict import codes

    return frozenset(code.value for code in codes.cid33.concepts.values())


@cache
def _defined_photometrics() -> frozenset[str]:
    """Source: DICOM PS3.3 C.7.6.3.1.2."""
    from pydicom.pixels.common import PhotometricInterpretation

    return frozenset(term.value for term in PhotometricInterpretation)


def _starts_with_elements(head: bytes | memoryview) -> bool:
    """Whether the first two elements are DICOM's own, of the groups that stand first."""
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
    """Raised where pydicom would inflate the elements, which it does without a limit."""


class _BudgetedReader:
    """Elements as a file for pydicom, not copied, with its steps counted.

    pydicom converts character sets and the file meta information while it reads: each byte of
    those is a step.
    """

    def __init__(self, data: bytes | memoryview, start: int = 0) -> None:
        self._data = memoryview(data)[start:]
        self._place = 0
        self._tag = b""
        self._steps = ParseBudget()

    def read(self, size: int = -1) -> bytes:
        if size < 0:  # pydicom asks for all that is left in order to inflate it, and only then
            raise _Deflated
        found = bytes(self._data[self._place : self._place + size])
        self._place += len(found)
        self._steps.count_read(len(found))
        if len(found) == _ELEMENT_HEADER_BYTES:
            self._tag = found[:4]
        elif self._tag in _CHARACTER_SET or self._tag[:2] in _CONVERTED_GROUPS:
            self._steps.spend(len(found))
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: len(self._data)}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place


@cache
def _wanted_tags() -> list[int]:
    from pydicom.datadict import tag_for_keyword

    names = (*VALUE_KEYWORDS, *SEQUENCE_KEYWORDS, "PixelData")
    return [tag for name in names if (tag := tag_for_keyword(name)) is not None]


def _check_lengths(dataset: Any) -> None:
    """Refuse values and sequences that would fill the memory once pydicom converts them."""
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import read_sequence

    _check_values(dataset, VALUE_KEYWORDS)
    if "PixelData" in dataset and dataset.get_item("PixelData").VR not in _PIXEL_VRS:
        raise Unreadable("Expected DICOM pixels as bytes, found another kind of value.")
    for name in SEQUENCE_KEYWORDS:
        raw = dataset.get_item(name) if name in dataset else None
        if isinstance(raw, RawDataElement) and raw.value and raw.VR != "UN":  # short, if it is UN
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

    whole = start in (0, _AFTER_PREFIX)
    try:
        dataset = pydicom.dcmread(
            _BudgetedReader(data, 0 if whole else start),
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
    """The transfer syntax that uncompressed elements were found to have."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def _inflate(data: bytes | memoryview) -> bytes:
    """Inflate a deflated data set, but not one that was made to fill the memory."""
    limit = min(MAX_INFLATED_BYTES, max(MIN_INFLATION_LIMIT_BYTES, MAX_INFLATION_RATIO * len(data)))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, limit)
    if inflater.unconsumed_tail:
        raise TooLarge(f"Expected at most {limit / 1e6:.0f} MB once inflated, found more.")
    if not inflater.eof:
        raise EOFError("deflated data end too early")
    return inflated
