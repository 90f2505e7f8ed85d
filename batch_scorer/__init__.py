"""Score whole folders of chest X-rays for pneumonia on ONNX Runtime, and report on them.

For research and screening studies. Not a medical device.

The names below are the public Python API. Each is imported when it is first used, so that importing
the package is quick and changes nothing in the process. ``docs/python.md`` shows them at work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_scorer.api import read_results, score
    from batch_scorer.engine.runner import run_score_job
    from batch_scorer.engine.score_job import ScoreJob
    from batch_scorer.errors import (
        AlreadyRunning,
        CardMissing,
        CardVersionUnsupported,
        CxrError,
        DecoderKilled,
        DecoderUnavailable,
        DecodeVersionMismatch,
        ForeignFile,
        ImageError,
        Interrupted,
        MissingPackage,
        ModelFileError,
        ModelOutputInvalid,
        NotAllowed,
        NotRadiograph,
        OutputError,
        ProtocolRefused,
        ProviderUnavailable,
        ReportError,
        SelfTestFailed,
        SourceError,
        TooLarge,
        TooSmall,
        TransientError,
        Truncated,
        Unreadable,
        Unsupported,
        UsageError,
    )
    from batch_scorer.imaging.decode import decode_radiograph
    from batch_scorer.imaging.deidentify import Deidentifier
    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.classifier import Classifier, Predictions
    from batch_scorer.report.content.branding import read_branding
    from batch_scorer.report.content.report_options import ReportOptions
    from batch_scorer.report.formats.draw import draw_report
    from batch_scorer.report.formats.verify import Verification, verify_report
    from batch_scorer.results.schema import RunManifest
    from batch_scorer.results.usage import CoreHourPrice
    from batch_scorer.storage.access import AccessPolicy

__version__ = "0.1.0"

__all__ = [
    "AccessPolicy",
    "AlreadyRunning",
    "CardMissing",
    "CardVersionUnsupported",
    "Classifier",
    "CoreHourPrice",
    "CxrError",
    "DecodeVersionMismatch",
    "DecoderKilled",
    "DecoderUnavailable",
    "Deidentifier",
    "ForeignFile",
    "ImageError",
    "Interrupted",
    "MissingPackage",
    "ModelCard",
    "ModelFileError",
    "ModelOutputInvalid",
    "NotAllowed",
    "NotRadiograph",
    "OutputError",
    "Predictions",
    "ProtocolRefused",
    "ProviderUnavailable",
    "ReportError",
    "ReportOptions",
    "RunManifest",
    "ScoreJob",
    "SelfTestFailed",
    "SourceError",
    "TooLarge",
    "TooSmall",
    "TransientError",
    "Truncated",
    "Unreadable",
    "Unsupported",
    "UsageError",
    "Verification",
    "decode_radiograph",
    "draw_report",
    "read_branding",
    "read_results",
    "run_score_job",
    "score",
    "verify_report",
]

_MODULES = {
    "AccessPolicy": "storage.access",
    "Classifier": "model.classifier",
    "CoreHourPrice": "results.usage",
    "Deidentifier": "imaging.deidentify",
    "ModelCard": "model.card",
    "Predictions": "model.classifier",
    "ReportOptions": "report.content.report_options",
    "RunManifest": "results.schema",
    "ScoreJob": "engine.score_job",
    "Verification": "report.formats.verify",
    "decode_radiograph": "imaging.decode",
    "draw_report": "report.formats.draw",
    "read_branding": "report.content.branding",
    "read_results": "api",
    "run_score_job": "engine.runner",
    "score": "api",
    "verify_report": "report.formats.verify",
}
"""Module of each public name; the names that are missing here are errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
