"""HTTP entry point, served by functions-framework, with events of a real bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from batch_scorer.cli import http
from batch_scorer.cli.job_request import STOP_RESERVE_S
from tests.batch_scorer.jobs.events import gcs_event, s3_event
from tests.batch_scorer.jobs.s3_events import Clinic, hold_one_film
from tests.paths import REPOSITORY
from tests.servers import free_port, process, without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Cloud

pytestmark = pytest.mark.cloud
MAIN = "from batch_scorer.cli.http import receive"
SETTINGS = {"CXR_JOB_IMAGES": "s3://clinic/films", "CXR_JOB_OUTPUT": "s3://clinic/results"}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Entry:
    url: str

    def ask(self, body: bytes = b"", method: str = "POST", **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url, body, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return self._said(answer.status, answer)
        except urllib.error.HTTPError as answer:
            with answer:
                return self._said(answer.code, answer)

    def post(self, event: object, **headers: str) -> Reply:
        return self.ask(json.dumps(event).encode(), **headers)

    @staticmethod
    def _said(status: int, answer: Any) -> Reply:
        text = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        return Reply(status, dict(answer.headers), json.loads(text) if is_json else text)


@contextmanager
def serve(environment: dict[str, str]) -> Iterator[Entry]:
    """Serve a folder with functions-framework as the manual describes."""
    port = free_port()
    with TemporaryDirectory() as folder:
        main = Path(folder) / "main.py"
        main.write_text(MAIN)
        command = (sys.executable, "-m", "functions_framework", "--target", "receive")
        where = ("--source", str(main), "--host", "127.0.0.1", "--port", str(port))
        with process(port, *command, *where, environment=environment):
            yield Entry(f"http://127.0.0.1:{port}/")


@pytest.fixture(scope="module")
def entry() -> Iterator[Entry]:
    """An entry point that no event of these tests starts a run on."""
    with serve({**without_credentials(), **SETTINGS}) as served:
        yield served


def test_the_manual_says_how_it_is_served():
    assert f"`{MAIN}`" in (REPOSITORY / "docs" / "jobs.md").read_text()


def test_an_event_that_starts_nothing_is_accepted_with_a_reason(entry):
    said = entry.post(s3_event("results/latest/report.pdf"))
    assert (said.status, said.body) == (200, {"ignored": "it is inside the output"})
    assert "Retry-After" not in said.headers


def test_a_cloud_event_may_have_its_head_in_the_headers(entry):
    event = gcs_event()
    head = {f"ce_{name}": event[name] for name in ("specversion", "type", "source")}
    said = entry.post(event["data"], ce_id="1", **head)
    assert said == entry.post(event, Content_Type="application/cloudevents+json")
    assert said.body == {"ignored": "it is outside the image folder"}


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b'"text"', b"17", b'{"key1": "value1"}'],
)
def test_an_invalid_event_is_a_bad_request_with_one_line(entry, body):
    said = entry.ask(body)
    assert said.status == 400
    assert set(said.body) == {"error"}
    assert said.body["error"].startswith("Expected an event")
    assert said.body["error"].isprintable()


def test_an_error_is_logged_in_words_or_as_json(tmp_path):
    main = tmp_path / "main.py"
    main.write_text(MAIN)
    ask = f"""
from functions_framework import create_app
create_app("receive", {str(main)!r}).test_client().post("/", data='{{"key1": 1}}')
"""
    logged = {
        kind: subprocess.run(
            [sys.executable, "-c", ask],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "CXR_LOG_FORMAT": kind},
        ).stderr
        for kind in ("text", "json")
    }
    assert logged["text"].startswith("Expected an event of S3")
    line = json.loads(logged["json"])
    assert (line["level"], line["event"], line["code"]) == ("error", "error", "usage")
    assert line["sentence"] == logged["text"].rstrip()


def test_the_log_of_an_event_does_not_name_the_run_of_the_event_before(tmp_path):
    main = tmp_path / "main.py"
    main.write_text(MAIN)
    ask = f"""
from functions_framework import create_app
from batch_scorer.system.log import bind_fields
bind_fields(night="before")
create_app("receive", {str(main)!r}).test_client().post("/", data='{{"key1": 1}}')
"""
    done = subprocess.run(
        [sys.executable, "-c", ask],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "CXR_LOG_FORMAT": "json"},
    )
    assert set(json.loads(done.stderr)) == {"time", "level", "event", "code", "sentence"}


@pytest.mark.parametrize(
    ("text", "ever"),
    [("", True), ("0", True), ("soon", True), ("9" * 400, True), ("9" * 5000, True), ("1", False)],
    ids=lambda value: str(value)[:9],
)
def test_a_request_without_a_limit_is_never_stopped(monkeypatch, text, ever):
    monkeypatch.setenv(http.TIMEOUT_VARIABLE, text)
    stop = http._make_stop_check()
    assert stop is None if ever else stop()


def test_an_event_larger_than_any_is_refused_unread(entry):
    assert entry.ask(b" " * (http.MAX_REQUEST_BYTES + 1)).status == 413


def test_a_get_request_starts_nothing(entry):
    said = entry.ask(method="GET", body=None)
    assert (said.status, said.headers["Allow"]) == (405, "POST, OPTIONS")


def test_a_sender_that_requests_permission_gets_it(entry):
    said = entry.ask(method="OPTIONS", WebHook_Request_Origin="eventgrid.azure.net")
    assert said.status == 200
    assert said.headers["WebHook-Allowed-Origin"] == "eventgrid.azure.net"
    assert said.headers["WebHook-Allowed-Rate"] == "*"
    assert "WebHook-Allowed-Origin" not in entry.ask(method="OPTIONS").headers


@pytest.fixture(scope="module")
def cloud(clouds) -> Cloud:
    return clouds["s3"]


def test_a_new_image_leads_to_a_report_in_its_bucket_which_starts_no_further_run(
    cloud, tiny_model, tmp_path
):
    clinic = Clinic.open(cloud, through_bridge=True)
    clinic.put_films(0, 5)
    event = next(e for e in clinic.events() if e["detail-type"] == "Object Created")
    with serve(clinic.settings(tiny_model)) as entry:
        first = entry.post(event)
        assert first.status == 200, first
        assert (first.body["found"], first.body["scored"], first.body["new"]) == (5, 5, 5)
        report = tmp_path / "report.pdf"
        report.write_bytes(clinic.get("results/latest/report.pdf"))
        assert first.body["reports"] == [f"{clinic.output}/latest/report.pdf"]
        verify = [sys.executable, "-m", "batch_scorer", "verify", str(report)]
        assert subprocess.run(verify, check=False, capture_output=True).returncode == 0

        told, names = clinic.events(), clinic.names()
        assert any("report.pdf" in str(event) for event in told)
        for event in told:
            said = entry.post(event)
            assert (said.status, set(said.body)) == (200, {"ignored"})
        assert clinic.names() == names

        clinic.put_films(5, 1)
        schedule = entry.ask()
        assert (schedule.status, schedule.body["found"], schedule.body["new"]) == (200, 6, 1)


def test_of_concurrent_events_one_is_processed_and_the_others_are_retried(cloud, tiny_model):
    with hold_one_film(cloud, tiny_model) as held:
        clinic, event, proxy, environment = held
        with serve(environment) as one, serve(environment) as other, ThreadPoolExecutor(1) as pool:
            working = pool.submit(one.post, event)
            try:
                clinic.wait_for("results/nights/")
                here, there = one.post(event), other.post(event)
                report = one.post(s3_event("results/latest/report.pdf", bucket=clinic.bucket))
            finally:
                proxy.order()
            done = working.result(timeout=120)
            again = one.post(event)
    assert (report.status, report.body) == (200, {"ignored": "it is inside the output"})
    assert (here.status, there.status) == (409, 409)
    assert here.body["error"].startswith("This process already works on a run.")
    assert there.body["error"].startswith("Another task (")
    assert here.headers["Retry-After"] == there.headers["Retry-After"] == "60"
    assert (done.status, done.body["found"]) == (200, 4)
    assert (again.status, again.body["new"]) == (200, 0)


def test_a_storage_that_is_down_is_worth_a_retry(cloud, tiny_model):
    down = cloud.behind(f"http://127.0.0.1:{free_port()}").environment
    with serve({**without_credentials(), **SETTINGS, **down}) as entry:
        said = entry.ask()
    assert (said.status, said.headers["Retry-After"]) == (503, "60")
    assert "no complete response arrived" in said.body["error"]


def test_a_request_stops_in_time_and_the_next_one_resumes(cloud, tiny_model):
    clinic = Clinic.open(cloud)
    clinic.put_films(0, 10)
    short = {http.TIMEOUT_VARIABLE: str(STOP_RESERVE_S)}
    with serve(clinic.settings(tiny_model, **short)) as entry:
        stopped = entry.ask()
    assert stopped.status == 503
    assert "4 of 10 images are done" in stopped.body["error"]
    with serve(clinic.settings(tiny_model)) as entry:
        assert entry.ask().body["scored"] == 10


def test_a_permanent_failure_says_so(cloud, tiny_model):
    missing = {"CXR_JOB_IMAGES": "s3://no-such-bucket/films"}
    with serve(Clinic.open(cloud).settings(tiny_model, **missing)) as entry:
        said = entry.ask()
    assert (said.status, "Retry-After" in said.headers) == (422, False)
    assert "the bucket does not exist" in said.body["error"]
