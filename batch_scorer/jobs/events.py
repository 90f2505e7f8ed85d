"""What an event of a cloud asks for: one night over a folder of films, or nothing.

Read are notifications of Amazon S3 (straight, through EventBridge, SNS or SQS), CloudEvents of
Google Cloud Storage and Azure Event Grid, and schedules. No object is opened here, and no setting
read.
"""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_plus, urlsplit

from batch_scorer.errors import UsageError
from batch_scorer.storage.filesystem import EXTRA_BY_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ENVELOPE_DEPTH = 3
"""Envelopes in each other: S3's notification in SNS's message in SQS's."""


@dataclass(frozen=True)
class JobRequest:
    """What to do about an event: score ``images`` into ``output``, or nothing, and why.

    Empty ``images`` are those of the settings: the event names no object.
    """

    images: str = ""
    output: str = ""
    ignored_reason: str = ""


@dataclass(frozen=True)
class _ParsedEvent:
    """What an event tells: objects that came, as URLs; none and no reason is a schedule."""

    objects: tuple[str, ...] = ()
    ignored_reason: str = ""


def parse_event(event: object, images: str, output: str) -> JobRequest:
    """Say which films an event concerns.

    Args:
        event: The event's JSON, decoded. Nothing (None or {}) is a call to start the night.
        images: The folder of films that the settings name. Where it is empty, the object's own
            folder is scored, into a folder of its own below ``output``.
        output: Where results go. What lies there never starts a night.

    Raises:
        UsageError: It is no event that is known, or it names several folders and no setting does.
    """
    news = _parse_envelope(event, MAX_ENVELOPE_DEPTH)
    if news.ignored_reason or not news.objects:
        return JobRequest(ignored_reason=news.ignored_reason)
    reasons = {name: _reason_to_ignore(name, images, output) for name in news.objects}
    films = [name for name, reason in reasons.items() if not reason]
    if not films:
        return JobRequest(ignored_reason=next(iter(reasons.values())))
    if images:
        return JobRequest(images, output)
    folders = {name.rpartition("/")[0] for name in films}
    if len(folders) > 1:
        raise UsageError(
            f"Expected an event about one folder of films, found {len(folders)} folders.",
            "Set CXR_JOB_IMAGES to the folder that holds them all.",
        )
    folder = folders.pop()
    return JobRequest(folder, f"{output.rstrip('/')}/{_split_url(folder)[1]}" if output else "")


def _reason_to_ignore(name: str, images: str, output: str) -> str:
    """Why the object starts nothing; empty where it does."""
    if name.endswith("/"):
        return "it is a folder's marker, not a film"
    if output and _is_inside(name, output):
        return "it lies below the output"
    if images and not _is_inside(name, images):
        return "it lies outside the folder of films"
    inside = _split_url(name)[1].removeprefix(_split_url(images)[1])
    if any(part.startswith(".") for part in inside.split("/")):
        return "its name, or that of a folder, begins with a dot"
    return ""


def _is_inside(name: str, folder: str) -> bool:
    (kind, path), (kind_of_folder, root) = _split_url(name), _split_url(folder)
    return kind == kind_of_folder and (path == root or path.startswith(f"{root}/"))


def _split_url(url: str) -> tuple[str, str]:
    """Which storage a URL names, and the path there: bucket or container, and key."""
    protocol, mark, path = url.partition("://")
    if not mark:
        return "", url.rstrip("/")
    kind = EXTRA_BY_PROTOCOL.get(protocol, protocol)
    if kind == "azure":  # abfs://container@account.dfs.core.windows.net/key
        container, slash, key = path.partition("/")
        path = container.partition("@")[0] + slash + key
    return kind, path.rstrip("/")


def _parse_envelope(event: object, deepest: int) -> _ParsedEvent:
    if event is None or event == {}:
        return _ParsedEvent()
    if isinstance(event, dict) and deepest:
        for key, read in _PARSERS.items():
            if key in event:
                return read(event, deepest - 1)
    raise _unknown_event_error(event)


def _parse_records(event: dict[str, Any], deepest: int) -> _ParsedEvent:
    """Notifications of S3, one or several, or messages of SNS or SQS that hold such."""
    records = event["Records"]
    if not isinstance(records, list) or not records:
        raise _unknown_event_error(event)
    news = [_parse_record(record, deepest) for record in records]
    heard = any(not part.ignored_reason for part in news)
    objects = tuple(name for part in news for name in part.objects)
    return _ParsedEvent(objects, "" if heard else news[0].ignored_reason)


def _parse_record(record: object, deepest: int) -> _ParsedEvent:
    source = _get_text(record, "eventSource", "") or _get_text(record, "EventSource", "")
    if source == "aws:sqs":
        return _parse_envelope(_parse_json(_get_text(record, "body")), deepest)
    if source == "aws:sns":
        return _parse_envelope(_parse_json(_get_text(record, "Sns.Message")), deepest)
    if source != "aws:s3":
        raise _unknown_event_error(record)
    name = _get_text(record, "eventName")
    if not name.startswith("ObjectCreated:"):
        return _ParsedEvent(ignored_reason=f"it tells of {reprlib.repr(name)}, not of a new object")
    key = unquote_plus(_get_text(record, "s3.object.key"))  # a blank comes as a plus
    return _ParsedEvent((f"s3://{_get_text(record, 's3.bucket.name')}/{key}",))


def _parse_sns_message(event: dict[str, Any], deepest: int) -> _ParsedEvent:
    """SNS's message, as SQS hands it on."""
    return _parse_envelope(_parse_json(_get_text(event, "Message")), deepest)


def _parse_s3_test(event: dict[str, Any], _: int) -> _ParsedEvent:
    if event["Event"] != "s3:TestEvent":
        raise _unknown_event_error(event)
    return _ParsedEvent(ignored_reason="it is S3's test of a new notification")


def _parse_eventbridge(event: dict[str, Any], _: int) -> _ParsedEvent:
    kind = _get_text(event, "detail-type")
    if kind == "Scheduled Event":
        return _ParsedEvent()
    if _get_text(event, "source") != "aws.s3":
        raise _unknown_event_error(event)
    if kind != "Object Created":
        return _ParsedEvent(ignored_reason=f"it tells of {reprlib.repr(kind)}, not of a new object")
    bucket, key = _get_text(event, "detail.bucket.name"), _get_text(event, "detail.object.key")
    return _ParsedEvent((f"s3://{bucket}/{key}",))


def _parse_cloud_event(event: dict[str, Any], _: int) -> _ParsedEvent:
    kind = _get_text(event, "type")
    if kind == "google.cloud.storage.object.v1.finalized":
        return _ParsedEvent(
            (f"gs://{_get_text(event, 'data.bucket')}/{_get_text(event, 'data.name')}",)
        )
    if kind == "Microsoft.Storage.BlobCreated":
        try:
            path = urlsplit(_get_text(event, "data.url")).path
        except ValueError as exc:
            raise _unknown_event_error(event) from exc
        return _ParsedEvent((f"az://{unquote(path.lstrip('/'))}",))
    if kind.startswith(("google.cloud.storage.", "Microsoft.Storage.")):
        return _ParsedEvent(ignored_reason=f"it tells of {reprlib.repr(kind)}, not of a new object")
    raise _unknown_event_error(event)


_PARSERS: dict[str, Callable[[dict[str, Any], int], _ParsedEvent]] = {
    "Records": _parse_records,
    "Message": _parse_sns_message,
    "Event": _parse_s3_test,
    "detail-type": _parse_eventbridge,
    "specversion": _parse_cloud_event,
}
"""How an event is read, by the key that only its kind has."""


def _parse_json(text: str) -> object:
    """The JSON that a message holds.

    Raises:
        UsageError: It is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _unknown_event_error(text) from exc


def _get_text(event: object, path: str, default: str | None = None) -> str:
    """The text at a path such as ``s3.bucket.name``, which must not be empty.

    Raises:
        UsageError: There is none, and no ``default`` for it.
    """
    found: object = event
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, str) and found:
        return found
    if default is None:
        raise UsageError(
            f"Expected a text in {path} of the event, found {_summarize_value(found)}."
        )
    return default


def _unknown_event_error(event: object) -> UsageError:
    return UsageError(
        f"Expected an event of S3, EventBridge, Google Cloud Storage or Azure Event Grid, "
        f"found {_summarize_value(event)}."
    )


def _summarize_value(value: object) -> str:
    """What came, in a few words on one line; of an object its keys, since values may name films."""
    if isinstance(value, dict):
        return f"an object with {reprlib.repr(list(value))}"
    kinds = {type(None): "nothing", str: "a text", list: "a list"}
    return kinds.get(type(value), "a number")
