"""A damaged run folder is refused in one sentence, before anything is converted."""

from __future__ import annotations

import os
import shutil

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from batch_scorer.errors import ConversionError, UsageError
from exporter import export as publish
from exporter.cli import export
from exporter.run_reader import find_run_folders, read_run
from tests.exporter.runs import make_network, save_run


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "small", make_network())


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "small")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "gone", "no text", "archive"])
@pytest.mark.parametrize("name", ["card.json", "model.keras", "films.npz"])
def test_whatever_lies_under_a_name_of_the_run_is_never_waited_for(folder, name, kind):
    path = folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "no text":
        path.write_bytes(b"\xff\xfe")
    elif kind == "archive":
        with path.open("wb") as file:
            np.savez(file, other=np.zeros(3))
    with pytest.raises(ConversionError, match=rf"cannot be read: {name}.*`cxr train`"):
        read_run(folder)


def take(number):
    return lambda array: array[:number]


@pytest.mark.parametrize(
    "changes",
    [
        {"pixels": lambda array: array[..., 0]},
        {"pixels": lambda array: array[:, :16]},
        {"pixels": lambda array: array.astype(np.float32)},
        {"pixels": lambda array: array.astype(np.uint16)},
        {"pixels": take(70)},
        {"labels": take(70)},
        {"labels": lambda array: array[0]},
        {"labels": lambda array: array * 2},
        {"labels": lambda array: array.astype(str)},
        {"keys": take(70)},
        {"keys": lambda array: np.arange(len(array))},
        {"splits": take(70)},
        {"splits": lambda array: array[0]},
        {"splits": lambda array: np.full_like(array, "train")},
        {"splits": lambda array: np.full_like(array, "validation")},
        {"labels": lambda array: array.astype(object)},
        dict.fromkeys(("pixels", "labels", "keys", "splits"), take(0)),
    ],
)
def test_films_that_are_none_are_refused(folder, changes):
    path = folder / "films.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **{n: changes.get(n, np.asarray)(array) for n, array in arrays.items()})
    with pytest.raises(ConversionError, match=r"cannot be read: .*films\.npz"):
        read_run(folder)


def make_other(kind):
    pixels = keras.Input((16, 16, 1) if kind == "size" else (32, 32, 1), dtype="uint8")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    answer = keras.layers.Dense(2 if kind == "width" else 1)(flat)
    name = "other" if kind == "name" else "logit"
    inputs = [pixels, keras.Input((1,))] if kind == "inputs" else pixels
    return keras.Model(inputs, answer if kind == "single" else {name: answer})


@pytest.mark.parametrize("kind", ["size", "width", "name", "single", "inputs"])
def test_a_network_that_takes_or_answers_something_else_is_refused(folder, kind):
    make_other(kind).save(folder / "model.keras")
    with pytest.raises(ConversionError, match=r"cannot be read: .*model\.keras"):
        read_run(folder)


@pytest.mark.parametrize("output", ["/proc/x", "/dev/null/x"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(
    folder, output, monkeypatch
):
    monkeypatch.setattr("exporter.run_reader.read_run", lambda *_: pytest.fail("began"))
    done = CliRunner().invoke(export, [str(folder), "-o", output], standalone_mode=False)
    assert getattr(done.exception, "exit_code", 0) == 2, done.exception


def test_a_folder_that_cannot_be_made_is_a_wrong_usage(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be read: Not a directory"):
        publish.open_model_folder(tmp_path / "file" / "models")


def test_a_path_that_is_too_long_is_no_run(tmp_path):
    with pytest.raises(ConversionError, match="too long"):
        find_run_folders(tmp_path / ("x" * 300))
