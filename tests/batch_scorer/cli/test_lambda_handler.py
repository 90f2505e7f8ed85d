"""AWS Lambda entry point, with its runtime interface client and a local Runtime API."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pypdfium2
import pytest

from batch_scorer.cli.job_request import STOP_RESERVE_S
from tests.batch_scorer.jobs.events import s3_event
from tests.batch_scorer.jobs.lambda_runtime import Function, Reply, run_function
from tests.batch_scorer.jobs.s3_events import Clinic, hold_one_film
from tests.servers import without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Cloud

pytestmark = pytest.mark.cloud
SETTINGS = {"CXR_JOB_IMAGES": "s3://clinic/films", "CXR_JOB_OUTPUT": "s3://clinic/results"}


@pytest.fixture(scope="module")
def function() -> Iterator[Function]:
    """A function that no event of these tests starts a run on."""
    with run_function({**without_credentials(), **SETTINGS}) as started:
        yield started


def test_an_event_that_starts_nothing_is_accepted_with_a_reason(function):
    reply = function.api.invoke(s3_event("results/latest/report.pdf"))
    assert reply == Reply("response", {"ignored": "it is inside the output"})


def test_an_event_that_is_not_known_is_an_error_of_one_line(function):
    reply = function.api.invoke({"key1": "value1"})
    assert (reply.kind, reply.body["errorType"]) == ("error", "Failed")
    assert reply.body["errorMessage"].startswith("Expected an event of S3, EventBridge")
    assert reply.body["errorMessage"].isprintable()
    assert function.api.invoke(s3_event("elsewhere/film.png")).kind == "response"


@pytest.fixture(scope="module")
def cloud(clouds) -> Cloud:
    return clouds["s3"]


def test_a_new_image_leads_to_a_report_in_its_bucket_which_starts_no_further_run(
    cloud, tiny_model, tmp_path
):
    clinic = Clinic.open(cloud)
    clinic.put_films(0, 6)
    test_event, *_, event = clinic.events()
    with run_function(clinic.settings(tiny_model)) as function:
        assert "S3's test" in function.api.invoke(test_event).body["ignored"]
        first = function.api.invoke(event)
        assert first.kind == "response", first
        facts = first.body
        assert (facts["found"], facts["scored"], facts["new"]) == (6, 6, 6)
        assert facts["reports"] == [f"{clinic.output}/latest/report.pdf"]
        report = tmp_path / "report.pdf"
        report.write_bytes(clinic.get("results/latest/report.pdf"))
        assert "6" in pypdfium2.PdfDocument(report)[0].get_textpage().get_text_bounded()
        verify = [sys.executable, "-m", "batch_scorer", "verify", str(report)]
        assert subprocess.run(verify, check=False, capture_output=True).returncode == 0

        told, names = clinic.events(), clinic.names()
        assert any("report.pdf" in str(event) for event in told)
        replies = [function.api.invoke(event) for event in told]
        assert {str(reply.body) for reply in replies} == {"{'ignored': 'it is inside the output'}"}
        assert clinic.names() == names

        clinic.put_films(6, 1)
        second = function.api.invoke(clinic.events()[-1]).body
        assert (second["found"], second["new"]) == (7, 1)
        assert second["night"] > facts["night"]


def test_its_log_has_each_json_line_once_and_names_no_image(cloud, tiny_model):
    clinic = Clinic.open(cloud)
    clinic.put_films(0, 3)
    with run_function(clinic.settings(tiny_model, CXR_LOG_FORMAT="json")) as function:
        done = function.api.invoke({})
        logged = function.end()
    lines = [json.loads(line) for line in logged.splitlines()]
    told = [line["event"] for line in lines]
    assert told.count("run_started") == told.count("night_finished") == 1
    assert {line["night"] for line in lines} == {done.body["night"]}
    assert "für" not in logged


def test_of_two_concurrent_events_one_is_processed_and_the_other_is_retried(cloud, tiny_model):
    with hold_one_film(cloud, tiny_model) as held:
        clinic, event, proxy, environment = held
        with run_function(environment) as one, run_function(environment) as other:
            one.api.send(event)
            clinic.wait_for("results/nights/")
            refused = other.api.invoke(event)
            assert (refused.kind, refused.body["errorType"]) == ("error", "TryAgain"), refused
            assert refused.body["errorMessage"].startswith("Another task (")
            proxy.order()
            done = one.api.replies.get(timeout=120)
            assert (done.kind, done.body["found"]) == ("response", 4), done
            again = other.api.invoke(event)
            assert (again.kind, again.body["new"]) == ("response", 0), again


def test_a_call_stops_in_time_and_the_next_one_resumes(cloud, tiny_model):
    clinic = Clinic.open(cloud)
    clinic.put_films(0, 10)
    event = clinic.events()[-1]
    with run_function(clinic.settings(tiny_model)) as function:
        stopped = function.api.invoke(event, within_s=STOP_RESERVE_S / 2)
        assert (stopped.kind, stopped.body["errorType"]) == ("error", "TryAgain")
        assert "4 of 10 images are done" in stopped.body["errorMessage"]
        assert not [name for name in clinic.names() if "latest" in name]
        done = function.api.invoke(event)
        assert (done.kind, done.body["scored"]) == ("response", 10), done
    run = msgspec.json.decode(clinic.get("results/latest/run.json"))
    assert run["reused"] == 4


def test_a_permanent_failure_is_a_one_line_error(cloud, tiny_model):
    missing = {"CXR_JOB_IMAGES": "s3://no-such-bucket/films"}
    with run_function(Clinic.open(cloud).settings(tiny_model, **missing)) as function:
        reply = function.api.invoke({})
    assert (reply.kind, reply.body["errorType"]) == ("error", "Failed")
    assert "the bucket does not exist" in reply.body["errorMessage"]
    assert reply.body["errorMessage"].isprintable()
