"""cxr train -> cxr export -> cxr score on a small data set, in real processes, killed half-way."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from batch_scorer import metrics
from batch_scorer.card import read_card
from tests.trainer.test_dataset import fill

EPOCHS = 4


def command(*arguments):
    return [sys.executable, "-m", "batch_scorer", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "kaggle"
    fill(root / "train", 60, 90)
    fill(root / "test", 20, 20, start=900)
    return root


def train(data, folder):
    return ("train", data, "-o", folder, "--model", "mlp", "--epochs", EPOCHS, "--batch-size", 16)


@pytest.fixture(scope="module")
def killed_then_finished(data, tmp_path_factory):
    """A run that was killed by SIGKILL after its first epoch, then started again."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    history = folder / "mlp" / "history.csv"
    state = folder / "mlp" / "resume" / "state" / "training_metadata.json"
    with subprocess.Popen(
        command(*train(data, folder)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 300
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            select_nothing()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = history.read_text()
    return folder, before, run(*train(data, folder))


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def select_nothing():
    """Give way to the other process for a moment."""
    import select

    select.select([], [], [], 0.02)


def test_a_killed_training_goes_on_where_it_was(killed_then_finished):
    folder, before, finished = killed_then_finished
    assert finished.returncode == 0, finished.stderr
    assert "going on after epoch" in finished.stderr
    rows = table(folder / "mlp" / "history.csv")
    assert {row["epoch"] for row in rows} == {str(epoch) for epoch in range(EPOCHS)}
    assert rows[0] == next(csv.DictReader(before.splitlines())), "the first epoch was not repeated"
    assert not (folder / "mlp" / "resume").exists()


def test_the_run_folder_holds_what_was_promised(killed_then_finished):
    folder = killed_then_finished[0] / "mlp"
    names = {path.name for path in folder.iterdir()}
    assert {
        "model.keras",
        "card.json",
        "history.csv",
        "predictions.csv",
        "films.npz",
        "training.svg",
        "roc.svg",
    } <= names
    card = read_card((folder / "card.json").read_text(), "card.json")
    rows = table(folder / "predictions.csv")
    for split in ("validation", "test"):
        part = [row for row in rows if row["split"] == split]
        truth = [int(row["label"] == "PNEUMONIA") for row in part]
        scores = [float(row["probability"]) for row in part]
        found = metrics.evaluate(truth, scores, card.threshold.value)
        assert card.references[split].films == len(part)
        for name in ("accuracy", "auc", "recall"):
            assert found[name].value == pytest.approx(
                card.references[split].metrics[name].value, abs=1e-4
            )
    assert card.references["test"].films == 40
    with np.load(folder / "films.npz") as films:
        kept = {name: films["keys"][films["splits"] == name] for name in ("validation", "train")}
        assert films["pixels"].shape == (len(films["labels"]), 224, 224, 1)
    assert kept["validation"].tolist() == [
        row["image"] for row in rows if row["split"] == "validation"
    ]
    assert 0 < len(kept["train"]) <= 200
    assert not set(kept["train"]) & {row["image"] for row in rows}
    assert card.training.epochs == EPOCHS
    assert card.training.seed == 1


def test_a_finished_run_is_not_trained_again(killed_then_finished, data):
    folder = killed_then_finished[0]
    before = (folder / "mlp" / "model.keras").stat().st_mtime_ns
    again = run(*train(data, folder))
    assert again.returncode == 0
    assert (folder / "mlp" / "model.keras").stat().st_mtime_ns == before


def test_a_folder_with_another_run_is_refused(killed_then_finished, data):
    other = run(*train(data, killed_then_finished[0])[:-1], 8)
    assert other.returncode == 1
    assert "holds a run with batch_size 16, not 8" in other.stderr


def test_the_run_is_exported_and_scores(killed_then_finished, data, tmp_path):
    exported = run("export", killed_then_finished[0], "-o", tmp_path / "models")
    assert exported.returncode == 0, exported.stderr
    assert "differs from Keras by at most" in exported.stdout
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"mlp.onnx", "manifest.json"}
    entry = json.loads((tmp_path / "models" / "manifest.json").read_text())["mlp"]
    scored = run(
        "score",
        data / "test",
        "-o",
        tmp_path / "out",
        "--model",
        tmp_path / "models" / "mlp.onnx",
        "--no-report",
    )
    assert scored.returncode == 0, scored.stderr
    assert f"accuracy {entry['metrics']['test']['accuracy']:.3f}" in scored.stdout


def test_a_run_folder_that_was_tampered_with_gives_no_model(killed_then_finished, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(killed_then_finished[0], broken)
    (broken / "mlp" / "model.keras").write_bytes(b"not a network")
    failed = run("export", broken, "-o", tmp_path / "models")
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: ")
    assert not list(tmp_path.glob("models/*.onnx"))
