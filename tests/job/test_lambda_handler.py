"""The way in by AWS Lambda: its runtime interface client before a local Runtime API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.job.lambda_runtime import Function, Reply, run_function
from tests.job.test_events import s3_event
from tests.servers import without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = {"CXR_JOB_IMAGES": "s3://clinic/films", "CXR_JOB_OUTPUT": "s3://clinic/results"}


@pytest.fixture(scope="module")
def function() -> Iterator[Function]:
    """One that no event of these tests lets work."""
    with run_function({**without_credentials(), **SETTINGS}) as started:
        yield started


def test_an_event_that_starts_nothing_is_taken_and_told_why(function):
    reply = function.api.invoke(s3_event("results/latest/report.pdf"))
    assert reply == Reply("response", {"ignored": "it lies below the output"})


def test_an_event_that_is_not_known_is_an_error_of_one_line(function):
    reply = function.api.invoke({"key1": "value1"})
    assert (reply.kind, reply.body["errorType"]) == ("error", "Failed")
    assert reply.body["errorMessage"].startswith("Expected an event of S3, EventBridge")
    assert reply.body["errorMessage"].isprintable()
    assert function.api.invoke(s3_event("elsewhere/film.png")).kind == "response"
