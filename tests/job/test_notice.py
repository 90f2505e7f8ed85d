"""A night's five lines reach a real web server and a real mail server, and no password a log."""

from __future__ import annotations

import email
import json
import logging
import sys
import threading
from contextlib import contextmanager
from email import policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from aiosmtpd.controller import Controller
from tenacity import wait_none

from batch_scorer.errors import MissingPackage, UsageError
from batch_scorer.job import notice as notices
from batch_scorer.job.notice import ATTEMPTS, Notice, announce, check_addresses
from tests.servers import free_port

NIGHT = Notice(
    title="Ward 7 & co",
    night="20261127-020000",
    found=1310,
    scored=1300,
    flagged=42,
    not_scored=10,
    likeness="By what was measured, the films look like those that the model learned from.",
    report="s3://results/latest/report.pdf",
    since="20261126-020000",
    new=100,
    new_flagged=31,
)
LINES = [
    "Ward 7 & co: the night 20261127-020000 is done.",
    "1,310 found: 1,300 scored, 42 of them flagged; 10 not scored.",
    "100 are new or changed since 20261126-020000: 31 of them flagged.",
    "By what was measured, the films look like those that the model learned from.",
    "Report: s3://results/latest/report.pdf",
]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(notices._RETRYING, "wait", wait_none())


@contextmanager
def web_server(*statuses):
    """A server that gives each answer in turn, the last for ever; what was posted to it."""
    posted = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, dict(self.headers), json.loads(body)))
            status = statuses[min(len(posted), len(statuses)) - 1]
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            posted.append((self.path, {}, None))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def mail_server(*answers):
    """A server that answers each mail in turn; the mails that it was given."""
    mails = []

    class Handler:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd's
            mails.append(email.message_from_bytes(envelope.content, policy=policy.default))
            return answers[min(len(mails), len(answers)) - 1]

    controller = Controller(Handler(), hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        yield controller.port, mails
    finally:
        controller.stop()


def test_a_webhook_gets_the_lines_as_text_and_every_number_by_its_name():
    with web_server(204) as (host, posted):
        assert announce([f"http://{host}/hook?token=s3cr3t"], NIGHT) == 1
    path, headers, body = posted[0]
    assert path == "/hook?token=s3cr3t"
    assert headers["Content-Type"] == "application/json"
    assert body["text"].split("\n") == LINES
    assert (body["found"], body["scored"], body["flagged"], body["not_scored"]) == (
        *(1310, 1300, 42, 10),
    )
    assert (body["new"], body["new_flagged"], body["report"]) == (100, 31, NIGHT.report)


def test_a_webhook_may_want_a_password(caplog):
    with web_server(200) as (host, posted):
        assert announce([f"http://me:s%40cr3t@{host}/"], NIGHT) == 1
    assert posted[0][1]["Authorization"] == "Basic bWU6c0BjcjN0"
    assert "Authorization" not in posted[0][2]


def test_a_webhook_that_stumbles_is_tried_again():
    with web_server(503, 500, 200) as (host, posted):
        assert announce([f"http://{host}/hook"], NIGHT) == 1
    assert len(posted) == 3


@pytest.mark.parametrize(("status", "why"), [(503, "HTTP 503"), (302, "HTTP 302")])
def test_a_webhook_that_stays_away_is_a_warning_without_its_address(caplog, status, why):
    with web_server(status) as (host, posted), web_server(200) as (other, reached):
        delivered = announce([f"http://{host}/s3cr3t", f"http://{other}/"], NIGHT)
    assert delivered == 1  # the second is told all the same
    assert len(reached) == 1
    assert [path for path, _, _ in posted] == ["/s3cr3t"] * ATTEMPTS
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [f"The notice to address 1 of 2 (http) was not sent: {why}, 4 times."]
    assert "s3cr3t" not in caplog.text


def test_a_server_that_is_not_there_is_a_warning_too(caplog):
    with web_server(200) as (host, _):
        pass
    assert announce([f"http://s3cr3t@{host}/"], NIGHT) == 0
    assert "(http) was not sent: Connection refused, 4 times." in caplog.text
    assert "s3cr3t" not in caplog.text


def test_a_mail_has_the_five_lines():
    with mail_server("250 OK") as (port, mails):
        address = (
            f"mailto://127.0.0.1:{port}?to=ward@example.org&from=cxr@example.org&mode=insecure"
        )
        assert announce([address], NIGHT) == 1
    assert len(mails) == 1
    assert mails[0]["Subject"] == "Ward 7 & co: 42 of 1,300 films flagged"
    assert "ward@example.org" in mails[0]["To"]
    text = mails[0].get_body(("plain",)).get_content()
    assert [line.strip() for line in text.splitlines() if line.strip()] == LINES


def test_a_mail_that_is_refused_is_tried_again_then_a_warning(caplog):
    with mail_server("451 Try later", "250 OK") as (port, mails):
        address = f"mailto://me:s3cr3t@127.0.0.1:{port}?to=ward@example.org&from=cxr@example.org&mode=insecure"
        assert announce([address.replace("me:s3cr3t@", "")], NIGHT) == 1
        assert len(mails) == 2
    assert announce([address], NIGHT) == 0
    assert "address 1 of 1 (mailto) was not sent: it was not taken, 4 times." in caplog.text
    assert "s3cr3t" not in caplog.text


def test_apprise_posts_json_of_its_own():
    with web_server(200) as (host, posted):
        assert announce([f"json://{host}/hook"], NIGHT) == 1
    assert posted[0][2]["message"].split("\n") == LINES
    assert posted[0][2]["title"] == NIGHT.subject


def test_a_first_night_has_no_night_before():
    first = Notice("X-rays", "20261127-020000", 3, 3, 1, 0, "Too few to tell.", "out/report.pdf")
    assert first.lines[2] == "All are new: there was no night before."
    assert len(first.lines) == 5


@pytest.mark.parametrize(
    "address", ["s3cr3t", "", "nonsense://s3cr3t", "https://", "http://host:s3cr3t/", "mailto://"]
)
def test_an_address_that_cannot_be_understood_is_said_before_the_night_begins(address):
    with pytest.raises(UsageError, match="found something else as number 2 of --notify") as caught:
        check_addresses(["https://hook.example.org/", address])
    assert "s3cr3t" not in str(caught.value)


def test_apprise_is_asked_for_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    check_addresses(["https://hook.example.org/s3cr3t"])
    with pytest.raises(MissingPackage, match=r"pip install \"cxr-batch\[notify\]\""):
        check_addresses(["mailto://me:s3cr3t@example.org"])
