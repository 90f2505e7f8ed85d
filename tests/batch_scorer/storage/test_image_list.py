"""Lists of films: what their rows are called, what is a mistake, and what only a row."""

from __future__ import annotations

import logging
import os
import threading
from unittest.mock import Mock

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from tenacity import wait_none

from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import (
    ImageError,
    NotAllowed,
    SourceError,
    TransientError,
    Unreadable,
)
from batch_scorer.results import store
from batch_scorer.storage import filesystem as storage
from batch_scorer.storage.access import AccessPolicy
from batch_scorer.storage.image_list import parse_image_list
from batch_scorer.storage.outages import OUTAGE_IMAGES
from batch_scorer.storage.output import open_output
from batch_scorer.storage.source import open_source, read_labels
from tests.images import make_film
from tests.servers import without_credentials


def keys_of(source):
    return [ref.key for ref in source.refs]


def test_a_list_in_a_folder_names_films_as_the_folder_does(folder):
    listing = folder / "list.txt"
    names = ["PNEUMONIA/film_3.png", "NORMAL/film_0.png"]
    listing.write_text("# two of six\n\n" + "\n".join(names) + "\n")
    source = open_source(str(listing))
    assert keys_of(source) == sorted(names)
    whole = {ref.key: ref for ref in open_source(str(folder)).refs}
    for ref in source.refs:
        assert (ref.stamp, ref.size_bytes) == (whole[ref.key].stamp, whole[ref.key].size_bytes)
        assert source.read(ref) == (folder / ref.key).read_bytes()
    assert read_labels("folders", source) == {name: name.split("/")[0] for name in names}
    assert source.local
    assert (source.listed, source.hidden) == (2, 0)
    assert keys_of(open_source(str(listing), limit=1)) == ["NORMAL/film_0.png"]


def test_films_elsewhere_are_called_by_their_whole_path_or_url(folder, tmp_path):
    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/listed/x.png", make_film())
    absolute = folder / "NORMAL" / "film_1.png"
    (tmp_path / "lists").mkdir()
    listing = tmp_path / "lists" / "night.txt"
    listing.write_text(f"{absolute}\nmemory://listed/x.png\n../xrays/NORMAL/film_2.png\n")
    source = open_source(str(listing), access=AccessPolicy((str(folder),)))
    assert keys_of(source) == sorted(
        [str(absolute), "memory://listed/x.png", str(folder / "NORMAL" / "film_2.png")]
    )
    assert all(source.read(ref) for ref in source.refs)
    assert not source.local
    bucket.rm("/listed", recursive=True)


def test_a_list_in_a_bucket_counts_from_its_own_folder():
    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/ward/films/x.png", make_film())
    bucket.pipe_file("/ward/list.CSV", b"image,label\nfilms/x.png,pneumonia\n")
    source = open_source("memory://ward/list.CSV")
    assert [(ref.key, ref.path) for ref in source.refs] == [
        ("films/x.png", "memory://ward/films/x.png")
    ]
    assert source.read(source.refs[0]) == make_film()
    assert read_labels("folders", source) == {"films/x.png": "PNEUMONIA"}
    bucket.rm("/ward", recursive=True)


def test_labels_of_a_list_go_before_those_of_folders(folder):
    listing = folder / "list.csv"
    listing.write_text("image,label\nNORMAL/film_0.png,1\nNORMAL/film_1.png,\n")
    source = open_source(str(listing))
    assert read_labels("folders", source) == {
        "NORMAL/film_0.png": "PNEUMONIA",
        "NORMAL/film_1.png": "NORMAL",
    }
    assert read_labels("none", source) == {}


def test_a_film_named_twice_has_one_row_and_a_line_says_so(folder, caplog):
    listing = folder / "list.txt"
    listing.write_text("NORMAL/film_0.png\n./NORMAL/film_0.png\nNORMAL/film_1.png\n")
    with caplog.at_level(logging.WARNING):
        source = open_source(str(listing))
    assert keys_of(source) == ["NORMAL/film_0.png", "NORMAL/film_1.png"]
    assert "1 entries of the list repeat an image" in caplog.text


def test_a_listed_film_that_is_not_there_is_a_row(folder, tiny_model, tmp_path):
    listing = folder / "list.txt"
    listing.write_text("NORMAL/film_0.png\nNORMAL/gone.png\nNORMAL\nzero\0byte.png\n")
    manifest = run_score_job(ScoreJob(str(listing), str(folder / "out"), (str(tiny_model),)))
    assert (manifest.found, manifest.scored, manifest.failed) == (4, 1, 3)
    rows = {row.image: row for row in store.read_run(open_output(folder / "out")).rows}
    assert rows["NORMAL/gone.png"].detail == "The file cannot be read: No such file or directory."
    assert "found a folder" in rows["NORMAL"].detail
    assert rows["zero\0byte.png"].status == "failed"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("list.txt", b"# nothing\n\n", "Expected images in the list .*, found none. A list is"),
        ("list.csv", b"image\n", "Expected images in the list"),
        ("list.csv", b"film\nx.png\n", r"Expected the column image in .*, found \['film'\]"),
        ("list.csv", b"image,image\nx.png,y.png\n", r"Expected one column image in .*, found 2"),
        ("list.csv", b"label,image,label\n1,x.png,0\n", r"one column label in .*, found 2"),
        ("list.txt", b"\x89PNG\r\n\xff", "Expected a list .* in UTF-8 .*: .* A list is UTF-8 text"),
    ],
)
def test_a_list_that_is_not_right_says_where(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / name))


def test_a_text_file_among_films_is_a_file_like_any_other(folder):
    (folder / "list.txt").write_text("NORMAL/film_0.png\n")
    source = open_source(str(folder))
    assert "list.txt" in keys_of(source)
    assert len(source.refs) == 7


def test_a_film_that_goes_after_it_was_listed_is_a_row(folder):
    listing = folder / "list.txt"
    listing.write_text("NORMAL/film_0.png\n")
    source = open_source(str(listing))
    (folder / "NORMAL" / "film_0.png").unlink()
    with pytest.raises(Unreadable, match="No such file"):
        source.read(source.refs[0])


OUTSIDE = (
    *("/etc/passwd", "//etc/passwd", "/dev/zero", "/proc/kmsg", "/", "..", "../outside.png"),
    *("NORMAL/../../outside.png", "link.png", "folder/outside.png", "file:///etc/passwd"),
    *("File:///etc/passwd", "local:///etc/passwd", "file:///"),
)
REFUSED = (
    *("reference://f.png::file:///etc/passwd", "simplecache::s3://b/k", "zip://a::/etc/passwd"),
    *("filecache::file:///etc/passwd", "dir:///etc", "generic:///etc/passwd", "asynclocal:///x"),
    *("async_wrapper://x", "data://x", "ftp://h/x", "sftp://h/x", "ssh://h/x", "smb://h/x"),
    *("github://a:b@c/d", "git://x", "hf://x/y", "hdfs://x", "webhdfs://h/x", "jupyter://x"),
    *("dask://x", "dbfs://x", "box://x", "oci://b", "tar://x", "libarchive://x", "root://x"),
    *("nonsense://x", "://x", "a b://x", "/data/http://127.0.0.1/x", "http ://127.0.0.1/x"),
)
PRIVATE = ("http://127.0.0.1:1/x", "https://[::1]:1/x", "HTTP://0x7f.1:1/x", "http://localhost:1")
BAD = (
    *("http://", "http:///x", "http://[", "https://:443/", "http://u:p@/", "http://h:port/x"),
    *(
        "http://h:99999/x",
        "http://2130706433:1/x",
        "http://127.1:1/x",
        "http://\u2100\u2139/x",
        "http://.../",
    ),
    *("s3://", "s3:///", "gs://", "az://", "abfs://", "az://c/b", "abfss://a/x", "s3://B_A D/k"),
    *(
        "s3://b",
        "s3://key:sec/ret@bucket/x",
        "memory://nothing",
        "memory://",
        "a/" * 3000,
        "a" * 300,
    ),
    *(
        "http://h.invalid:port/" + "a" * 100_000,
        "NORMAL",
        "loop",
        "fifo",
        "x::y",
        "::",
        "~",
        "~root",
    ),
    *(
        "*",
        "?",
        "%00",
        "C:\\x.png",
        "\\\\h\\x",
        "data:image/png;base64,AA",
        "good.png?x",
        "good.png#x",
    ),
    *("zero\0byte", "\x1b[31mred", "\u202egnp", "a\x0cb.png", "a\u2028b.png", "http://\0/x"),
)


@pytest.fixture
def lines(folder, tmp_path, monkeypatch):
    """Write a list beside films and things that are none; give what each of its lines comes to."""
    monkeypatch.setattr(storage._RETRYING, "wait", wait_none())
    for name in os.environ.keys() - without_credentials().keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (folder / "good.png").write_bytes(make_film())
    (tmp_path / "outside.png").write_bytes(make_film())
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")

    def read(data, name="list.txt", access=None):
        (folder / name).write_bytes(data)
        source = open_source(str(folder / name), access=access)
        found = {}
        for ref in source.refs:
            try:
                found[ref.key] = source.read(ref)
            except ImageError as exc:
                found[ref.key] = exc
        return found

    return read


@pytest.mark.parametrize("line", [*OUTSIDE, *REFUSED, *PRIVATE, *BAD])
def test_one_bad_line_is_one_row(lines, line):
    found = lines(f"good.png\n{line}\nNORMAL/film_0.png\n".encode())
    assert len(found) == 3
    assert isinstance(found.pop("good.png"), bytes)
    assert isinstance(found.pop("NORMAL/film_0.png"), bytes)
    ((key, error),) = found.items()
    refused = line in {*OUTSIDE, *REFUSED, *PRIVATE}
    assert isinstance(error, NotAllowed if refused else Unreadable), error
    assert len(key) <= 1024
    assert "sec" not in key + str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 600


def test_all_bad_lines_together_are_as_many_rows_and_the_run_goes_on(lines, folder, tiny_model):
    bad = [*OUTSIDE, *REFUSED, *PRIVATE, *BAD]
    data = (
        "\n".join(["good.png", *bad, *bad]).encode() + b"\n\xff\xfe.png\nhttp://\xff/\n\xed\xa0\x80"
    )
    found = lines(data)
    same = {"//etc/passwd": "/etc/passwd"}  # two names of one place
    assert len(found) == len({same.get(line, line) for line in bad}) + 4
    job = ScoreJob(str(folder / "list.txt"), str(folder.parent / "out"), (str(tiny_model),))
    manifest = run_score_job(job)
    assert (manifest.found, manifest.scored) == (len(found), 1)
    assert manifest.reasons["not_allowed"] == len(OUTSIDE) + len(REFUSED) + len(PRIVATE) - 1
    assert set(manifest.reasons) == {"not_allowed", "unreadable"}


def test_what_is_not_installed_is_a_row(lines, monkeypatch):
    known = fsspec.get_filesystem_class

    def without_s3(protocol):
        if protocol == "s3":
            raise ImportError("Install s3fs to access S3")
        return known(protocol)

    monkeypatch.setattr(fsspec, "get_filesystem_class", without_s3)
    found = lines(b"good.png\ns3://bucket/film.png\n")
    assert isinstance(found["good.png"], bytes)
    assert 'pip install "cxr-batch[s3]"' in str(found["s3://bucket/film.png"])


def test_a_name_that_is_no_utf_8_is_read_where_it_is_a_name_of_the_disk(lines, folder):
    name = b"M\xfcller.png"
    (folder / os.fsdecode(name)).write_bytes(make_film(seed=7))
    found = lines(b"good.png\n" + name + b"\nNORMAL/film_0.png")
    assert found["M\\udcfcller.png"] == make_film(seed=7)
    assert len(found) == 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_list_in_another_encoding_is_one_error(lines, encoding):
    with pytest.raises(SourceError, match="Expected a list of images in UTF-8"):
        lines("good.png\nNORMAL/film_0.png\n".encode(encoding))


def test_a_root_that_is_given_allows_what_lies_below_it(lines, tmp_path):
    access = AccessPolicy((str(tmp_path),))
    found = lines(b"../outside.png\nlink.png\nfolder/outside.png\n/etc/passwd", access=access)
    refused = found.pop("/etc/passwd")
    assert isinstance(refused, NotAllowed)
    assert list(found.values()) == [make_film()] * 3


def test_a_list_in_a_bucket_names_films_of_this_machine_only_below_given_roots(folder):
    bucket = fsspec.filesystem("memory")
    film = folder / "NORMAL" / "film_0.png"
    bucket.pipe_file("/rooted/list.txt", f"{film}\n/etc/passwd\n".encode())
    source = open_source("memory://rooted/list.txt")
    for ref in source.refs:
        with pytest.raises(NotAllowed):
            source.read(ref)
    source = open_source("memory://rooted/list.txt", access=AccessPolicy((str(folder),)))
    refs = {ref.key: ref for ref in source.refs}
    assert source.read(refs[str(film)]) == film.read_bytes()
    with pytest.raises(NotAllowed):
        source.read(refs["/etc/passwd"])
    bucket.rm("/rooted", recursive=True)


def test_a_link_that_is_changed_after_it_was_listed_leads_nowhere_else(folder, tmp_path):
    listing, link = folder / "list.txt", folder / "link.png"
    link.symlink_to("NORMAL/film_0.png")
    listing.write_text("link.png\n")
    source = open_source(str(listing))
    assert source.read(source.refs[0])
    link.unlink()
    link.symlink_to("/etc/passwd")
    with pytest.raises(NotAllowed):
        source.read(source.refs[0])


def test_the_options_of_the_command_line_reach_the_list(cxr, folder, tiny_model, tmp_path):
    (tmp_path / "lists").mkdir()
    film = folder / "NORMAL" / "film_0.png"
    (tmp_path / "lists" / "list.txt").write_text(f"{film}\n")
    score = ("score", "lists/list.txt", "--model", tiny_model, "--no-report", "-o")
    refused = cxr(*score, "refused")
    assert refused.returncode == 3
    assert "1 found = 0 scored + 1 rejected + 0 failed (1 not_allowed)" in refused.stdout
    assert cxr(*score, "allowed", "--list-root", folder).returncode == 0
    assert cxr(*score, "set", CXR_SCORE_LIST_ROOT=str(folder)).returncode == 0
    job = ("job", "run", "lists/list.txt", "--model", tiny_model, "--no-report", "-o", "nights")
    night = cxr(*job, CXR_JOB_LIST_ROOT=str(folder))
    assert "1 found = 1 scored" in night.stdout, night.stderr
    assert cxr(*score, "wrong", "--list-root", "nowhere").returncode == 2


def test_urls_that_differ_only_in_what_is_not_shown_are_numbered_in_the_order_of_the_list():
    data = "\n".join(
        [
            *(
                "http://pacs/wado?objectUID=2",
                "http://pacs/wado?objectUID=1",
                "http://pacs/wado (2)",
            ),
            *("http://a:b@pacs/wado", "http://pacs/wado?objectUID=2", "http://pacs/other?x"),
            *("http://pacs/plain", "s3://bucket/a#1", "s3://bucket/a#2", "a?1.png", "a?2.png"),
        ]
    )
    films = parse_image_list(data.encode(), "/lists/list.txt")
    assert films.locations == {
        "http://pacs/wado": "http://pacs/wado?objectUID=2",
        "http://pacs/wado (2)": "http://pacs/wado?objectUID=1",
        "http://pacs/wado (2) (2)": "http://pacs/wado (2)",
        "http://pacs/wado (3)": "http://a:b@pacs/wado",
        "http://pacs/other": "http://pacs/other?x",
        "http://pacs/plain": "http://pacs/plain",
        "s3://bucket/a": "s3://bucket/a#1",
        "s3://bucket/a (2)": "s3://bucket/a#2",
        "a?1.png": "/lists/a?1.png",
        "a?2.png": "/lists/a?2.png",
    }
    assert films.ambiguous == films.locations.keys() - {"http://pacs/plain", "a?1.png", "a?2.png"}
    assert "objectUID" not in repr(films)


def test_a_long_list_of_one_address_is_named_in_no_long_time():
    data = "\n".join(f"http://pacs/wado?objectUID={number}" for number in range(50_000))
    assert len(parse_image_list(data.encode(), "/list.txt").locations) == 50_000


def test_a_label_that_cannot_be_used_costs_its_image_no_row(lines, folder, caplog):
    table = (
        "image,label\nNORMAL/film_0.png,maybe\nNORMAL/film_1.png,1\nNORMAL/film_1.png,0\n"
        "NORMAL/film_2.png,1\ngood.png\nPNEUMONIA/film_3.png,\n"
    )
    with caplog.at_level(logging.WARNING):
        found = lines(table.encode(), "list.csv")
    assert all(isinstance(data, bytes) for data in found.values())
    assert len(found) == 5
    source = open_source(str(folder / "list.csv"))
    assert read_labels("folders", source) == {
        "NORMAL/film_2.png": "PNEUMONIA",
        "PNEUMONIA/film_3.png": "PNEUMONIA",
    }
    assert "2 labels of the list are not NORMAL, PNEUMONIA, 0 or 1, or contradict" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        *('"', '"good.png', '"a"b.png,1', '"a,1\n"b,0', "x" * 200_000, '"' + "y" * 200_000 + '"'),
        '"a.png",1\n"two\nlines.png",0',
    ],
)
def test_a_line_that_is_no_csv_swallows_no_other(lines, line):
    data = f"image,label\nNORMAL/film_0.png,0\n{line}\ngood.png,1\nNORMAL/film_1.png,0\n"
    found = lines(data.encode(), "list.csv")
    names = ("NORMAL/film_0.png", "good.png", "NORMAL/film_1.png")
    assert all(isinstance(found.pop(name), bytes) for name in names)
    assert found
    assert all(isinstance(error, Unreadable) for error in found.values())
    assert any("Expected a CSV row in line" in str(error) for error in found.values())
    assert "line 3" in found or "line 4" in found


def test_a_cell_of_another_column_may_hold_a_line_break(lines):
    found = lines(b'note,image\n"two\nlines",good.png\n,NORMAL/film_0.png\n', "list.csv")
    assert [type(data) for data in found.values()] == [bytes, bytes]


def test_of_a_list_over_several_servers_one_that_is_away_costs_only_its_own_films(
    folder, monkeypatch
):
    monkeypatch.setattr(storage._RETRYING, "wait", wait_none())
    bucket = fsspec.filesystem("memory")
    monkeypatch.setattr(bucket, "cat_file", Mock(side_effect=TimeoutError("away")))
    away = [f"memory://away/{number}.png" for number in range(OUTAGE_IMAGES + 5)]
    (folder / "list.txt").write_text("\n".join(["PNEUMONIA/film_3.png", *away, "zzz.png"]))
    source = open_source(str(folder / "list.txt"))
    for ref in source.refs[:-1]:
        if ref.key.startswith("memory"):
            with pytest.raises(Unreadable):
                source.read(ref)
        else:
            assert source.read(ref)
    assert bucket.cat_file.call_count == OUTAGE_IMAGES * storage.MAX_ATTEMPTS
    (folder / "list.txt").write_text("\n".join(away))
    source = open_source(str(folder / "list.txt"))
    for ref in source.refs[: OUTAGE_IMAGES - 1]:
        with pytest.raises(Unreadable):
            source.read(ref)
    with pytest.raises(TransientError, match="No response for the last"):
        source.read(source.refs[-1])


@pytest.mark.parametrize("others", [[], ["PNEUMONIA/film_3.png"]], ids=["alone", "of two"])
def test_a_server_without_answers_is_not_asked_for_each_line_of_a_list(folder, monkeypatch, others):
    monkeypatch.setattr(storage._RETRYING, "wait", wait_none())
    info, content = Mock(side_effect=TimeoutError("away")), Mock(side_effect=TimeoutError("away"))
    monkeypatch.setattr(MemoryFileSystem, "info", info)  # each thread has its own instance
    monkeypatch.setattr(MemoryFileSystem, "cat_file", content)
    away = [f"memory://away/{number}.png" for number in range(500)]
    (folder / "list.txt").write_text("\n".join([*others, *away]))
    source = open_source(str(folder / "list.txt"))
    assert len(source.refs) == len(others) + len(away)
    assert info.call_count < OUTAGE_IMAGES + 4 * storage.MAX_REMOTE_READS
    refs = [ref for ref in source.refs if ref.path in away]
    with pytest.raises(Unreadable if others else TransientError):
        source.read(refs[0])
    with pytest.raises(Unreadable if others else TransientError):
        source.read(refs[1])
    assert content.call_count == storage.MAX_ATTEMPTS * (1 if others else 2)


def test_a_server_that_answers_again_is_read_although_the_listing_gave_it_up(folder, monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "info", Mock(side_effect=TimeoutError("away")))
    away = [f"memory://again/{number}.png" for number in range(2 * OUTAGE_IMAGES)]
    (folder / "list.txt").write_text("\n".join(["PNEUMONIA/film_3.png", *away]))
    source = open_source(str(folder / "list.txt"))
    monkeypatch.undo()
    assert {ref.stamp for ref in source.refs[1:]} == {""}
    bucket, film = fsspec.filesystem("memory"), make_film()
    for place in away:
        bucket.pipe_file(place, film)
    assert all(source.read(ref) for ref in source.refs)


def test_who_stops_a_run_while_a_list_is_asked_for_waits_for_no_answer(folder, monkeypatch):
    asked, answered, waited = threading.Event(), threading.Event(), []

    def info(filesystem, path):
        if path.endswith("stop.png"):
            asked.wait(30)
            raise KeyboardInterrupt
        asked.set()
        waited.append(answered.wait(30))
        raise FileNotFoundError(path)

    monkeypatch.setattr(MemoryFileSystem, "info", info)
    (folder / "list.txt").write_text("memory://slow/stop.png\nmemory://slow/waits.png\n")
    with pytest.raises(KeyboardInterrupt):
        open_source(str(folder / "list.txt"))
    assert waited == []
    answered.set()
