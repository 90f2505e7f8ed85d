"""Training under torch and JAX: films on the device, no TensorFlow, and export afterwards."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.images import make_labelled_folder
from trainer.data.pipeline import DeviceDataset, make_fit_arguments

FOREIGN = ("tensorflow", "tf2onnx", "onnx")
WITHOUT = """
import sys
from importlib.machinery import PathFinder
# Not sys.modules[name] = None: Keras takes a name that stands there for a module that is there.
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        foreign = name.partition(".")[0] in {foreign!r}
        return None if foreign else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
from batch_scorer.cli.main import main
sys.argv = ["cxr", *{arguments!r}]
main()
"""


def part(films=10):
    pixels = np.arange(films, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    numbers = np.arange(films, dtype=np.float32)
    return pixels, {"pneumonia": numbers[:, None]}, {"pneumonia": numbers}


def numbers_of(films):
    """The films of each step by number, checked to be the same in pixels, answers and weights."""
    steps = []
    for index in range(len(films)):
        pixels, truth, weights = films[index]
        number = np.asarray(pixels)[:, 0, 0, 0].tolist()
        assert np.asarray(truth["pneumonia"])[:, 0].tolist() == number
        assert np.asarray(weights["pneumonia"]).tolist() == number
        steps.append(number)
    return steps


def test_each_epoch_has_every_film_once_in_another_order():
    films = DeviceDataset(part(), 4, seed=1)
    first = numbers_of(films)
    films.on_epoch_end()
    second = numbers_of(films)
    assert [len(step) for step in first] == [4, 4, 2]
    assert first != second
    for steps in (first, second):
        assert sorted(number for step in steps for number in step) == list(range(10))
    assert numbers_of(DeviceDataset(part(), 4, seed=1)) == first
    assert numbers_of(DeviceDataset(part(), 4, None)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_tensorflow_is_fed_the_arrays_as_they_are():
    train = part()
    assert make_fit_arguments(train, part(4), 4, 1)["x"] is train[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("torch", "jax")]
)
def test_a_network_trained_without_tensorflow_is_exported_with_it(backend, tmp_path):
    data, folder = make_labelled_folder(tmp_path / "data", 40, 60), tmp_path / "run"
    options = ("--model", "mlp", "--epochs", 2, "--batch-size", 16, "--compute", "bfloat16")
    arguments = ["train", data, "-o", folder, *options, "--backend", backend]
    script = WITHOUT.format(foreign=FOREIGN, arguments=[str(word) for word in arguments])
    trained = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert trained.returncode == 0, trained.stderr
    assert "mlp: 2 epochs of " in trained.stderr
    assert "images per second" in trained.stderr
    config = json.loads((folder / "mlp" / "config.json").read_text())
    assert config["recipe"]["policy"] == "mixed_bfloat16"
    card = json.loads((folder / "mlp" / "card.json").read_text())
    assert f"--backend {backend} --compute bfloat16" in card["training"]["command"]
    export = ["export", folder, "-o", tmp_path / "models"]
    exported = subprocess.run(
        [sys.executable, "-m", "batch_scorer", *map(str, export)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "models" / "mlp.onnx").is_file()
