"""The error tree: every error that users can meet.

::

    CxrError                          exit 1   a code, a sentence and a hint
    ├── UsageError                    exit 2   wrong use of the command
    │   ├── ForeignFile                        the output holds files of another origin
    │   └── ProtocolRefused                    a URL with a protocol that is never opened
    ├── MissingPackage                exit 1   an optional package is not installed
    ├── ModelFileError                exit 1   a model file cannot be trusted
    │   ├── CardMissing                        the file has no model card
    │   ├── CardVersionUnsupported             the card is broken or has another version
    │   ├── DecodeVersionMismatch              trained on pixels decoded by other rules
    │   └── SelfTestFailed                     known inputs give unexpected probabilities
    ├── DecoderUnavailable            exit 1   a decoder process cannot be started
    ├── ProviderUnavailable           exit 1   the requested execution provider cannot run
    ├── SourceError                   exit 1   images or labels cannot be listed or read
    ├── OutputError                   exit 1   results cannot be written or read
    ├── ReportError                   exit 1   the report cannot be drawn or trusted
    ├── TransientError                exit 75  a retry may succeed
    │   ├── Interrupted                        stopped by a signal; can be resumed
    │   └── AlreadyRunning                     another task does the same work
    ├── DatasetError                  exit 1   a training data set cannot be used
    ├── ConversionError               exit 1   the conversion from Keras to ONNX failed
    │   ├── ParityError                        the ONNX model gives other scores than Keras
    │   └── PrecisionRefused          exit 3   a smaller number format would lose too much
    └── ImageError                    never ends a run; it becomes a row
        ├── Unreadable                failed   the bytes cannot be read
        ├── Truncated                 failed   the file ends too early
        ├── ModelOutputInvalid        failed   the model's output is not a probability
        ├── DecoderKilled             failed   decoding exceeded time or memory, twice
        ├── Unsupported               rejected an unsupported format
        ├── TooLarge                  rejected more pixels or parts than are safe to decode
        ├── TooSmall                  rejected too few pixels to score
        ├── NotRadiograph             rejected an image, but not a single frontal X-ray
        └── NotAllowed                rejected a location that this run may not read

This module imports the standard library only, so that any other module may raise from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_ALL_SCORED = 3
EXIT_RETRY = 75


class CxrError(Exception):
    """An error with a stable code, one plain sentence and a hint.

    Args:
        sentence: What was expected and what was found.
        hint: What to try next; empty if there is nothing useful to say.
        private: Words of both texts that identify an image or quote its header or row. A person
            may read them on a terminal; the JSON log omits them.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, sentence: str, hint: str = "", private: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint
        self.private = tuple(private)

    def __str__(self) -> str:
        return f"{self.sentence} {self.hint}".strip()


class UsageError(CxrError):
    """Wrong use of the command."""

    code = "usage"
    exit_code = EXIT_USAGE


class ForeignFile(UsageError):
    """The output contains a file or link that this program did not create."""

    code = "foreign_file"


class ProtocolRefused(UsageError):
    """A URL with a protocol that is never opened, whatever the settings."""


class MissingPackage(CxrError):
    """An optional package is not installed."""

    code = "missing_package"


class ModelFileError(CxrError):
    """A model file cannot be read or trusted."""

    code = "model_file"


class CardMissing(ModelFileError):
    """The ONNX file has no model card."""

    code = "card_missing"


class CardVersionUnsupported(ModelFileError):
    """The model card is broken, or this release does not support its version."""

    code = "card_version_unsupported"


class DecodeVersionMismatch(ModelFileError):
    """The model was trained on pixels decoded by other rules."""

    code = "decode_version_mismatch"


class SelfTestFailed(ModelFileError):
    """Known inputs give other probabilities than the model card states."""

    code = "self_test_failed"


class DecoderUnavailable(CxrError):
    """A process to decode images cannot be started."""

    code = "decoder_unavailable"


class ProviderUnavailable(CxrError):
    """The requested execution provider cannot run on this machine."""

    code = "provider_unavailable"


class SourceError(CxrError):
    """Images or labels cannot be listed or read."""

    code = "source"


class OutputError(CxrError):
    """Results cannot be written or read back."""

    code = "ledger"


class ReportError(CxrError):
    """The report cannot be drawn, or does not agree with its attachments."""

    code = "report"


class TransientError(CxrError):
    """A failure that a retry may resolve."""

    code = "transient"
    exit_code = EXIT_RETRY


class Interrupted(TransientError):
    """A signal stopped the run; it can be resumed."""

    code = "interrupted"


class AlreadyRunning(TransientError):
    """Another task does the same work, or has replaced this one."""

    code = "occupied"


class DatasetError(CxrError):
    """A training data set cannot be used."""

    code = "dataset"


class ConversionError(CxrError):
    """A Keras model could not be converted to ONNX."""

    code = "conversion"


class ParityError(ConversionError):
    """The ONNX model gives other scores than the Keras model."""

    code = "parity"


class PrecisionRefused(ConversionError):
    """A smaller number format would lose too much; existing files are kept."""

    code = "precision_refused"
    exit_code = EXIT_NOT_ALL_SCORED


class ImageError(CxrError):
    """A file that could not be scored. It becomes a row and never ends a run."""

    code = "image"
    status: ClassVar[str] = "failed"


class Unreadable(ImageError):
    """The bytes could not be read or decoded."""

    code = "unreadable"


class Truncated(ImageError):
    """The file ends before the image does."""

    code = "truncated"


class ModelOutputInvalid(ImageError):
    """The model gave a value for the image that is not a probability."""

    code = "model_output_invalid"


class DecoderKilled(ImageError):
    """Two processes crashed or were killed while they decoded the image."""

    code = "decoder_killed"


class Unsupported(ImageError):
    """The file format is not supported."""

    code = "unsupported"
    status = "rejected"


class TooLarge(ImageError):
    """The image has more pixels or parts than are safe to decode."""

    code = "too_large"
    status = "rejected"


class TooSmall(ImageError):
    """The image has too few pixels to score."""

    code = "too_small"
    status = "rejected"


class NotRadiograph(ImageError):
    """The file is not a single frontal chest radiograph."""

    code = "not_radiograph"
    status = "rejected"


class NotAllowed(ImageError):
    """The image is in a folder, on a host or behind a protocol that this run may not read."""

    code = "not_allowed"
    status = "rejected"
