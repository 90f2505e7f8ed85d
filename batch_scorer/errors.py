"""Every error that users meet, in one tree.

::

    CxrError                          exit 1   a code, a sentence, and what to try
    ├── UsageError                    exit 2   the command was called wrongly
    │   ├── ForeignFile                        the output holds files that somebody else wrote
    │   └── ProtocolRefused                    a URL of a kind that is never opened
    ├── MissingPackage                exit 1   an optional part is not installed
    ├── ModelFileError                exit 1   a model file cannot be trusted
    │   ├── CardMissing                        no model card in the file
    │   ├── CardVersionUnsupported             a card of another version, or a broken one
    │   ├── DecodeVersionMismatch              trained on pixels decoded by other rules
    │   └── SelfTestFailed                     known inputs give other answers than they should
    ├── DecoderUnavailable            exit 1   no process can be started to decode images
    ├── ProviderUnavailable           exit 1   asked to run on a device that is not there
    ├── SourceError                   exit 1   films or labels cannot be listed or read
    ├── LedgerError                   exit 1   results cannot be written or read
    ├── ReportError                   exit 1   the report cannot be drawn, or not be trusted
    ├── TransientError                exit 75  may work when tried again
    │   ├── Interrupted                        stopped by a signal, ready to go on
    │   └── Occupied                           another task is at the same work
    ├── DatasetError                  exit 1   a training data set cannot be used
    ├── ConversionError               exit 1   Keras to ONNX failed
    │   ├── ParityError                        the ONNX model answers differently from Keras
    │   └── PrecisionRefused          exit 3   a smaller number format would lose too much
    └── ImageError                    never ends a run: it becomes a row
        ├── Unreadable                failed   the bytes could not be read
        ├── Truncated                 failed   the file ends too early
        ├── ModelOutputInvalid        failed   a model gave something else than probabilities
        ├── DecoderKilled             failed   decoding took too much time or memory, twice
        ├── Unsupported               rejected not a format that is read
        ├── TooLarge                  rejected more pixels or parts than are safe to decode
        ├── TooSmall                  rejected too few pixels to judge
        ├── NotRadiograph             rejected an image, but no single frontal film
        └── NotAllowed                rejected a place that this run may not read

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
    """An error with a stable code, one plain sentence, and what to try next.

    Args:
        sentence: What was expected and what was found.
        hint: What to try. Empty where nothing useful can be said.
        private: Words in both that name a film or say what stands in its header or its row: a
            person may read them on a terminal, a log for machines leaves them out.
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
    """The command was called wrongly."""

    code = "usage"
    exit_code = EXIT_USAGE


class ForeignFile(UsageError):
    """The output holds a file, or leads through a link, that is not this program's."""

    code = "foreign_file"


class ProtocolRefused(UsageError):
    """A URL has a protocol that is never opened, whoever asks."""


class MissingPackage(CxrError):
    """An optional part of the software is not installed."""

    code = "missing_package"


class ModelFileError(CxrError):
    """A model file cannot be read or trusted."""

    code = "model_file"


class CardMissing(ModelFileError):
    """The ONNX file carries no model card."""

    code = "card_missing"


class CardVersionUnsupported(ModelFileError):
    """The model card is broken or of a version that this release does not read."""

    code = "card_version_unsupported"


class DecodeVersionMismatch(ModelFileError):
    """The model was trained on pixels that were decoded by other rules."""

    code = "decode_version_mismatch"


class SelfTestFailed(ModelFileError):
    """Known inputs give other answers than the model file says they should."""

    code = "self_test_failed"


class DecoderUnavailable(CxrError):
    """No process can be started to decode images in."""

    code = "decoder_unavailable"


class ProviderUnavailable(CxrError):
    """The execution provider that was asked for cannot run here."""

    code = "provider_unavailable"


class SourceError(CxrError):
    """Films or labels cannot be listed or read."""

    code = "source"


class OutputError(CxrError):
    """Results cannot be written or read back."""

    code = "ledger"


class ReportError(CxrError):
    """The report cannot be drawn, or does not agree with what is attached to it."""

    code = "report"


class TransientError(CxrError):
    """Something failed that may work next time."""

    code = "transient"
    exit_code = EXIT_RETRY


class Interrupted(TransientError):
    """The run was asked to stop, and can go on from where it is."""

    code = "interrupted"


class AlreadyRunning(TransientError):
    """Another task is at this work, or has taken it over."""

    code = "occupied"


class DatasetError(CxrError):
    """A training data set cannot be used as it is."""

    code = "dataset"


class ConversionError(CxrError):
    """A Keras model could not be converted to ONNX."""

    code = "conversion"


class ParityError(ConversionError):
    """The converted model does not answer as the Keras model does."""

    code = "parity"


class PrecisionRefused(ConversionError):
    """A smaller number format would lose too much; files that were there before stay."""

    code = "precision_refused"
    exit_code = EXIT_NOT_ALL_SCORED


class ImageError(CxrError):
    """One file could not be scored. It becomes a row and never ends a run."""

    code = "image"
    status: ClassVar[str] = "failed"


class Unreadable(ImageError):
    """The bytes could not be read or decoded."""

    code = "unreadable"


class Truncated(ImageError):
    """The file ends before the image does."""

    code = "truncated"


class ModelOutputInvalid(ImageError):
    """A model gave something for the image that cannot be what it is meant to be."""

    code = "model_output_invalid"


class DecoderKilled(ImageError):
    """Two processes ended, or had to be ended, while they decoded the image."""

    code = "decoder_killed"


class Unsupported(ImageError):
    """The file is in no format that is read."""

    code = "unsupported"
    status = "rejected"


class TooLarge(ImageError):
    """The image has more pixels, or more parts, than are safe to decode."""

    code = "too_large"
    status = "rejected"


class TooSmall(ImageError):
    """The image has too few pixels to be judged."""

    code = "too_small"
    status = "rejected"


class NotRadiograph(ImageError):
    """The file holds something other than one plain radiograph."""

    code = "not_radiograph"
    status = "rejected"


class NotAllowed(ImageError):
    """The image lies where this run may not read: a folder, a host or a protocol."""

    code = "not_allowed"
    status = "rejected"
