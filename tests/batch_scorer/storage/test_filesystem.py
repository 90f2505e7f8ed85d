"""Calls that are tried again, errors in plain words, and secrets that never leave."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from types import ModuleType
from unittest.mock import Mock

import fsspec
import pytest
from tenacity import wait_none

from batch_scorer.errors import (
    OutputError,
    ProtocolRefused,
    SourceError,
    TransientError,
    Unreadable,
    UsageError,
)
from batch_scorer.storage import filesystem, retry
from batch_scorer.storage import source as source_module
from batch_scorer.storage.listing import list_files
from batch_scorer.storage.output import open_output
from batch_scorer.storage.source import open_source, read_labels
from batch_scorer.system.redact import redact_secrets


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(filesystem._RETRYING, "wait", wait_none())


def failing(times, error, answer=b"whole"):
    """A call that fails so many times before it answers."""
    left = [error] * times

    def function(*_args, **_options):
        if left:
            raise left.pop()
        return answer

    return function


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError(),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    ],
)
def test_what_may_pass_is_tried_again_and_counted(error):
    before = filesystem.count_retries()
    assert filesystem.call_with_retries(failing(3, error)) == b"whole"
    assert filesystem.count_retries() - before == 3


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ENOSPC, "No space left on device"),
        IsADirectoryError(errno.EISDIR, "Is a directory"),
    ],
)
def test_what_does_not_pass_is_raised_at_once(error):
    before = filesystem.count_retries()
    with pytest.raises(type(error), match=error.strerror):
        filesystem.call_with_retries(failing(1, error))
    assert filesystem.count_retries() == before


def test_an_end_is_made_of_trying():
    before = filesystem.count_retries()
    with pytest.raises(TimeoutError):
        filesystem.call_with_retries(failing(filesystem.MAX_ATTEMPTS, TimeoutError()))
    assert filesystem.count_retries() - before == filesystem.MAX_ATTEMPTS - 1


def test_retries_of_many_threads_are_all_counted():
    before = filesystem.count_retries()
    threads = [
        threading.Thread(target=filesystem.call_with_retries, args=(failing(5, TimeoutError()),))
        for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert filesystem.count_retries() - before == 200


def test_a_film_shorter_than_the_listing_says_is_read_again(folder, monkeypatch):
    source = open_source(str(folder))
    whole = (folder / source.refs[0].key).read_bytes()
    answers = [whole[:100], b"", whole]
    monkeypatch.setattr(source_module, "read_file", lambda *_: answers.pop(0))
    before = filesystem.count_retries()
    assert source.read(source.refs[0]) == whole
    assert filesystem.count_retries() - before == 2


def test_a_film_that_never_comes_whole_is_a_row(folder, monkeypatch):
    source = open_source(str(folder))
    monkeypatch.setattr(source_module, "read_file", lambda *_: b"half")
    with pytest.raises(
        Unreadable, match=r"no complete response arrived \(4 of \d+ bytes\), 7 times"
    ):
        source.read(source.refs[0])


def test_a_film_that_was_replaced_by_a_shorter_one_is_read_as_it_is_now(folder):
    source = open_source(str(folder))
    (folder / source.refs[0].key).write_bytes(b"shorter")
    before = filesystem.count_retries()
    assert source.read(source.refs[0]) == b"shorter"
    assert filesystem.count_retries() == before


def test_an_output_that_does_not_answer_is_worth_another_try(monkeypatch):
    output = open_output("memory://out")
    reset = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    monkeypatch.setattr(output.filesystem, "pipe_file", failing(2, reset))
    output.write("run.json", b"{}")
    monkeypatch.setattr(output.filesystem, "pipe_file", failing(99, reset))
    with pytest.raises(TransientError, match=r"run.json in memory://out cannot be written: no co"):
        output.write("run.json", b"{}")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(output.filesystem, "pipe_file", failing(1, full))
    with pytest.raises(OutputError, match=r"cannot be written: No space left .* Free some space"):
        output.write("run.json", b"{}")


def test_a_listing_that_does_not_answer_is_worth_another_try(folder, monkeypatch):
    stale = OSError(errno.ESTALE, "Stale file handle")
    scandir, left = os.scandir, [stale] * 2

    def at_last(place):
        if left:
            raise left.pop()
        return scandir(place)

    monkeypatch.setattr(os, "scandir", at_last)
    assert len(open_source(str(folder)).refs) == 6
    monkeypatch.setattr(os, "scandir", failing(99, stale))
    with pytest.raises(
        TransientError, match=r"cannot be listed: no complete response arrived \(Stale fil"
    ):
        open_source(str(folder))


class ClientError(Exception):
    """As botocore's: the answer of the server as a dict."""

    def __init__(self, status, code):
        super().__init__(f"An error occurred ({code})")
        self.response = {
            "Error": {"Code": code},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }


class HttpError(Exception):
    """As gcsfs's and Azure's: the status as a number or a text."""

    def __init__(self, status_code):
        super().__init__("HTTP error")
        self.status_code = status_code


@pytest.mark.parametrize(
    ("error", "transient", "words"),
    [
        (ClientError(503, "SlowDown"), True, "no complete response arrived"),
        (ClientError(400, "RequestTimeout"), True, "no complete response arrived"),
        (ClientError(403, "AccessDenied"), False, "access is refused. Check the acc"),
        (ClientError(403, "SignatureDoesNotMatch"), False, "access is refused"),
        (ClientError(400, "ExpiredToken"), False, "access is refused"),
        (ClientError(404, "NoSuchBucket"), False, "the bucket does not exist. Check its name"),
        (ClientError(301, "PermanentRedirect"), False, "another region.*AWS_DEFAULT_REGION"),
        (ClientError(400, "AuthorizationHeaderMalformed"), False, "another region"),
        (HttpError(429), True, "no complete response arrived"),
        (HttpError("500"), True, "no complete response arrived"),
        (HttpError(404), False, "it does not exist"),
        (HttpError(401), False, "access is refused"),
        (OSError("Forbidden: b/bucket/o"), False, "access is refused"),
        (
            ValueError("Anonymous caller does not have access"),
            False,
            "credentials are missing.*AWS_PROFILE",
        ),
    ],
)
def test_errors_of_clients_in_plain_words(error, transient, words):
    assert retry.is_transient(error) is transient
    told = retry.translate_error(error, "s3://bucket/films", SourceError, "listed")
    assert isinstance(told, TransientError if transient else SourceError)
    text = str(told)
    assert text.startswith("s3://bucket/films cannot be listed: ")
    assert "\n" not in text
    assert re.search(words, text)


@pytest.mark.parametrize(
    ("status", "transient"), [(503, True), (429, True), (403, False), (400, False)]
)
def test_the_server_s_answer_decides_where_a_client_only_says_input_output_error(status, transient):
    wrapped = OSError(errno.EIO, "wrapped")
    wrapped.__cause__ = ClientError(status, "Unheard")
    assert retry.is_transient(wrapped) is transient


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa55@host/a.png", "https://host/a.png"),
        ("https://h/a.png?sv=2&sig=abc%2Fd&se=3", "https://h/a.png"),
        (
            "x?X-Amz-Credential=A/b&X-Amz-Signature=f00",
            "x?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("AccountName=me;AccountKey=abc==;End=1", "AccountName=me;AccountKey=***;End=1"),
        (
            "abfs://films@account.dfs.core.windows.net/a",
            "abfs://films@account.dfs.core.windows.net/a",
        ),
        ("/data/monkey=3/film key=4.png", "/data/monkey=3/film key=4.png"),
        (
            "s3://bucket/2026-11-24T10:30:00@ward/a.png",
            "s3://bucket/2026-11-24T10:30:00@ward/a.png",
        ),
    ],
)
def test_secrets_in_urls_are_not_shown_and_names_stay(text, shown):
    assert redact_secrets(text) == shown


def test_a_place_that_only_marks_a_folder_is_no_film():
    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/marked/a.png", b"film")
    source = open_source("memory://marked")
    assert [ref.key for ref in source.refs] == ["a.png"]
    assert source.readers == filesystem.MAX_REMOTE_READS
    bucket.rm("/marked", recursive=True)


def test_reads_from_disk_take_no_more_threads_than_cores(folder):
    assert open_source(str(folder)).readers == 0


def test_the_stamp_changes_with_the_file_even_where_size_and_date_stay(folder):
    path = folder / "NORMAL" / "film_0.png"
    before = {ref.key: ref.stamp for ref in open_source(str(folder)).refs}
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    data = path.read_bytes()
    path.write_bytes(data[::-1])
    os.utime(path, ns=times)
    after = {ref.key: ref.stamp for ref in open_source(str(folder)).refs}
    changed = [key for key in before if before[key] != after[key]]
    assert changed == ["NORMAL/film_0.png"]


@pytest.mark.parametrize(
    "url",
    [
        *("reference://x", "simplecache::s3://b/k", "file:///x::zip://y", "zip://a::file:///b"),
        *("sftp://h/x", "ftp://h/x", "github://a:b@c/d", "nonsense://films", "data://x", "://x"),
    ],
)
def test_no_other_protocol_and_no_chain_is_opened_whatever_it_is_for(url, folder, tmp_path):
    hint = r"that begins with file://, http://, https://, s3://, gs://, az:// or abfs://"
    source = open_source(str(folder))
    if not url.startswith("file"):
        for use in (open_source, open_output, lambda place: read_labels(place, source)):
            with pytest.raises(ProtocolRefused, match=hint) as error:
                use(url)
            assert error.value.exit_code == 2
    else:  # a path with colons, of which no part is opened for itself
        with pytest.raises(SourceError, match="found nothing there"):
            open_source(url)


def test_a_path_with_two_colons_is_a_path(folder, monkeypatch):
    (folder / "zip::x.png").write_bytes(b"film")
    monkeypatch.chdir(folder)
    source = open_source("zip::x.png")
    assert source.read(source.refs[0]) == b"film"


def test_the_letters_of_a_protocol_may_be_large():
    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/Large/a.png", b"film")
    assert [ref.key for ref in open_source("MEMORY://Large").refs] == ["a.png"]
    bucket.rm("/Large", recursive=True)


def test_keys_that_differ_only_in_slashes_are_two_films():
    found = {"/slashes/x.png": {"size": 1, "type": "file"}}
    found["/slashes//x.png"] = {"size": 2, "type": "file"}
    index = list_files(
        Mock(protocol="memory", find=lambda *_, **__: found),
        "/slashes",
        "/slashes",
        "",
        single=False,
    )
    assert set(index) == {"x.png", "/x.png"}
    assert index["/x.png"].path == "/slashes//x.png"


@pytest.mark.parametrize("url", ["s3://", "s3:///", "gs://", "az:///"])
def test_a_bucket_has_a_name(url):
    with pytest.raises(UsageError, match=f"the name of a bucket, found {url}"):
        open_source(url)


def test_an_error_of_a_url_with_something_to_hide_is_told_without_the_client_s_words():
    exc = OSError("Cannot connect to host user:12")
    told = retry.translate_error(exc, "http://user:12/34@host/x", SourceError, "listed")
    assert told.sentence == "http://host/x cannot be listed: OSError."
    told = retry.translate_error(exc, "http://host/x", SourceError, "listed")
    assert told.sentence == "http://host/x cannot be listed: Cannot connect to host user:12."


def test_the_classes_of_a_module_that_is_only_half_imported_are_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", ModuleType("aiohttp"))
    assert set(retry.storage_errors()) >= {OSError, ValueError}
