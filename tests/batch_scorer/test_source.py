"""Listing and labels: what is found, what is not, and what is said about it."""

from __future__ import annotations

import fsspec
import pytest

from batch_scorer.errors import MissingPackage, SourceError, Unreadable, UsageError
from batch_scorer.source import open_source, read_labels
from tests.conftest import make_film


def test_every_file_is_listed_once_in_order_and_hidden_ones_are_counted(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "notes.txt").write_text("not an image")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "film.png").write_bytes(make_film())
    source = open_source(str(folder))
    keys = [ref.key for ref in source.refs]
    assert keys == sorted(keys)
    assert keys == [
        "NORMAL/film_0.png",
        "NORMAL/film_1.png",
        "NORMAL/film_2.png",
        "PNEUMONIA/film_3.png",
        "PNEUMONIA/film_4.png",
        "PNEUMONIA/film_5.png",
        "notes.txt",
    ]
    assert source.hidden == 2
    assert not source.synthetic


def test_one_file_is_a_source_too(folder):
    source = open_source(str(folder / "NORMAL" / "film_0.png"))
    assert [ref.key for ref in source.refs] == ["film_0.png"]
    assert read_labels("folders", source.refs) == {"film_0.png": "NORMAL"}


def test_a_url_is_a_source_too():
    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/films/a/x.png", make_film())
    source = open_source("memory://films")
    assert [ref.key for ref in source.refs] == ["a/x.png"]
    assert source.read(source.refs[0]) == make_film()
    bucket.rm("/films", recursive=True)


def test_a_folder_that_calls_itself_synthetic_is_synthetic(folder):
    (folder / "SYNTHETIC.txt").write_text("made by a script")
    source = open_source(str(folder))
    assert source.synthetic
    assert len(source.refs) == 6


def test_what_cannot_be_listed_is_one_clear_error(tmp_path):
    with pytest.raises(SourceError, match="found nothing there"):
        open_source(str(tmp_path / "missing"))
    with pytest.raises(SourceError, match="found no file in it"):
        open_source(str(tmp_path))
    with pytest.raises(UsageError, match="no path or URL"):
        open_source("nonsense://films")


def test_a_cloud_that_is_not_installed_names_its_extra(monkeypatch):
    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(
        MissingPackage, match=r's3 support is missing.*pip install "cxr-batch\[s3\]"'
    ):
        open_source("s3://bucket/films")


def test_a_file_that_vanishes_is_unreadable(folder):
    source = open_source(str(folder))
    (folder / source.refs[0].key).unlink()
    with pytest.raises(Unreadable, match="No such file"):
        source.read(source.refs[0])


def test_labels_from_a_file(folder, tmp_path):
    refs = open_source(str(folder)).refs
    table = tmp_path / "labels.csv"
    table.write_text("image,label\nNORMAL/film_0.png,1\nNORMAL/film_1.png,normal\nelse.png,0\n")
    assert read_labels(str(table), refs) == {
        "NORMAL/film_0.png": "PNEUMONIA",
        "NORMAL/film_1.png": "NORMAL",
    }
    assert read_labels("none", refs) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,label\nx,1\n", "Expected the columns image and label"),
        ("image,label\nNORMAL/film_0.png,maybe\n", "in line 2 .* found 'maybe'"),
        ("image,label\nelsewhere.png,1\n", "None of the 1 images named"),
    ],
)
def test_a_label_file_that_is_not_right_says_where(folder, tmp_path, text, message):
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(SourceError, match=message):
        read_labels(str(table), open_source(str(folder)).refs)


def test_a_label_file_that_is_not_there(folder):
    with pytest.raises(SourceError, match="cannot be read"):
        read_labels("nowhere.csv", open_source(str(folder)).refs)
