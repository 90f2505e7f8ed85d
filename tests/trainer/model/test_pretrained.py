"""First weights of VGG16: known files alone, read as arrays alone."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace

import keras
import numpy as np
import pytest

from batch_scorer.errors import DatasetError
from trainer.model import pretrained
from trainer.model.networks import build_vgg16
from trainer.model.pretrained import (
    IMAGENET_STD,
    KNOWN_WEIGHTS,
    identify_weights_file,
    load_vgg16_convolutions,
)

KERAS, TORCHVISION = KNOWN_WEIGHTS


class Called:
    """What a pickle that is no list of arrays would do."""

    def __reduce__(self):
        return (print, ("this must never be printed",))


def know(monkeypatch, path, known):
    """Let this file be taken for the published one."""
    digest = hashlib.new(known.algorithm, path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(pretrained, "KNOWN_WEIGHTS", (replace(known, digest=digest),))


def write_pickle(path, convolutions):
    named = {
        f"Conv_{number}": {"kernel": kernel, "bias": bias}
        for number, (kernel, bias) in enumerate(convolutions)
    }
    path.write_bytes(pickle.dumps({"VGG16_0": named, "NetLinLayer_0": {}}, protocol=3))


@pytest.fixture(scope="module")
def published():
    return keras.applications.VGG16(include_top=False, weights=None)


def convolutions_of(model):
    return [layer.get_weights() for layer in model.layers if "_conv" in layer.name]


def test_the_file_of_keras_is_loaded_and_scaled_for_views(tmp_path, monkeypatch, published):
    path = tmp_path / "vgg16.weights.h5"
    published.save_weights(path)
    know(monkeypatch, path, KERAS)
    model = build_vgg16(1, pretrained=True)
    load_vgg16_convolutions(model, str(path))
    (first, *rest), (kernel, bias), *expected = (
        convolutions_of(model),
        *convolutions_of(published),
    )
    assert first[0] == pytest.approx(kernel * IMAGENET_STD)
    assert np.array_equal(first[1], bias)
    for found, meant in zip(rest, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, meant, strict=True))


def test_the_file_of_torchvision_is_loaded_as_it_is(tmp_path, monkeypatch, published):
    path = tmp_path / "vgg16.ckpt"
    write_pickle(path, convolutions_of(published))
    know(monkeypatch, path, TORCHVISION)
    model = build_vgg16(1, pretrained=True)
    load_vgg16_convolutions(model, str(path))
    pairs = zip(convolutions_of(model), convolutions_of(published), strict=True)
    assert all(
        np.array_equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True)
    )


def test_a_pickle_that_would_call_something_is_refused(tmp_path, monkeypatch, capsys):
    path = tmp_path / "vgg16.ckpt"
    write_pickle(path, [(np.zeros((3, 3, 3, 64), np.float32), Called())])
    know(monkeypatch, path, TORCHVISION)
    with pytest.raises(pickle.UnpicklingError, match="does not belong to an array"):
        load_vgg16_convolutions(build_vgg16(1, pretrained=True), str(path))
    assert "never be printed" not in capsys.readouterr().out


def test_another_file_is_refused_before_it_is_opened(tmp_path):
    path = tmp_path / "vgg16.ckpt"
    path.write_bytes(pickle.dumps(Called()))
    with pytest.raises(
        DatasetError, match=r"published VGG16 weights, found an unknown file"
    ) as caught:
        identify_weights_file(path)
    assert KERAS.digest in str(caught.value.hint)
    assert TORCHVISION.digest in str(caught.value.hint)


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(DatasetError, match="does not exist") as caught:
        identify_weights_file(tmp_path / "nowhere.h5")
    assert "make weights" in str(caught.value.hint)
