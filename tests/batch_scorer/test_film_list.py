"""Lists of films: what their rows are called, what is a mistake, and what only a row."""

from __future__ import annotations

import logging

import fsspec
import pytest

from batch_scorer import ledger
from batch_scorer.access import Access
from batch_scorer.errors import SourceError, Unreadable
from batch_scorer.output import open_output
from batch_scorer.runner import ScoreJob, score_batch
from batch_scorer.source import open_source, read_labels
from tests.conftest import make_film


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
    source = open_source(str(listing), access=Access((str(folder),)))
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
    assert "1 entries of the list name a film again" in caplog.text


def test_a_listed_film_that_is_not_there_is_a_row(folder, tiny_model, tmp_path):
    listing = folder / "list.txt"
    listing.write_text("NORMAL/film_0.png\nNORMAL/gone.png\nNORMAL\nzero\0byte.png\n")
    manifest = score_batch(ScoreJob(str(listing), str(folder / "out"), (str(tiny_model),)))
    assert (manifest.found, manifest.scored, manifest.failed) == (4, 1, 3)
    rows = {row.image: row for row in ledger.read_run(open_output(folder / "out"))[1]}
    assert rows["NORMAL/gone.png"].detail == "The file cannot be read: No such file or directory."
    assert "found a folder" in rows["NORMAL"].detail
    assert rows["zero\0byte.png"].status == "failed"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("list.txt", b"# nothing\n\n", "Expected films in the list .*, found none. A list is"),
        ("list.csv", b"image\n", "Expected films in the list"),
        ("list.csv", b"film\nx.png\n", r"Expected the column image in .*, found \['film'\]"),
        ("list.txt", b"\x89PNG\r\n\xff", "is no list of films: .* A list is UTF-8 text"),
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
