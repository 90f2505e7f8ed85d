"""Scheduled runs over HTTP, served by ``functions-framework --target receive``.

POST an event: a CloudEvent, an AWS event, or an empty body for a schedule. Senders such as
Eventarc, Pub/Sub and Event Grid retry after any response other than 2xx. The status says whether a
retry can help; an expected error is never a 500.
"""

from __future__ import annotations

import json
import logging
import os
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import functions_framework
from flask import Response

from batch_scorer.cli.job_request import (
    STOP_RESERVE_S,
    handle_event,
    make_error_response,
    start_event_log,
)
from batch_scorer.errors import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_RETRY,
    EXIT_USAGE,
    AlreadyRunning,
    UsageError,
)
from batch_scorer.system.log import log_event, logs_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Request

    from batch_scorer.cli.job_request import JobResponse

log = logging.getLogger(__name__)
MAX_REQUEST_BYTES = 2**20
"""Maximum size of a request; the largest events, those of SQS, fit."""
RETRY_AFTER_S = 60
TIMEOUT_VARIABLE = "CLOUD_RUN_TIMEOUT_SECONDS"
"""Time limit of a request, also read by functions-framework; empty or 0 means no limit."""
MAX_TIMEOUT_DIGITS = 9
"""Maximum digits of the time limit in seconds; more mean no limit."""
HTTP_STATUS = {
    EXIT_OK: HTTPStatus.OK,
    EXIT_FAILED: HTTPStatus.UNPROCESSABLE_ENTITY,
    EXIT_USAGE: HTTPStatus.BAD_REQUEST,
    EXIT_RETRY: HTTPStatus.SERVICE_UNAVAILABLE,
}


@functions_framework.http
def receive(request: Request) -> Response:
    """Run the scheduled job that a request's event asks for.

    Returns:
        200 with the run's counts, or with the reason for doing nothing; 400 for an event or a
            setting that cannot be parsed; 409 if this process or another task does the same work;
            422 for a permanent failure; 503 for a transient one. 409 and 503 carry ``Retry-After``.
    """
    start_event_log()
    if request.method == "OPTIONS":
        return _allow_webhook(request)
    if request.method != "POST":
        return Response(status=HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "POST, OPTIONS"})
    try:
        event = _read_request(request)
    except UsageError as exc:
        return _to_http_response(make_error_response(exc))
    return _to_http_response(handle_event(event, _make_stop_check()))


def _read_request(request: Request) -> object:
    """Read the event of a request: from the body, or its attributes from headers (``ce-type``).

    Raises:
        UsageError: The body is not JSON.
        RequestEntityTooLarge: The body is larger than any event; Flask responds with 413.
    """
    request.max_content_length = MAX_REQUEST_BYTES
    body = request.get_data()
    try:
        event = json.loads(body) if body.strip() else None
    except (ValueError, RecursionError) as exc:
        raise UsageError("Expected an event as JSON, found something else.") from exc
    if "ce-specversion" not in request.headers:
        return event
    head = {name: request.headers.get(f"ce-{name}", "") for name in ("specversion", "type")}
    return {**head, "data": event}


def _allow_webhook(request: Request) -> Response:
    """Answer a sender's one-time request for permission to deliver CloudEvents.

    Source: CloudEvents, HTTP 1.1 Web Hooks for Event Delivery, section 4. Azure Event Grid uses it.
    """
    origin = request.headers.get("WebHook-Request-Origin", "")
    allowed = {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"} if origin else {}
    return Response(status=HTTPStatus.OK, headers={"Allow": "POST, OPTIONS", **allowed})


def _make_stop_check() -> Callable[[], bool] | None:
    """Return a check that is True shortly before the request's time limit; None without a limit."""
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    timeout_s = int(text) if text.isdecimal() and len(text) <= MAX_TIMEOUT_DIGITS else 0
    if not timeout_s:
        return None
    deadline = time.monotonic() + timeout_s - STOP_RESERVE_S
    return lambda: time.monotonic() > deadline


def _to_http_response(job_response: JobResponse) -> Response:
    if job_response.error and logs_json():
        log_event("error", logging.ERROR, code=job_response.code, sentence=job_response.error)
    elif job_response.error:
        log.error("%s", job_response.error)
    response = Response(
        json.dumps({"error": job_response.error} if job_response.error else job_response.facts),
        HTTPStatus.CONFLICT
        if job_response.code == AlreadyRunning.code
        else HTTP_STATUS[job_response.exit_code],
        mimetype="application/json",
    )
    if job_response.exit_code == EXIT_RETRY:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response
