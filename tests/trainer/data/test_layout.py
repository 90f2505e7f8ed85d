"""Folders that bring more, less or something else than two classes of films."""

from __future__ import annotations

import logging

import pytest

from batch_scorer.errors import DatasetError
from tests.images import make_film, make_labelled_folder
from trainer.data.dataset import read_dataset
from trainer.data.layout import read_layout


def put(folder, names, data=None):
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        (folder / name).write_bytes(make_film(seed=index) if data is None else data)


@pytest.mark.parametrize("part", ["", "train", "test"])
def test_a_third_class_is_refused_by_name_and_count(tmp_path, part):
    root = tmp_path / "data"
    for name in {"", "train", "test"} - {""} if part else {""}:
        make_labelled_folder(root / name, 20, 20)
    put(root / part / "COVID" / "clinic", ["a.png", "b.png", "c.png"])
    with pytest.raises(DatasetError, match=r"found COVID with 3 files in .*Move it elsewhere"):
        read_dataset(root, 32, seed=1)


def test_a_class_in_lower_case_is_refused_and_the_right_name_told(tmp_path):
    root = make_labelled_folder(tmp_path / "data", 20, 20)
    (root / "NORMAL").rename(root / "normal")
    with pytest.raises(DatasetError, match=r"found normal with 20 files.*Rename it to NORMAL\."):
        read_dataset(root, 32, seed=1)


def test_loose_films_are_refused_but_a_note_beside_the_classes_is_not(tmp_path):
    root = make_labelled_folder(tmp_path / "data", 20, 20)
    put(root, ["SOURCE.txt"], b"where these films came from")
    assert len(read_dataset(root, 32, seed=1).train) == 35
    put(root, ["one.png", "two.png"])
    with pytest.raises(DatasetError, match=r"found 2 films beside the folders in .*one\.png"):
        read_dataset(root, 32, seed=1)


def test_a_folder_beside_the_parts_is_left_out_with_a_warning(tmp_path, caplog):
    root = tmp_path / "chest_xray"
    make_labelled_folder(root / "train", 20, 20)
    make_labelled_folder(root / "chest_xray" / "train", 5, 6)
    (root / "empty").mkdir()
    with caplog.at_level(logging.WARNING, logger="trainer"):
        dataset = read_dataset(root, 32, seed=1)
    assert len(dataset.train) + len(dataset.validation) == 40
    assert "left out, as no part of the set: chest_xray with 11 files" in caplog.text
    assert "empty" not in caplog.text


def test_what_operating_systems_leave_behind_is_no_film(tmp_path):
    root = make_labelled_folder(tmp_path / "data", 20, 20)
    put(root / "NORMAL", ["Thumbs.db", "desktop.ini", ".DS_Store"], b"no film")
    put(root / "__MACOSX" / "NORMAL", ["._IM-0001-0001.jpeg"], b"no film")
    dataset = read_dataset(root, 32, seed=1)
    assert len(dataset.train) + len(dataset.validation) == 40
    assert read_layout(root).strays == ()


def test_any_other_file_in_a_class_folder_must_be_a_film(tmp_path):
    root = make_labelled_folder(tmp_path / "data", 20, 20)
    put(root / "PNEUMONIA", ["notes.txt"], b"ask about film 7")
    with pytest.raises(
        DatasetError,
        match=r"notes\.txt cannot be used.*: .*Expected JPEG, PNG, TIFF, BMP, WebP or DICOM",
    ):
        read_dataset(root, 32, seed=1)


def test_a_class_folder_inside_the_other_is_refused(tmp_path):
    root = make_labelled_folder(tmp_path / "data", 20, 20)
    put(root / "NORMAL" / "PNEUMONIA", ["person1_virus_1.png"])
    with pytest.raises(DatasetError, match=r"person1_virus_1\.png in both"):
        read_dataset(root, 32, seed=1)


def test_films_without_patients_are_warned_of(tmp_path, caplog):
    root = make_labelled_folder(tmp_path / "data", 20, 20)
    read_dataset(root, 32, seed=1)
    assert caplog.text == ""
    for index, film in enumerate(sorted((root / "NORMAL").iterdir())):
        film.rename(film.with_name(f"clinic{index}.png"))
    with caplog.at_level(logging.WARNING, logger="trainer"):
        read_dataset(root, 32, seed=1)
    assert "Warning: 20 of 40 file names tell no patient" in caplog.text
    assert "taken for a patient of its own" in caplog.text


@pytest.mark.slow
def test_three_films_one_class_or_a_broken_film_end_the_command_with_one_line(tmp_path, cxr):
    few = make_labelled_folder(tmp_path / "few", 1, 2)
    one = tmp_path / "one"
    put(one / "PNEUMONIA", [f"person{index}_virus_1.png" for index in range(20)])
    broken = make_labelled_folder(tmp_path / "broken", 20, 20)
    put(broken / "NORMAL", ["IM-0300-0001.jpeg"], b"\xff\xd8\xff half a film")
    for root, expected in (
        (few, "at least 16 films of NORMAL to train and validate on, found 1"),
        (one, "NORMAL, found none. The folder needs the two class folders"),
        (broken, "IM-0300-0001.jpeg cannot be used"),
    ):
        done = cxr("train", root, "-o", tmp_path / "run", "--model", "mlp")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("Error: ")
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()
