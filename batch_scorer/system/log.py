"""Lines on standard error: text for people, or one JSON object each for machines.

A JSON line holds time (UTC), level, event, and fields: numbers, states and this program's own
words. It names no film, patient, study or label, and no secret of a URL.
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

from batch_scorer.system.redact import HEAD, scrub

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEXT, JSON = "text", "json"
OPTION, VARIABLE = "--log-format", "CXR_LOG_FORMAT"
HIDDEN = "…"
_OWN = "cxr"
_EVENTS = logging.getLogger("cxr.events")
_BOUND: ContextVar[Mapping[str, Any]] = ContextVar("bound", default={})  # noqa: B039 - never changed
_PATH_OF_URL = re.compile(rf"({HEAD}[^/\\\s'\"]+)[/\\][^\s'\",;)]+", re.IGNORECASE)


def log_event(name: str, level: int = logging.INFO, **fields: Any) -> None:
    """Say in JSON what happened; in text, where other words tell it, nothing.

    Args:
        name: Two words in the past tense, or a noun, such as ``run_finished``.
        level: Of the logging module.
        fields: What is known of it; those that are None or empty are left out.
    """
    _EVENTS.log(level, name, extra={"event": name, "fields": fields})


def bind(**fields: Any) -> None:
    """Add fields to every later JSON line of this thread of work, such as the run's name."""
    _BOUND.set({**_BOUND.get(), **fields})


def unbind() -> None:
    """Forget what was bound, where a process begins other work."""
    _BOUND.set({})


def asked_format(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The format that a command line asks for, also one that turns out to be wrong."""
    for place, argument in enumerate(arguments):
        if argument == f"{OPTION}={JSON}" or list(arguments[place : place + 2]) == [OPTION, JSON]:
            return JSON
    asked = any(argument.partition("=")[0] == OPTION for argument in arguments)
    return JSON if not asked and environment.get(VARIABLE) == JSON else TEXT


def set_format(name: str) -> None:
    """Write lines in this format from now on, to standard error."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Lines)]:
        root.removeHandler(handler)
    root.addHandler(_Lines(name))
    _EVENTS.setLevel(logging.INFO)
    logging.captureWarnings(name == JSON)


def speaks_json() -> bool:
    """Whether lines are for machines."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def render(name: str, level: str, fields: Mapping[str, Any], created: float | None = None) -> str:
    """One JSON line, without its end."""
    moment = datetime.now(UTC) if created is None else datetime.fromtimestamp(created, UTC)
    line = {
        "time": f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z",
        "level": level,
        "event": name,
    }
    told = {**_BOUND.get(), **fields}
    line |= {
        key: scrub(value) if isinstance(value, str) else value
        for key, value in told.items()
        if value not in (None, "", {}, [], ())
    }
    return json.dumps(line, ensure_ascii=False, default=str)


def redact(text: str, private: Sequence[str] = ()) -> str:
    """A sentence for machines to keep: no private words, and no path of a URL below its host.

    Args:
        text: A sentence for people.
        private: What in it names a film, a patient or the like.
    """
    for word in sorted(filter(None, private), key=len, reverse=True):
        text = text.replace(word, HIDDEN)
    return _PATH_OF_URL.sub(rf"\1/{HIDDEN}", scrub(text))


class JsonLines(logging.Formatter):
    """Each record as one JSON object.

    Of the program's own messages that are no events, words that were filled in are hidden, numbers
    are not; of other libraries', which may quote anything, only the library is named.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        event = getattr(record, "event", "message")
        fields = getattr(record, "fields", None)
        if fields is None:
            own = record.name.partition(".")[0] == _OWN
            fields = {"text": _bare_text(record)} if own else {"logger": record.name}
        return render(event, record.levelname.lower(), fields, record.created)


def _bare_text(record: logging.LogRecord) -> str:
    args = record.args if isinstance(record.args, tuple) else ()
    shown = tuple(arg if isinstance(arg, Number) else HIDDEN for arg in args)
    return " ".join((str(record.msg) % shown if shown else str(record.msg)).split())


class _TextLines(logging.Formatter):
    """Each record as its message, without what a URL in it may hold of secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or more."""
        return scrub(super().format(record))


class _Lines(logging.StreamHandler[Any]):
    """Standard error as it is now, in one of the two formats."""

    def __init__(self, name: str) -> None:
        super().__init__(sys.stderr)
        if name == JSON:
            self.setFormatter(JsonLines())
        else:
            self.setFormatter(_TextLines("%(message)s"))
            self.addFilter(lambda record: record.name != _EVENTS.name)
