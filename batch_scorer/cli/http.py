"""The nightly run behind HTTP: ``functions-framework --target receive`` serves it.

POST an event: a CloudEvent, an event of AWS, or nothing at all for a schedule. Senders such as
Eventarc, Pub/Sub and Event Grid send again what was not answered by 2xx; a status says whether that
can help, and is never 500 for what is foreseen.
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
"""Of a request: as large as the largest events get, those of SQS."""
RETRY_AFTER_S = 60
TIMEOUT_VARIABLE = "CLOUD_RUN_TIMEOUT_SECONDS"
"""How long a request may take, as functions-framework reads it too; empty or 0: without limit."""
MAX_TIMEOUT_DIGITS = 9
"""Of its seconds; more are decades, and no limit either."""
HTTP_STATUS = {
    EXIT_OK: HTTPStatus.OK,
    EXIT_FAILED: HTTPStatus.UNPROCESSABLE_ENTITY,
    EXIT_USAGE: HTTPStatus.BAD_REQUEST,
    EXIT_RETRY: HTTPStatus.SERVICE_UNAVAILABLE,
}


@functions_framework.http
def receive(request: Request) -> Response:
    """Run the night that a request's event asks for.

    Returns:
        200 with the night's counts, or with why there was nothing to do; 400 for an event or a
        setting that cannot be read; 409 while this process or another one is at the same work; 422
        for what fails every time; 503 for what may work later. 409 and 503 say when in
        ``Retry-After``.
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
    """The event in a request: all of it in the body, or its head in headers (``ce-type``).

    Raises:
        UsageError: The body is no JSON.
        RequestEntityTooLarge: It is larger than any event; answered with 413 by Flask.
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
    """Answer the question that a sender of CloudEvents asks once, whether it may send.

    Source: CloudEvents, HTTP 1.1 Web Hooks for Event Delivery, 4; Azure Event Grid asks so.
    """
    origin = request.headers.get("WebHook-Request-Origin", "")
    allowed = {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"} if origin else {}
    return Response(status=HTTPStatus.OK, headers={"Allow": "POST, OPTIONS", **allowed})


def _make_stop_check() -> Callable[[], bool] | None:
    """Says yes shortly before the platform would end the request; None where it never does."""
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    limit_s = int(text) if text.isdecimal() and len(text) <= MAX_TIMEOUT_DIGITS else 0
    if not limit_s:
        return None
    end = time.monotonic() + limit_s - STOP_RESERVE_S
    return lambda: time.monotonic() > end


def _to_http_response(answer: JobResponse) -> Response:
    if answer.error and logs_json():
        log_event("error", logging.ERROR, code=answer.code, sentence=answer.error)
    elif answer.error:
        log.error("%s", answer.error)
    response = Response(
        json.dumps({"error": answer.error} if answer.error else answer.facts),
        HTTPStatus.CONFLICT
        if answer.code == AlreadyRunning.code
        else HTTP_STATUS[answer.exit_code],
        mimetype="application/json",
    )
    if answer.exit_code == EXIT_RETRY:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response
