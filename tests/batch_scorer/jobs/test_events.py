"""The folder of an event: every kind in its documented form, and hostile ones."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_scorer.errors import UsageError
from batch_scorer.jobs.events import JobRequest, parse_event
from tests.batch_scorer.jobs.events import azure_event, bridge_event, gcs_event, s3_event

FILMS, RESULTS = "s3://clinic/films", "s3://clinic/results"


def in_sqs(*events: dict) -> dict:
    return {"Records": [{"eventSource": "aws:sqs", "body": json.dumps(e)} for e in events]}


def in_sns(event: dict) -> dict:
    message = {"Type": "Notification", "Message": json.dumps(event)}
    return {"Records": [{"EventSource": "aws:sns", "Sns": message}]}


@pytest.mark.parametrize(
    ("event", "images", "output"),
    [
        (s3_event(), FILMS, RESULTS),
        (s3_event(name="ObjectCreated:CompleteMultipartUpload"), f"{FILMS}/", RESULTS),
        (s3_event("films/deep/film.png"), "s3a://clinic/films", "s3a://clinic/results"),
        (bridge_event(), FILMS, RESULTS),
        (in_sqs(s3_event()), FILMS, RESULTS),
        (in_sns(s3_event()), FILMS, RESULTS),
        (in_sqs({"Type": "Notification", "Message": json.dumps(s3_event())}), FILMS, RESULTS),
        (in_sqs(s3_event("results/report.pdf"), s3_event()), FILMS, RESULTS),
        (gcs_event(), "gs://clinic/films", "gs://clinic/results"),
        (gcs_event(), "gcs://clinic", "gs://elsewhere"),
        (azure_event(), "az://clinic/films", "az://clinic/results"),
        (azure_event(), "abfss://clinic@account.dfs.core.windows.net/films", "az://results"),
    ],
)
def test_a_new_image_starts_a_run_over_the_folder_of_the_settings(event, images, output):
    assert parse_event(event, images, output) == JobRequest(images, output)


@pytest.mark.parametrize(
    ("event", "images"),
    [
        (s3_event("new+films/a%2Bb/f%C3%BCr+1.png"), "s3://clinic/new films/a+b"),
        (bridge_event("new films/a+b/für 1.png"), "s3://clinic/new films/a+b"),
        (gcs_event("new films/a+b/für 1.png"), "gs://clinic/new films/a+b"),
        (azure_event("new%20films/a+b/f%C3%BCr%201.png"), "az://clinic/new films/a+b"),
    ],
)
def test_without_a_folder_in_the_settings_each_image_folder_has_its_own_results(event, images):
    expected = JobRequest(images, "s3://results/nightly/clinic/new films/a+b")
    assert parse_event(event, "", "s3://results/nightly/") == expected


def test_an_image_outside_any_folder_stands_for_its_bucket():
    assert parse_event(s3_event("film.png"), "", "s3://out") == JobRequest(
        "s3://clinic", "s3://out/clinic"
    )


@pytest.mark.parametrize(
    "event",
    [
        None,
        {},
        {"detail-type": "Scheduled Event", "source": "aws.events", "detail": {}},
        {"detail-type": "Scheduled Event", "source": "aws.scheduler", "detail": "{}"},
        in_sqs({"detail-type": "Scheduled Event", "source": "aws.events", "detail": {}}),
    ],
)
def test_a_schedule_starts_a_run_over_the_folder_of_the_settings(event):
    assert parse_event(event, FILMS, RESULTS) == JobRequest()


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (s3_event("results/latest/report.pdf"), "it is inside the output"),
        (bridge_event("results"), "it is inside the output"),
        (s3_event("elsewhere/film.png"), "it is outside the image folder"),
        (s3_event("films2/film.png"), "it is outside the image folder"),
        (s3_event(bucket="other"), "it is outside the image folder"),
        (gcs_event(), "it is outside the image folder"),
        (s3_event("films/.film.png"), "its name or the name of a folder starts with a dot"),
        (s3_event("films/.trash/film.png"), "its name or the name of a folder starts with a dot"),
        (
            s3_event("films/../secret/film.png"),
            "its name or the name of a folder starts with a dot",
        ),
        (s3_event("films/2026/"), "it marks a folder, not an image"),
        (s3_event(name="ObjectRemoved:Delete"), "it reports 'ObjectRemoved:Delete', not a new"),
        (bridge_event(kind="Object Deleted"), "it reports 'Object Deleted', not a new object"),
        (gcs_event(kind="deleted"), "it reports 'google.cloud.*deleted', not a new object"),
        (azure_event(kind="BlobDeleted"), "it reports 'Microsoft.*', not a new object"),
        ({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}, "it is S3's test"),
    ],
)
def test_an_object_that_is_not_a_new_image_starts_nothing_and_says_why(event, reason):
    errand = parse_event(event, FILMS, RESULTS)
    assert errand.images == ""
    head, _, tail = reason.partition("*")
    assert errand.ignored_reason.startswith(head)
    assert tail in errand.ignored_reason


@pytest.mark.parametrize("output", [RESULTS, "s3a://clinic/results/", "s3://clinic/results"])
@pytest.mark.parametrize("images", ["", FILMS, "s3://clinic"])
def test_no_result_ever_starts_the_next_run(images, output):
    for name in ("latest/report.pdf", "nights/20261127-020000/run.json", "leases/finish/1.json"):
        assert parse_event(s3_event(f"results/{name}"), images, output).ignored_reason


def test_results_of_image_folders_start_no_run_either():
    errand = parse_event(s3_event("films/film.png"), "", RESULTS)
    key = f"{errand.output.removeprefix('s3://clinic/')}/latest/report.pdf"
    assert parse_event(s3_event(key), "", RESULTS).ignored_reason == "it is inside the output"


def test_images_of_several_folders_need_a_folder_in_the_settings():
    event = in_sqs(s3_event("a/1.png"), s3_event("b/2.png"))
    with pytest.raises(UsageError, match=r"one image folder, found 2 folders\. Set CXR_JOB_IM"):
        parse_event(event, "", RESULTS)


def deep(levels: int) -> object:
    event: object = s3_event()
    for _ in range(levels):
        event = in_sqs(event)
    return event


@pytest.mark.parametrize(
    "event",
    [
        "films/film.png",
        17,
        [s3_event()],
        {"key1": "value1", "key2": "value2"},
        {"Records": []},
        {"Records": "s3"},
        {"Records": [None]},
        {"Records": [{"eventSource": "aws:dynamodb"}]},
        {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": {}}]},
        {"Records": [{"eventSource": "aws:sqs", "body": "{"}]},
        {"Records": [{"eventSource": "aws:sqs", "body": "[" * 100_000}]},
        {"Records": [{"eventSource": ["aws:s3"]}]},
        s3_event(key=""),
        s3_event(bucket={"$ne": ""}),
        deep(4),
        {"detail-type": "Scheduled Event\nroot", "source": "me"},
        {"detail-type": "Object Created", "source": "aws.s3", "detail": []},
        {"specversion": "1.0", "type": "com.example.other", "data": {}},
        {"specversion": "1.0", "type": "Microsoft.Storage.BlobCreated", "data": {"url": "h://[x"}},
        {"Event": "s3:Other\nlines"},
        {"\n": "x" * 100_000},
    ],
)
def test_an_event_that_is_not_known_is_one_short_line(event):
    with pytest.raises(UsageError) as error:
        parse_event(event, FILMS, RESULTS)
    assert error.value.exit_code == 2
    assert str(error.value).startswith("Expected ")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "event",
    [
        "films/Doe Jane.png",
        ["films/Doe Jane.png"],
        {"Records": [{"eventSource": "aws:sqs", "body": "films/Doe Jane.png"}]},
        s3_event(key=["films/Doe Jane.png"]),
    ],
)
def test_an_event_that_is_not_known_is_not_quoted(event):
    with pytest.raises(UsageError) as error:
        parse_event(event, FILMS, RESULTS)
    assert "Doe" not in str(error.value)


def test_an_event_nested_as_deeply_as_json_allows_is_one_short_line():
    event: object = []
    for _ in range(900):
        event = [event]
    with pytest.raises(UsageError, match="found a list"):
        parse_event(event, FILMS, RESULTS)


KEYS = (
    *("Records", "eventSource", "EventSource", "eventName", "s3", "bucket", "object", "key"),
    *("detail", "detail-type", "source", "specversion", "type", "data", "url", "name"),
    *("Event", "Message", "body", "Sns"),
)
WORDS = (
    *("aws:s3", "aws:sqs", "aws:sns", "aws.s3", "ObjectCreated:Put", "Object Created"),
    *("google.cloud.storage.object.v1.finalized", "Microsoft.Storage.BlobCreated", "{}", "a://["),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=30,
)


@given(JSON, st.sampled_from(["", FILMS, "/data/films"]), st.sampled_from(["", RESULTS]))
def test_any_json_is_a_request_or_a_one_line_error(event, images, output):
    line = ""
    try:
        errand = parse_event(event, images, output)
    except UsageError as error:
        line = str(error)
    assert line.isprintable() if line else not (errand.images and errand.ignored_reason)
