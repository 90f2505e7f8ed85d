"""The way in by HTTP: functions-framework serves it, events of a real bucket are posted."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batch_scorer.job import http_entry
from tests.job.test_events import gcs_event, s3_event
from tests.servers import free_port, process, without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(http_entry.__file__)
SETTINGS = {"CXR_JOB_IMAGES": "s3://clinic/films", "CXR_JOB_OUTPUT": "s3://clinic/results"}


@dataclass(frozen=True)
class Said:
    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Entry:
    url: str

    def ask(self, body: bytes = b"", method: str = "POST", **headers: str) -> Said:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url, body, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return self._said(answer.status, answer)
        except urllib.error.HTTPError as answer:
            with answer:
                return self._said(answer.code, answer)

    def post(self, event: object, **headers: str) -> Said:
        return self.ask(json.dumps(event).encode(), **headers)

    @staticmethod
    def _said(status: int, answer: Any) -> Said:
        text = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        return Said(status, dict(answer.headers), json.loads(text) if is_json else text)


@contextmanager
def serve(environment: dict[str, str]) -> Iterator[Entry]:
    port = free_port()
    command = (sys.executable, "-m", "functions_framework", "--target", "receive")
    where = ("--source", str(SOURCE), "--host", "127.0.0.1", "--port", str(port))
    with process(port, *command, *where, environment=environment):
        yield Entry(f"http://127.0.0.1:{port}/")


@pytest.fixture(scope="module")
def entry() -> Iterator[Entry]:
    """One that no event of these tests lets work."""
    with serve({**without_credentials(), **SETTINGS}) as served:
        yield served


def test_an_event_that_starts_nothing_is_taken_and_told_why(entry):
    said = entry.post(s3_event("results/latest/report.pdf"))
    assert (said.status, said.body) == (200, {"ignored": "it lies below the output"})
    assert "Retry-After" not in said.headers


def test_a_cloud_event_may_have_its_head_in_the_headers(entry):
    event = gcs_event()
    head = {f"ce_{name}": event[name] for name in ("specversion", "type", "source")}
    said = entry.post(event["data"], ce_id="1", **head)
    assert said == entry.post(event, Content_Type="application/cloudevents+json")
    assert said.body == {"ignored": "it lies outside the folder of films"}


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b'"text"', b"17", b'{"key1": "value1"}'],
)
def test_what_is_no_event_is_a_bad_request_of_one_line(entry, body):
    said = entry.ask(body)
    assert said.status == 400
    assert set(said.body) == {"error"}
    assert said.body["error"].startswith("Expected an event")
    assert said.body["error"].isprintable()


def test_an_event_larger_than_any_is_refused_unread(entry):
    assert entry.ask(b" " * (http_entry.MOST_BYTES + 1)).status == 413


def test_a_visitor_starts_nothing(entry):
    said = entry.ask(method="GET", body=None)
    assert (said.status, said.headers["Allow"]) == (405, "POST, OPTIONS")


def test_a_sender_that_asks_whether_it_may_send_is_told_so(entry):
    said = entry.ask(method="OPTIONS", WebHook_Request_Origin="eventgrid.azure.net")
    assert said.status == 200
    assert said.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"
    assert said.headers["WebHook-Allowed-Rate"] == "*"
    assert "WebHook-Allowed-Origin" not in entry.ask(method="OPTIONS").headers
