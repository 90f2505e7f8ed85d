"""read_dataset: layouts, patients, splits, and data that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest

from batch_scorer.errors import DatasetError
from batch_scorer.imaging.decode import decode_radiograph
from batch_scorer.imaging.file_names import parse_patient
from tests.batch_scorer.imaging.pixel_table import ROWS
from tests.images import make_film, make_labelled_folder
from tests.paths import REAL_DATA
from trainer.data.dataset import read_dataset


def test_patients_are_read_from_the_names_of_the_kermany_set():
    assert parse_patient("PNEUMONIA/person12_virus_7.jpeg") == "person12"
    assert parse_patient("person1949_bacteria_4880.jpeg") == "person1949"
    assert parse_patient("NORMAL/IM-0115-0001.jpeg") == "IM-0115"
    assert parse_patient("NORMAL2-IM-0927-0001-0002.jpeg") == "NORMAL2-IM-0927"
    assert parse_patient("clinic/film 7.jpeg") == ""


def test_no_patient_is_in_two_parts_and_no_film_is_lost(tmp_path):
    dataset = read_dataset(make_labelled_folder(tmp_path / "data"), 32, seed=1)
    train, validation = set(dataset.train.patients), set(dataset.validation.patients)
    assert not train & validation
    assert len(dataset.train) + len(dataset.validation) == 100
    assert dataset.test is None
    assert 0 < dataset.validation.pneumonia < len(dataset.validation)


def test_the_split_depends_on_the_seed_alone(tmp_path):
    root = make_labelled_folder(tmp_path / "data")
    again = [read_dataset(root, 32, seed=seed).validation.keys.tolist() for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_train_and_val_are_pooled_and_the_official_test_is_kept_apart(tmp_path):
    root = tmp_path / "kaggle"
    make_labelled_folder(root / "train")
    make_labelled_folder(root / "val", 4, 4, start=500)
    make_labelled_folder(root / "test", 10, 10, start=900)
    dataset = read_dataset(root, 32, seed=1)
    assert len(dataset.train) + len(dataset.validation) == 108
    assert all(key.startswith("test/") for key in dataset.test.keys)
    assert dataset.counts()["test NORMAL"] == 10


def test_films_of_identical_content_stay_together(tmp_path):
    root = make_labelled_folder(tmp_path / "data")
    film = make_film(seed=12345)
    names = [root / "NORMAL" / f"clinic_{index}.png" for index in range(12)]
    for name in names:
        name.write_bytes(film)
    dataset = read_dataset(root, 32, seed=1)
    parts = [
        {key for key in films.keys if "clinic" in key}
        for films in (dataset.train, dataset.validation)
    ]
    assert sorted(map(len, parts)) == [0, 12]


def test_labels_and_pixels_belong_to_the_same_film(tmp_path):
    films = read_dataset(make_labelled_folder(tmp_path / "data"), 32, seed=1).train
    assert np.array_equal(films.labels, np.char.startswith(films.keys, "PNEUMONIA").astype(int))
    assert films.pixels[films.labels == 1].mean() > films.pixels[films.labels == 0].mean() + 50


def test_the_split_policy_says_only_what_is_so(tmp_path):
    known = read_dataset(make_labelled_folder(tmp_path / "known"), 32, seed=1)
    assert known.split_policy.startswith("Split 7 : 1 by patient")
    assert "Official" not in known.split_policy
    for index, film in enumerate(sorted((tmp_path / "known").glob("*/*"))):
        film.rename(film.with_name(f"film{index}.png"))
    unknown = read_dataset(tmp_path / "known", 32, seed=1)
    assert "100 of 100 file names contain no patient" in unknown.split_policy
    assert set(unknown.train.patients) == {""}
    assert len(set(unknown.train.groups)) == len(unknown.train)


def test_the_fingerprint_knows_content_and_labels(tmp_path):
    first = read_dataset(make_labelled_folder(tmp_path / "a"), 32, seed=1).fingerprint
    film = next((tmp_path / "a" / "NORMAL").iterdir())
    film.rename(tmp_path / "a" / "PNEUMONIA" / film.name)
    assert read_dataset(tmp_path / "a", 32, seed=1).fingerprint != first


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_trainer_sees_the_pixels_that_the_scorer_sees(tmp_path, row):
    root = make_labelled_folder(tmp_path / "data", 16, 16)
    (root / "NORMAL" / "IM-9999-0001.any").write_bytes(row.data)
    dataset = read_dataset(root, 48, seed=1)
    for films in (dataset.train, dataset.validation):
        for key, pixels in zip(films.keys, films.pixels, strict=True):
            if "9999" in key:
                assert np.array_equal(pixels[..., 0], decode_radiograph(row.data, 48))
                return
    pytest.fail("the film is in no part")


def test_data_that_cannot_be_used_says_why(tmp_path):
    with pytest.raises(DatasetError, match="found none at"):
        read_dataset(tmp_path / "missing", 32, seed=1)
    one_class = make_labelled_folder(tmp_path / "one", 20, 0)
    with pytest.raises(DatasetError, match="PNEUMONIA, found none"):
        read_dataset(one_class, 32, seed=1)
    with pytest.raises(DatasetError, match=r"at least 16 images of NORMAL .* found 3"):
        read_dataset(make_labelled_folder(tmp_path / "few", 3, 40), 32, seed=1)
    corrupt = make_labelled_folder(tmp_path / "corrupt")
    (corrupt / "NORMAL" / "bad.jpeg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(DatasetError, match=r"bad.jpeg cannot be used: "):
        read_dataset(corrupt, 32, seed=1)
    one_patient = tmp_path / "patient"
    for label in ("NORMAL", "PNEUMONIA"):
        (one_patient / label).mkdir(parents=True)
        for index in range(20):
            path = one_patient / label / f"person1_virus_{index}.png"
            path.write_bytes(make_film(seed=index))
    with pytest.raises(DatasetError, match="at least 8 patients to split by patient, found 1"):
        read_dataset(one_patient, 32, seed=1)


@pytest.mark.needs("real films")
def test_the_real_set_is_read_in_full_and_split_by_patient():
    dataset = read_dataset(REAL_DATA / "chest_xray", 16, seed=1)
    assert len(dataset.train) + len(dataset.validation) == 5232
    assert len(dataset.test) == 624
    assert not set(dataset.train.patients) & set(dataset.validation.patients)
    assert 0.1 < len(dataset.validation) / 5232 < 0.15
