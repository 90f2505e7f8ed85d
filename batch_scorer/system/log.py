"""Log on stderr: text for people, or one JSON object per line for machines.

A JSON line holds time (UTC), level, event and fields: numbers, states and this program's own words.
It never contains the name of an image, a patient, a study, a label or a secret of a URL.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from numbers import Number
from typing import TYPE_CHECKING, Any

from batch_scorer.system.redact import URL_PREFIX, redact_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEXT, JSON = "text", "json"
FORMAT_OPTION, FORMAT_VARIABLE = "--log-format", "CXR_LOG_FORMAT"
REDACTED = "…"
_OWN_PACKAGES = ("batch_scorer", "trainer", "exporter")
_EVENT_LOGGER = logging.getLogger(__name__)
_BOUND_FIELDS: ContextVar[Mapping[str, Any]] = ContextVar("bound", default={})  # noqa: B039 - never mutated
_URL_PATH = re.compile(rf"({URL_PREFIX}[^/\\\s'\"]+)[/\\][^\s'\",;)]+", re.IGNORECASE)


def log_event(name: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event in JSON; the text format omits it, because it has sentences instead.

    Args:
        name: The event in the past tense, or a noun, such as ``run_finished``.
        level: A level of the logging module.
        fields: Facts of the event; None and empty values are omitted.
    """
    _EVENT_LOGGER.log(level, name, extra={"event": name, "fields": fields})


def bind_fields(**fields: Any) -> None:
    """Add fields, such as the run's name, to every later JSON line of this context."""
    _BOUND_FIELDS.set({**_BOUND_FIELDS.get(), **fields})


def clear_fields() -> None:
    """Remove all bound fields, before a process begins other work."""
    _BOUND_FIELDS.set({})


def find_log_format(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Find the requested log format, even in a command line that is otherwise wrong."""
    for index, argument in enumerate(arguments):
        if argument == f"{FORMAT_OPTION}={JSON}" or list(arguments[index : index + 2]) == [
            FORMAT_OPTION,
            JSON,
        ]:
            return JSON
    asked = any(argument.partition("=")[0] == FORMAT_OPTION for argument in arguments)
    return JSON if not asked and environment.get(FORMAT_VARIABLE) == JSON else TEXT


def set_log_format(name: str) -> None:
    """Log to stderr in this format from now on."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _StderrHandler)]:
        root.removeHandler(handler)
    root.addHandler(_StderrHandler(name))
    _EVENT_LOGGER.setLevel(logging.INFO)
    logging.captureWarnings(name == JSON)


def set_log_level(level: int) -> None:
    """Set the lowest level at which this program's own loggers write."""
    for name in _OWN_PACKAGES:
        logging.getLogger(name).setLevel(level)


def logs_json() -> bool:
    """Return whether the log is in JSON."""
    return any(
        isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers
    )


def format_event(
    name: str, level: str, fields: Mapping[str, Any], created: float | None = None
) -> str:
    """Return one JSON line, without a line break."""
    timestamp = datetime.now(UTC) if created is None else datetime.fromtimestamp(created, UTC)
    line = {
        "time": f"{timestamp:%Y-%m-%dT%H:%M:%S}.{timestamp.microsecond // 1000:03d}Z",
        "level": level,
        "event": name,
    }
    all_fields = {**_BOUND_FIELDS.get(), **fields}
    line |= {
        key: redact_secrets(value) if isinstance(value, str) else value
        for key, value in all_fields.items()
        if value not in (None, "", {}, [], ())
    }
    return json.dumps(line, ensure_ascii=False, default=str)


def redact_for_log(text: str, private: Sequence[str] = ()) -> str:
    """Remove private words from a sentence, and the path of each URL in it.

    Args:
        text: A sentence for people.
        private: Words of the sentence that identify an image, a patient or the like.
    """
    for word in sorted(filter(None, private), key=len, reverse=True):
        text = text.replace(word, REDACTED)
    return _URL_PATH.sub(rf"\1/{REDACTED}", redact_secrets(text))


class JsonFormatter(logging.Formatter):
    """Formats each record as one JSON object.

    In this program's messages, arguments are redacted unless they are numbers. Messages of other
    libraries may quote anything, so only the library's name is logged.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        event = getattr(record, "event", "message")
        fields = getattr(record, "fields", None)
        if fields is None:
            own = record.name.partition(".")[0] in _OWN_PACKAGES
            fields = {"text": _format_redacted(record)} if own else {"logger": record.name}
        return format_event(event, record.levelname.lower(), fields, record.created)


def _format_redacted(record: logging.LogRecord) -> str:
    args = record.args if isinstance(record.args, tuple) else ()
    shown = tuple(arg if isinstance(arg, Number) else REDACTED for arg in args)
    return " ".join((str(record.msg) % shown if shown else str(record.msg)).split())


class _TextFormatter(logging.Formatter):
    """Formats each record as its message, with the secrets of URLs removed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, which may have several lines."""
        return redact_secrets(super().format(record))


class _StderrHandler(logging.StreamHandler[Any]):
    """A handler for the current stderr, in one of the two formats."""

    def __init__(self, name: str) -> None:
        super().__init__(sys.stderr)
        if name == JSON:
            self.setFormatter(JsonFormatter())
        else:
            self.setFormatter(_TextFormatter("%(message)s"))
            self.addFilter(lambda record: record.name != _EVENT_LOGGER.name)
