"""Web servers: which hosts are asked, what is followed, and bodies that do not end."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from tenacity import wait_none

from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import NotAllowed, OutputError, SourceError, Unreadable, UsageError
from batch_scorer.results import store
from batch_scorer.storage import filesystem as storage
from batch_scorer.storage import web
from batch_scorer.storage.access import AccessPolicy
from batch_scorer.storage.output import open_output
from batch_scorer.storage.source import open_source, read_labels
from batch_scorer.storage.web import WebFileSystem
from batch_scorer.system.regular_file import FileTooLarge
from tests.images import make_film

PRIVATE = AccessPolicy(private_hosts=True)
SECRET = "s3cr3t"


class _Handler(BaseHTTPRequestHandler):
    """Films below /film, and answers of every bad kind."""

    def log_message(self, *_):
        """Say nothing."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.as_requested.append((self.command, self.path))
        place = urlsplit(self.path)
        name = place.path.split("/")[1].partition(".")[0]
        getattr(self, f"send_{name}", self.send_nothing)(place)

    def answer(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def send_film(self, place):
        seed = place.query.partition("=")[2]
        self.answer(make_film(seed=int(seed) if seed.isdecimal() else 0), ETag='"same"')

    def send_getonly(self, _):
        self.answer(b"", 403) if self.command == "HEAD" else self.answer(make_film())

    def send_forbidden(self, _):
        self.answer(b"", 403)

    def send_nothing(self, _):
        self.answer(b"", 404)

    def send_to(self, place):
        self.answer(b"", 302, Location=place.query)

    def send_labels(self, _):
        self.answer(b"image,label\nNORMAL/film_0.png,1\n")

    def send_list(self, _):
        self.answer(b"film?id=1\n/etc/passwd\n")

    def send_endless(self, _):
        self.drip(b"x" * 65536, 0)

    def send_drip(self, _):
        self.drip(b"x", 0.05)

    def drip(self, part, every_s):
        self.send_response(200)
        self.end_headers()
        if self.command == "GET":
            with suppress(OSError):
                while not self.server.ended.wait(every_s):
                    self.wfile.write(part)
                    self.wfile.flush()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(storage._RETRYING, "wait", wait_none())
    WebFileSystem.clear_instance_cache()
    found = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    found.as_requested, found.ended = [], threading.Event()
    found.daemon_threads = True
    thread = threading.Thread(target=found.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.ended.set()
    found.shutdown()
    thread.join()
    found.server_close()
    WebFileSystem.clear_instance_cache()


@pytest.fixture
def url(server):
    return f"http://127.0.0.1:{server.server_port}"


def read_listed(tmp_path, *lines, access=PRIVATE):
    """What reading each line of a list gives: bytes or an error, in the order of the keys."""
    (tmp_path / "list.txt").write_text("\n".join(lines))
    source = open_source(str(tmp_path / "list.txt"), access=access)
    found = []
    for ref in source.refs:
        try:
            found.append(source.read(ref))
        except (NotAllowed, Unreadable) as exc:
            found.append(exc)
    return found


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1.2.3", "0x7f.1", "0.0.0.0", "[::1]", "[::]"),
        *("[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
        *("user:word@127.0.0.1", "169.254.169.254", "10.0.0.7", "100.64.0.1", "224.0.0.1"),
    ],
)
@pytest.mark.parametrize("protocol", ["http", "https"])
def test_no_private_host_is_asked(server, tmp_path, host, protocol):
    (refused,) = read_listed(
        tmp_path, f"{protocol}://{host}:{server.server_port}/film", access=AccessPolicy()
    )
    assert isinstance(refused, NotAllowed)
    assert (refused.code, refused.status) == ("not_allowed", "rejected")
    assert "found a host of a private network. Allow such hosts with --allow-priv" in str(refused)
    assert server.as_requested == []


@pytest.mark.parametrize("host", ["2130706433", "017700000001", "127.1"])
def test_odd_spellings_of_an_address_lead_nowhere(server, tmp_path, host):
    for access in (AccessPolicy(), PRIVATE):
        (refused,) = read_listed(
            tmp_path, f"http://{host}:{server.server_port}/film", access=access
        )
        assert isinstance(refused, (NotAllowed, Unreadable))
    assert server.as_requested == []


def test_a_name_that_leads_to_a_private_host_is_refused_whenever_it_does(
    server, tmp_path, monkeypatch
):
    answers = ["93.184.216.34", "127.0.0.1"]  # a name server that changes its mind

    def look_up(host, port, *_, **__):
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    answers.pop(0)
    (refused,) = read_listed(
        tmp_path, f"http://films.example.org:{server.server_port}/film", access=AccessPolicy()
    )
    assert isinstance(refused, NotAllowed)
    assert server.as_requested == []


def test_a_source_and_labels_of_a_private_host_are_wrong_usage(url, folder):
    for place in (f"{url}/film", f"{url}/list.txt"):
        with pytest.raises(UsageError, match="--allow-private-hosts"):
            open_source(place)
        assert open_source(place, access=PRIVATE).refs
    with pytest.raises(UsageError, match="--allow-private-hosts"):
        read_labels(f"{url}/labels", open_source(str(folder)))
    source = open_source(str(folder), access=PRIVATE)
    assert read_labels(f"{url}/labels", source) == {"NORMAL/film_0.png": "PNEUMONIA"}


def test_a_film_is_read_and_one_that_is_not_there_is_a_row(url, tmp_path):
    film, forbidden, getonly, nothing = read_listed(
        tmp_path, f"{url}/film/x.png", f"{url}/forbidden", f"{url}/getonly", f"{url}/nothing"
    )
    assert film == getonly == make_film()
    assert "access is refused" in str(forbidden)
    assert "it does not exist" in str(nothing)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("http://127.0.0.1:1/film", " to http://127.0.0.1:1/film,"),
        ("https://example.org/film?token=s3cr3t", " to https://example.org/film,"),
        ("//user:s3cr3t@example.org/film", " to http://example.org/film,"),
        ("/film", "/film, which is not followed"),
        ("file:///etc/passwd", " to file:///etc/passwd,"),
        ("http://[", ", which is not followed"),
        ("", ", which is not followed"),
    ],
)
def test_an_address_that_leads_elsewhere_is_not_followed(server, url, tmp_path, target, shown):
    (refused,) = read_listed(tmp_path, f"{url}/to?{target}")
    assert isinstance(refused, Unreadable)
    assert shown in str(refused)
    assert "Give the target address instead." in str(refused)
    assert SECRET not in str(refused)
    assert {path.partition("?")[0] for _, path in server.as_requested} == {"/to"}


def test_a_source_that_leads_elsewhere_is_one_error(url):
    with pytest.raises(SourceError, match="Expected a file, found a redirect"):
        open_source(f"{url}/to?/film", access=PRIVATE)


def test_an_endless_body_ends_at_the_limit(url, server):
    filesystem, root = storage.open_filesystem(f"{url}/endless", PRIVATE)
    with pytest.raises(FileTooLarge, match="more than 1 MB"):
        storage.read_file(filesystem, root, 1_000_000)


def test_a_dripping_body_ends_in_time_and_is_not_asked_for_again(
    url, server, tmp_path, monkeypatch
):
    monkeypatch.setattr(web, "TOTAL_TIMEOUT_S", 0.5)
    (refused,) = read_listed(tmp_path, f"{url}/drip")
    assert "it did not end within 0.5 seconds" in str(refused)
    assert [command for command, _ in server.as_requested].count("GET") == 1


def test_proxies_of_the_environment_are_not_asked(url, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert read_listed(tmp_path, f"{url}/film") == [make_film()]


def test_two_addresses_that_differ_only_in_their_query_are_two_rows_without_a_stamp(
    url, tiny_model, tmp_path
):
    lines = [f"{url}/film?objectUID=1", f"{url}/film?objectUID=2", f"{url}/film/x.png"]

    def score():
        (tmp_path / "list.txt").write_text("\n".join(lines))
        job = ScoreJob(str(tmp_path / "list.txt"), str(tmp_path / "out"), (str(tiny_model),))
        return run_score_job(ScoreJob(**{**vars(job), "access": PRIVATE}))

    assert score().scored == 3
    first = store.read_run(open_output(tmp_path / "out")).rows
    assert [row.image for row in first] == [f"{url}/film", f"{url}/film (2)", f"{url}/film/x.png"]
    assert [bool(row.stamp) for row in first] == [False, False, True]
    lines[:2] = reversed(lines[:2])
    assert score().reused == 1
    second = store.read_run(open_output(tmp_path / "out")).rows
    assert first[0].sha256 == second[1].sha256 != first[1].sha256 == second[0].sha256
    del lines[0]
    assert score().reused == 1
    third = store.read_run(open_output(tmp_path / "out")).rows
    assert third[0].sha256 == second[1].sha256


def test_a_single_film_with_a_query_has_neither_its_secret_nor_a_stamp(url):
    source = open_source(f"{url}/film/x.png?sig=1/2{SECRET}", access=PRIVATE)
    (ref,) = source.refs
    assert (ref.key, ref.stamp, source.url) == ("x.png", "", f"{url}/film/x.png")
    assert SECRET not in repr(source)
    (bare,) = open_source(f"{url}/film/x.png", access=PRIVATE).refs
    assert bare.stamp


def test_a_list_on_a_web_server_names_what_lies_beside_it_and_nothing_of_this_machine(url):
    source = open_source(f"{url}/list.txt?token={SECRET}", access=PRIVATE)
    passwd, film = source.refs
    assert (passwd.key, film.key) == ("/etc/passwd", "film")
    with pytest.raises(NotAllowed, match="--list-root"):
        source.read(passwd)
    assert source.read(film) == make_film(seed=1)
    assert SECRET not in repr(source)


@pytest.mark.slow
def test_no_secret_of_a_url_leaves_the_program(url, cxr, tiny_model, tmp_path, server):
    (tmp_path / "list.txt").write_text(
        "\n".join(
            [
                f"{url}/film?jwt={SECRET}",
                f"{url}/film?q=x {SECRET}",
                f"{url}/forbidden?code={SECRET}",
                f"{url}/nothing#{SECRET}",
                f"{url}/to?//{SECRET}@example.org",
                url.replace("//", f"//{SECRET}@") + "/film",
                url.replace("//", f"//user:{SECRET}@") + "/nothing",
                f"http://user:{SECRET}/x@127.0.0.1/film",
                f"http://user:x@{SECRET}@127.0.0.1:port/film",
                f"s3://key:{SECRET}/x@bucket/film.png",
                f"{url}:{SECRET}@[/film",
            ]
        )
    )
    told = []
    for options in (["--debug", "--no-report"], ["--log-format=json", "--format=pdf,html,slides"]):
        run = cxr(
            *("score", tmp_path / "list.txt", "-o", tmp_path / "out", "--model", tiny_model),
            *("--allow-private-hosts", *options),
            AWS_EC2_METADATA_DISABLED="true",
        )
        assert run.returncode == 3, run.stderr
        told += [run.stdout, run.stderr]
    for single in (f"{url}/forbidden?code={SECRET}", f"{url}/to?//{SECRET}@h"):
        for options in (["--debug"], ["--log-format=json", "--debug"]):
            run = cxr("score", single, "-o", "no", "--allow-private-hosts", *options)
            assert run.returncode == 1
            told += [run.stdout, run.stderr]
    told += [
        path.read_bytes().decode("latin-1")
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    ]
    assert len(told) > 16
    assert not [text for text in told if SECRET in text]
    rows = json.loads((tmp_path / "out" / store.RUN_FILE).read_text())
    assert rows["found"] == 11


def test_a_web_server_is_never_written(url, server):
    output = open_output(f"{url}/out")
    with pytest.raises(OutputError, match="web servers are read-only"):
        output.prepare()
    assert {command for command, _ in server.as_requested} <= {"GET", "HEAD"}
