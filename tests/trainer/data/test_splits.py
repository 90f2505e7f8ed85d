"""Validation by patient or in two flattering ways, which never become a model file."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from batch_scorer.errors import DatasetError
from tests.images import make_labelled_folder
from trainer.config import FitConfig
from trainer.data.dataset import read_dataset
from trainer.data.splits import VALIDATION_CHOICES, read_dataset_validated_by
from trainer.model.networks import SIZE_PX
from trainer.train import claim_run_folder, fit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "kaggle"
    make_labelled_folder(root / "train", 40, 60)
    make_labelled_folder(root / "val", 4, 4, start=500)
    make_labelled_folder(root / "test", 12, 12, start=900)
    return root


def parts(films):
    return {key.partition("/")[0] for key in films.keys}


def test_by_patient_is_how_every_model_is_validated(data):
    usual, chosen = read_dataset(data, 32, 3), read_dataset_validated_by(data, 32, 3, "patient")
    assert np.array_equal(usual.validation.keys, chosen.validation.keys)
    assert (usual.fingerprint, usual.withheld) == (chosen.fingerprint, "")


@pytest.mark.parametrize(("choice", "part"), [("official", "val"), ("test", "test")])
def test_an_official_part_is_taken_whole_and_the_model_is_withheld(data, choice, part):
    dataset = read_dataset_validated_by(data, 32, 1, choice)
    assert (parts(dataset.train), len(dataset.train)) == ({"train"}, 100)
    assert parts(dataset.validation) == {part}
    assert (parts(dataset.test), len(dataset.test)) == ({"test"}, 24)
    assert dataset.withheld == VALIDATION_CHOICES[choice].withheld != ""


def test_a_folder_without_that_part_is_refused(data, tmp_path):
    make_labelled_folder(tmp_path / "two" / "train", 40, 60)
    make_labelled_folder(tmp_path / "two" / "test", 12, 12, start=900)
    with pytest.raises(DatasetError, match=r"val/\*\*/NORMAL, found none"):
        read_dataset_validated_by(tmp_path / "two", 32, 1, "official")
    with pytest.raises(DatasetError, match="Expected validation by one of patient, official, test"):
        read_dataset_validated_by(data, 32, 1, "luck")


def test_a_model_validated_on_the_test_films_says_so_and_is_not_exported(data, tmp_path):
    config = FitConfig("mlp", 1, 32, 1, "tensorflow", "none")
    dataset = read_dataset_validated_by(data, SIZE_PX, 1, "test")
    card = fit(config, dataset, tmp_path / "run" / "mlp", open_test=True)
    assert card.withheld == VALIDATION_CHOICES["test"].withheld
    assert card.references["validation"].confusion == card.references["test"].confusion

    with pytest.raises(DatasetError, match="holds a run with"):
        claim_run_folder(
            tmp_path / "run" / "mlp", config, read_dataset_validated_by(data, 32, 1, "patient")
        )
    arguments = ["export", str(tmp_path / "run"), "-o", str(tmp_path / "models")]
    refused = subprocess.run(
        [sys.executable, "-m", "batch_scorer", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "may not be exported: It was validated on the test films" in refused.stderr
    assert not (tmp_path / "models").exists()
