"""A run's five lines reach a real web server and a real mail server, and no log has a password."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict

import msgspec
import pytest
from tenacity import stop_after_attempt, wait_none

from batch_scorer.errors import MissingPackage, UsageError
from batch_scorer.jobs import notify
from batch_scorer.jobs.notify import (
    MAX_ATTEMPTS,
    Notification,
    check_addresses,
    make_notification,
    send_notification,
)
from batch_scorer.report.content.changes import describe_changes
from batch_scorer.report.content.report import build_report_facts
from batch_scorer.report.content.view import RunView
from batch_scorer.results.schema import RunChanges
from tests.batch_scorer.jobs.servers import dripping_server, mail_server, web_server
from tests.factories import make_manifest, make_models, make_rows, make_unscored

NOTIFICATION = Notification(
    title="Ward 7 & co",
    run_date="20261127-020000",
    found=1310,
    scored=1300,
    flagged=42,
    not_scored=10,
    since="20261126-020000",
    new=100,
    new_flagged=31,
    news="100 files are new since the night of 26 November: 31 of them are flagged.",
    likeness="By what was measured, the films look like those that the model learned from.",
    report="s3://results/latest/report.pdf",
)
LINES = [
    "Ward 7 & co: the run of 27 November is done.",
    "1,310 files found: 1,300 scored, 42 of them flagged; 10 not scored.",
    NOTIFICATION.news,
    "By what was measured, the films look like those that the model learned from.",
    "See s3://results/latest/report.pdf",
]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(notify._RETRYING, "wait", wait_none())


def test_a_webhook_gets_the_lines_as_text_and_every_number_under_its_name():
    with web_server(204) as (host, posted):
        assert send_notification([f"http://{host}/hook?token=s3cr3t"], NOTIFICATION) == 1
    path, headers, body = posted[0]
    assert path == "/hook?token=s3cr3t"
    assert headers["Content-Type"] == "application/json"
    assert body["text"].split("\n") == LINES
    assert (body["found"], body["scored"], body["flagged"], body["not_scored"]) == (
        *(1310, 1300, 42, 10),
    )
    assert (body["new"], body["new_flagged"], body["report"]) == (100, 31, NOTIFICATION.report)


def test_a_webhook_gets_only_the_notification_at_its_unchanged_address():
    path = "/a%2Fb/?sig=s%2Bcr%3D3t&verify=no&x=1&x=2"
    with web_server(200) as (host, posted):
        assert send_notification([f"http://{host}{path}#part"], NOTIFICATION) == 1
    assert posted[0][0] == path
    fields = asdict(NOTIFICATION)
    fields["night"] = fields.pop("run_date")
    assert posted[0][2] == {"text": NOTIFICATION.text, **fields}


def test_a_server_that_never_ends_its_response_times_out(monkeypatch, caplog):
    monkeypatch.setattr(notify, "ATTEMPT_S", 0.5)
    monkeypatch.setattr(notify._RETRYING, "stop", stop_after_attempt(1))
    with dripping_server() as host:
        assert send_notification([f"http://{host}/s3cr3t"], NOTIFICATION) == 0
    assert "(http) was not sent: it took over 0.5 seconds" in caplog.text
    assert "s3cr3t" not in caplog.text


def test_a_webhook_may_require_a_password(caplog):
    with web_server(200) as (host, posted):
        assert send_notification([f"http://me:s%40cr3t@{host}/"], NOTIFICATION) == 1
    assert posted[0][1]["Authorization"] == "Basic bWU6c0BjcjN0"
    assert "Authorization" not in posted[0][2]


def test_a_webhook_that_fails_briefly_is_retried():
    with web_server(503, 500, 200) as (host, posted):
        assert send_notification([f"http://{host}/hook"], NOTIFICATION) == 1
    assert len(posted) == 3


@pytest.mark.parametrize(("status", "why"), [(503, "HTTP 503"), (302, "HTTP 302")])
def test_a_webhook_that_keeps_failing_is_a_warning_without_its_address(caplog, status, why):
    with web_server(status) as (host, posted), web_server(200) as (other, reached):
        delivered = send_notification([f"http://{host}/s3cr3t", f"http://{other}/"], NOTIFICATION)
    assert delivered == 1  # the second one still gets it
    assert len(reached) == 1
    assert [path for path, _, _ in posted] == ["/s3cr3t"] * MAX_ATTEMPTS
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [f"The notification to address 1 of 2 (http) was not sent: {why}, 4 times."]
    assert "s3cr3t" not in caplog.text


def test_a_server_that_is_not_there_is_a_warning_too(caplog):
    with web_server(200) as (host, _):
        pass
    assert send_notification([f"http://s3cr3t@{host}/"], NOTIFICATION) == 0
    assert "(http) was not sent: Connection refused, 4 times." in caplog.text
    assert "s3cr3t" not in caplog.text


def test_a_mail_has_the_five_lines():
    with mail_server("250 OK") as (port, mails):
        address = (
            f"mailto://127.0.0.1:{port}?to=ward@example.org&from=cxr@example.org&mode=insecure"
        )
        assert send_notification([address], NOTIFICATION) == 1
    assert len(mails) == 1
    assert mails[0]["Subject"] == "Ward 7 & co: 42 of 1,300 X-rays flagged"
    assert "ward@example.org" in mails[0]["To"]
    text = mails[0].get_body(("plain",)).get_content()
    assert [line.strip() for line in text.splitlines() if line.strip()] == LINES


@pytest.mark.slow
def test_a_refused_mail_is_retried_then_a_warning(caplog):
    with mail_server("451 Try later", "250 OK") as (port, mails):
        address = f"mailto://me:s3cr3t@127.0.0.1:{port}?to=ward@example.org&from=cxr@example.org&mode=insecure"
        assert send_notification([address.replace("me:s3cr3t@", "")], NOTIFICATION) == 1
        assert len(mails) == 2
    assert send_notification([address], NOTIFICATION) == 0
    assert "address 1 of 1 (mailto) was not sent: Connection refused, 4 times." in caplog.text
    assert "s3cr3t" not in caplog.text


def test_apprise_posts_json_of_its_own():
    with web_server(200) as (host, posted):
        assert send_notification([f"json://{host}/hook"], NOTIFICATION) == 1
    assert posted[0][2]["message"].split("\n") == LINES
    assert posted[0][2]["title"] == NOTIFICATION.subject


def test_a_notification_has_the_counts_and_the_similarity_to_the_training_images():
    models = make_models("cnn")
    rows = [*make_rows(models, 30, 30), *make_unscored(3)]
    since = RunChanges(
        "20261126-020000", "2026-11-26T02:09:00+00:00", 50, new=7, changed=2, gone=1, flagged=4
    )
    manifest = make_manifest(rows, models, run_date="20261127-020000", changes=since)
    notification = make_notification(
        manifest, rows, "Ward\u202e7", "s3://key:s3cr3t@results/report.pdf"
    )
    assert notification.title == "Ward‹U+202E›7"
    assert (notification.found, notification.scored, notification.not_scored) == (63, 60, 3)
    assert (notification.since, notification.new, notification.new_flagged) == (
        "20261126-020000",
        9,
        4,
    )
    assert notification.report == "s3://results/report.pdf"
    assert notification.news == describe_changes(manifest)
    assert notification.likeness == build_report_facts(RunView(manifest, rows)).drift.sentences[0]
    manifest = make_manifest(rows, models, run_date="20261127-020000")
    first = make_notification(manifest, rows, "", "out")
    assert first.lines[2] == "All are new: this is the first run."
    assert (first.title, first.since, first.new, first.new_flagged) == (
        *("Chest X-rays", "", 63, first.flagged),
    )
    assert not {row.image for row in rows} & set(notification.text.split())


def test_a_batch_unlike_the_training_images_gets_a_warning():
    models = make_models("cnn")
    rows = [msgspec.structs.replace(row, brightness=5.0) for row in make_rows(models, 30, 30)]
    notification = make_notification(make_manifest(rows, models), rows, "", "out")
    assert notification.likeness.startswith("Warning: this batch looks unlike the films")


@pytest.mark.parametrize(
    "address",
    [
        *("s3cr3t", "", "nonsense://s3cr3t", "mailto://"),
        *(
            "https://",
            "http://host:s3cr3t/",
            "https://s3cr3t..example.org/",
            f"https://{'h' * 64}/",
        ),
        *("https://example.org/s3cr3t/für", "https://example.org/?s3cr3t=für"),
        "https://s3cr3t\udc80@example.org/",
    ],
)
def test_an_invalid_address_is_reported_before_the_run_starts(address):
    with pytest.raises(UsageError, match="as number 2 of --notify, found something else") as caught:
        check_addresses(["https://hook.example.org/", address])
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["https://hook.example.org/s3cr3t", "mailto://me:s3cr3t@example.org"]
)
def test_a_missing_apprise_is_reported_before_the_run_starts(monkeypatch, address):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(MissingPackage, match=r"pip install \"cxr-batch\[notify\]\"") as caught:
        check_addresses([address])
    assert "s3cr3t" not in str(caught.value)
