"""read_normals: films from elsewhere, none of them known to the models."""

from __future__ import annotations

import numpy as np
import pytest

from batch_scorer.errors import DatasetError
from batch_scorer.imaging.decode import decode_radiograph
from tests.images import make_film, make_labelled_folder
from trainer.data.dataset import read_dataset
from trainer.data.external import read_external_images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_labelled_folder(tmp_path_factory.mktemp("films") / "data")


@pytest.fixture(scope="module")
def dataset(data):
    return read_dataset(data, 32, seed=1)


def test_every_file_is_a_normal_film_read_by_the_one_decoder(tmp_path, dataset):
    (tmp_path / "ward").mkdir()
    (tmp_path / ".hidden").write_text("no film")
    for index, name in enumerate(("b.png", "a.png", "ward/c.png")):
        (tmp_path / name).write_bytes(make_film(100, seed=900 + index))
    films = read_external_images(tmp_path, 32, dataset)
    assert films.keys.tolist() == ["a.png", "b.png", "ward/c.png"]
    assert films.pneumonia == 0
    expected = decode_radiograph((tmp_path / "b.png").read_bytes(), 32)
    assert np.array_equal(films.pixels[1, :, :, 0], expected)


def test_a_folder_that_is_missing_or_empty_is_refused(tmp_path, dataset):
    with pytest.raises(DatasetError, match=r"Expected a folder of normal images, found none at"):
        read_external_images(tmp_path / "nowhere", 32, dataset)
    with pytest.raises(DatasetError, match=r"found no file in it\. Remove --normals"):
        read_external_images(tmp_path, 32, dataset)


def test_a_file_that_is_no_film_is_named(tmp_path, dataset):
    (tmp_path / "film.png").write_bytes(make_film(100, seed=900))
    (tmp_path / "letter.txt").write_text("Dear doctor")
    with pytest.raises(DatasetError, match=r"letter\.txt cannot be used"):
        read_external_images(tmp_path, 32, dataset)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_film_that_the_models_learned_from_is_refused(tmp_path, data, dataset, part):
    known = data / getattr(dataset, part).keys[-1]
    (tmp_path / "seen.png").write_bytes(known.read_bytes())
    with pytest.raises(DatasetError, match=r"found seen\.png, which is also a training"):
        read_external_images(tmp_path, 32, dataset)
