"""Cloud events, parsed into a request to run a scheduled job.

Supported are notifications of Amazon S3 (direct, or through EventBridge, SNS or SQS), CloudEvents
of Google Cloud Storage and Azure Event Grid, and schedules. Nothing here opens an object or reads a
setting.
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
"""Maximum nesting of envelopes: an S3 notification in an SNS message in an SQS message."""


@dataclass(frozen=True)
class JobRequest:
    """Response to an event: score ``images`` into ``output``, or ignore it for a stated reason.

    Empty ``images`` stand for the images of the settings: the event names no object.
    """

    images: str = ""
    output: str = ""
    ignored_reason: str = ""


@dataclass(frozen=True)
class _ParsedEvent:
    """URLs of the new objects in an event. An event without objects and reason is a schedule."""

    objects: tuple[str, ...] = ()
    ignored_reason: str = ""


def parse_event(event: object, images: str, output: str) -> JobRequest:
    """Find the images that an event is about.

    Args:
        event: The event's decoded JSON. None or {} starts a scheduled run.
        images: Image folder from the settings. If it is empty, the object's own folder is scored,
            into a subfolder of ``output``.
        output: Output for the results. Objects inside it never start a run.

    Raises:
        UsageError: The event is of an unknown kind, or it names several folders and no setting
            names one.
    """
    parsed = _parse_envelope(event, MAX_ENVELOPE_DEPTH)
    if parsed.ignored_reason or not parsed.objects:
        return JobRequest(ignored_reason=parsed.ignored_reason)
    reasons = {url: _reason_to_ignore(url, images, output) for url in parsed.objects}
    new_images = [url for url, reason in reasons.items() if not reason]
    if not new_images:
        return JobRequest(ignored_reason=next(iter(reasons.values())))
    if images:
        return JobRequest(images, output)
    folders = {url.rpartition("/")[0] for url in new_images}
    if len(folders) > 1:
        raise UsageError(
            f"Expected an event about one image folder, found {len(folders)} folders.",
            "Set CXR_JOB_IMAGES to the folder that holds all images.",
        )
    folder = folders.pop()
    return JobRequest(folder, f"{output.rstrip('/')}/{_split_url(folder)[1]}" if output else "")


def _reason_to_ignore(url: str, images: str, output: str) -> str:
    """Return why an object starts no run; empty if it starts one."""
    if url.endswith("/"):
        return "it marks a folder, not an image"
    if output and _is_inside(url, output):
        return "it is inside the output"
    if images and not _is_inside(url, images):
        return "it is outside the image folder"
    path = _split_url(url)[1].removeprefix(_split_url(images)[1])
    if any(part.startswith(".") for part in path.split("/")):
        return "its name or the name of a folder starts with a dot"
    return ""


def _is_inside(url: str, folder: str) -> bool:
    (storage, path), (folder_storage, folder_path) = _split_url(url), _split_url(folder)
    return storage == folder_storage and (path == folder_path or path.startswith(f"{folder_path}/"))


def _split_url(url: str) -> tuple[str, str]:
    """Split a URL into the storage, and the path there: bucket or container, and key."""
    protocol, separator, path = url.partition("://")
    if not separator:
        return "", url.rstrip("/")
    storage = EXTRA_BY_PROTOCOL.get(protocol, protocol)
    if storage == "azure":  # abfs://container@account.dfs.core.windows.net/key
        container, slash, key = path.partition("/")
        path = container.partition("@")[0] + slash + key
    return storage, path.rstrip("/")


def _parse_envelope(event: object, max_depth: int) -> _ParsedEvent:
    if event is None or event == {}:
        return _ParsedEvent()
    if isinstance(event, dict) and max_depth:
        for key, read in _PARSERS.items():
            if key in event:
                return read(event, max_depth - 1)
    raise _unknown_event_error(event)


def _parse_records(event: dict[str, Any], max_depth: int) -> _ParsedEvent:
    """Parse S3 notifications, or SNS or SQS messages that hold them."""
    records = event["Records"]
    if not isinstance(records, list) or not records:
        raise _unknown_event_error(event)
    parsed = [_parse_record(record, max_depth) for record in records]
    is_relevant = any(not part.ignored_reason for part in parsed)
    objects = tuple(name for part in parsed for name in part.objects)
    return _ParsedEvent(objects, "" if is_relevant else parsed[0].ignored_reason)


def _parse_record(record: object, max_depth: int) -> _ParsedEvent:
    source = _get_text(record, "eventSource", "") or _get_text(record, "EventSource", "")
    if source == "aws:sqs":
        return _parse_envelope(_parse_json(_get_text(record, "body")), max_depth)
    if source == "aws:sns":
        return _parse_envelope(_parse_json(_get_text(record, "Sns.Message")), max_depth)
    if source != "aws:s3":
        raise _unknown_event_error(record)
    name = _get_text(record, "eventName")
    if not name.startswith("ObjectCreated:"):
        return _ParsedEvent(ignored_reason=f"it reports {reprlib.repr(name)}, not a new object")
    key = unquote_plus(_get_text(record, "s3.object.key"))  # S3 encodes a space as a plus
    return _ParsedEvent((f"s3://{_get_text(record, 's3.bucket.name')}/{key}",))


def _parse_sns_message(event: dict[str, Any], max_depth: int) -> _ParsedEvent:
    """Parse an SNS message that SQS delivers."""
    return _parse_envelope(_parse_json(_get_text(event, "Message")), max_depth)


def _parse_s3_test(event: dict[str, Any], _: int) -> _ParsedEvent:
    if event["Event"] != "s3:TestEvent":
        raise _unknown_event_error(event)
    return _ParsedEvent(ignored_reason="it is S3's test message for a new notification")


def _parse_eventbridge(event: dict[str, Any], _: int) -> _ParsedEvent:
    kind = _get_text(event, "detail-type")
    if kind == "Scheduled Event":
        return _ParsedEvent()
    if _get_text(event, "source") != "aws.s3":
        raise _unknown_event_error(event)
    if kind != "Object Created":
        return _ParsedEvent(ignored_reason=f"it reports {reprlib.repr(kind)}, not a new object")
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
        return _ParsedEvent(ignored_reason=f"it reports {reprlib.repr(kind)}, not a new object")
    raise _unknown_event_error(event)


_PARSERS: dict[str, Callable[[dict[str, Any], int], _ParsedEvent]] = {
    "Records": _parse_records,
    "Message": _parse_sns_message,
    "Event": _parse_s3_test,
    "detail-type": _parse_eventbridge,
    "specversion": _parse_cloud_event,
}
"""Parsers by a key that only their kind of event has."""


def _parse_json(text: str) -> object:
    """Parse the JSON of a message.

    Raises:
        UsageError: The text is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _unknown_event_error(text) from exc


def _get_text(event: object, path: str, default: str | None = None) -> str:
    """Return the non-empty string at a path such as ``s3.bucket.name``.

    Raises:
        UsageError: The string is missing, and there is no ``default``.
    """
    found: object = event
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, str) and found:
        return found
    if default is None:
        raise UsageError(
            f"Expected a string in {path} of the event, found {_summarize_value(found)}."
        )
    return default


def _unknown_event_error(event: object) -> UsageError:
    return UsageError(
        f"Expected an event of S3, EventBridge, Google Cloud Storage or Azure Event Grid, "
        f"found {_summarize_value(event)}."
    )


def _summarize_value(value: object) -> str:
    """Describe a value in one line; of an object its keys only, since values may name images."""
    if isinstance(value, dict):
        return f"an object with {reprlib.repr(list(value))}"
    kinds = {type(None): "nothing", str: "a string", list: "a list"}
    return kinds.get(type(value), "a number")
