"""Listing and labels: what is found, what is not, and what is said about it."""

from __future__ import annotations

import os
import shutil

import fsspec
import pytest

from batch_scorer.errors import MissingPackage, SourceError, TooLarge, Unreadable, UsageError
from batch_scorer.storage.source import open_source, read_labels
from tests.images import make_film


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
    assert read_labels("folders", source) == {"film_0.png": "NORMAL"}


def test_a_url_is_a_source_too():
    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/films/a/x.png", make_film())
    source = open_source("memory://films")
    assert [ref.key for ref in source.refs] == ["a/x.png"]
    assert source.read(source.refs[0]) == make_film()
    bucket.rm("/films", recursive=True)


def test_a_folder_that_calls_itself_synthetic_is_synthetic(folder):
    (folder / "SYNTHETIC.txt").write_text("These films are SYNTHETIC.")
    source = open_source(str(folder))
    assert source.synthetic
    assert len(source.refs) == 6
    assert open_source(str(folder / "NORMAL")).synthetic
    assert open_source(str(folder / "NORMAL" / "film_0.png")).synthetic


def test_a_file_that_only_bears_the_marker_s_name_is_a_file_like_any_other(folder):
    (folder / "SYNTHETIC.txt").write_bytes(make_film())
    source = open_source(str(folder))
    assert not source.synthetic
    assert len(source.refs) == 7


def test_a_folder_that_may_not_be_listed_is_an_error_and_not_a_hole(folder, monkeypatch):
    scandir = os.scandir

    def locked(path="."):
        if str(path).endswith("NORMAL"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(SourceError, match="NORMAL cannot be listed: Permission denied"):
        open_source(str(folder))


def test_pipes_folders_and_giants_are_no_films(folder, monkeypatch):
    os.mkfifo(folder / "pipe.jpeg")
    (folder / "linked.png").symlink_to(folder / "NORMAL" / "film_0.png")
    (folder / "loop").symlink_to(folder)
    (folder / "giant.mp4").write_bytes(b"")
    os.truncate(folder / "giant.mp4", 6_000_000_000)
    source = open_source(str(folder))
    refs = {ref.key: ref for ref in source.refs}
    assert source.read(refs["linked.png"]) == (folder / "NORMAL" / "film_0.png").read_bytes()
    for name in ("pipe.jpeg", "loop"):
        with pytest.raises(Unreadable, match="found a folder, a pipe or a device"):
            source.read(refs[name])
    with pytest.raises(TooLarge, match="found 6000 MB"):
        source.read(refs["giant.mp4"])


def test_names_that_would_share_a_row_are_refused(tmp_path):
    for name in (b"b\xff.png".decode("utf-8", "surrogateescape"), "b\\udcff.png"):
        (tmp_path / name).write_bytes(make_film())
    with pytest.raises(SourceError, match="Two files in"):
        open_source(str(tmp_path))


def test_what_cannot_be_listed_is_one_clear_error(tmp_path):
    with pytest.raises(SourceError, match="found nothing there"):
        open_source(str(tmp_path / "missing"))
    with pytest.raises(SourceError, match="found no file in it"):
        open_source(str(tmp_path))
    with pytest.raises(UsageError, match="Expected a readable path or URL"):
        open_source("nonsense://films")


def test_a_cloud_that_is_not_installed_names_its_extra(monkeypatch):
    def missing(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(
        MissingPackage, match=r's3 support is missing.*pip install "cxr-batch\[s3\]"'
    ):
        open_source("s3://bucket/films")


def test_what_vanishes_while_it_is_listed_is_left_out(folder, monkeypatch):
    (folder / "late").mkdir()
    (folder / "late" / "film.png").write_bytes(make_film())
    filesystem = fsspec.filesystem("file")
    info = filesystem.info

    def removing(place):
        name = getattr(place, "name", "")
        if name == "film_1.png":
            (folder / "NORMAL" / name).unlink()
        found = info(place)
        if name == "late":
            shutil.rmtree(folder / name)
        return found

    monkeypatch.setattr(filesystem, "info", removing)
    keys = [ref.key for ref in open_source(str(folder)).refs]
    assert keys == [
        *("NORMAL/film_0.png", "NORMAL/film_2.png"),
        *(f"PNEUMONIA/film_{number}.png" for number in (3, 4, 5)),
    ]


def test_a_file_that_vanishes_is_unreadable(folder):
    source = open_source(str(folder))
    (folder / source.refs[0].key).unlink()
    with pytest.raises(Unreadable, match="No such file"):
        source.read(source.refs[0])


def test_labels_from_a_file(folder, tmp_path):
    source = open_source(str(folder))
    table = tmp_path / "labels.csv"
    table.write_text("image,label\nNORMAL/film_0.png,1\nNORMAL/film_1.png,normal\nelse.png,0\n")
    assert read_labels(str(table), source) == {
        "NORMAL/film_0.png": "PNEUMONIA",
        "NORMAL/film_1.png": "NORMAL",
    }
    assert read_labels("none", source) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,label\nx,1\n", "Expected the columns image and label"),
        ("image,label,label\nx,1,0\n", "Expected one column label in .*, found 2"),
        ("image,label,image\nx,1,y\n", "Expected one column image in .*, found 2"),
        ("image,label\nNORMAL/film_0.png,maybe\n", "in line 2 .* found 'maybe'"),
        ("image,label\nelsewhere.png,1\n", "None of the 1 images named"),
        ("image,label\nx.png,1\nx.png,0\n", "one label for x.png, found another one in line 3"),
        ('image,label\n"' + "x" * 200_000 + '",1\n', "Expected a CSV row in line 2"),
    ],
)
def test_a_label_file_that_is_not_right_says_where(folder, tmp_path, text, message):
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(SourceError, match=message):
        read_labels(str(table), open_source(str(folder)))


def test_a_label_for_a_name_with_a_newline_is_found(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "new\nline.png").write_bytes(make_film())
    table = tmp_path / "labels.csv"
    table.write_text('image,label\n"new\nline.png",1\n')
    source = open_source(str(tmp_path / "films"))
    assert read_labels(str(table), source) == {"new\nline.png": "PNEUMONIA"}


def test_a_label_file_that_is_not_there(folder):
    with pytest.raises(SourceError, match="cannot be read"):
        read_labels("nowhere.csv", open_source(str(folder)))
