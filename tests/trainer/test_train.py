"""cxr train -> cxr export -> cxr score on a small data set, in real processes, killed half-way."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from batch_scorer.metrics import classification
from batch_scorer.model.card import decode_card
from batch_scorer.model.card_sections import find_shared_comparison
from batch_scorer.model.classifier import Classifier
from batch_scorer.results import store
from batch_scorer.storage.output import open_output
from tests.images import make_film, make_labelled_folder
from tests.trainer.commands import command, run

pytestmark = pytest.mark.slow

EPOCHS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "kaggle"
    make_labelled_folder(root / "train", 60, 90)
    make_labelled_folder(root / "test", 20, 20, start=900)
    (root.parent / "elsewhere").mkdir()
    for index in range(12):
        film = make_film(80 if index % 3 else 160, seed=5000 + index)
        (root.parent / "elsewhere" / f"{index}.png").write_bytes(film)
    return root


def train(data, folder):
    normals = ("--normals", f"adults elsewhere={data.parent / 'elsewhere'}")
    options = ("--model", "mlp", "--epochs", EPOCHS, *normals, "--batch-size", 16)
    return ("train", data, "-o", folder, *options)


@pytest.fixture(scope="module")
def killed_then_finished(data, tmp_path_factory):
    """A run that was killed by SIGKILL after its first epoch, then started again."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    history = folder / "mlp" / "history.csv"
    state = folder / "mlp" / "resume" / "epoch-001.weights.h5"
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
    assert "resuming after epoch" in finished.stderr
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
    card = decode_card((folder / "card.json").read_text(), "card.json")
    rows = table(folder / "predictions.csv")
    for split in ("validation", "test"):
        part = [row for row in rows if row["split"] == split]
        truth = [int(row["label"] == "PNEUMONIA") for row in part]
        scores = [float(row["probability"]) for row in part]
        found = classification.compute_metrics(truth, scores, card.threshold.value)
        assert card.references[split].images == len(part)
        for name in ("accuracy", "auc", "recall"):
            assert found[name].value == pytest.approx(
                card.references[split].metrics[name].value, abs=1e-4
            )
    assert card.references["test"].images == 40
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
    assert card.band.low <= card.threshold.value <= card.band.high
    scores = [float(row["probability"]) for row in rows if row["split"] == "validation"]
    assert card.band.share.value == pytest.approx(
        sum(card.band.contains(score) for score in scores) / len(scores)
    )
    (elsewhere,) = card.external
    assert (elsewhere.name, elsewhere.images) == ("adults elsewhere", 12)
    assert elsewhere.share.value == elsewhere.flagged / 12
    assert card.audit.images["train NORMAL"] == 60
    assert card.audit.shared_patients == {}
    assert card.audit.metadata_auc["cross-validation"].n == 150
    assert card.audit.metadata_auc["test"].n == 40


def test_tensorflow_says_nothing_in_between(tmp_path):
    done = run(
        "train",
        make_labelled_folder(tmp_path / "small"),
        "-o",
        tmp_path,
        "--model",
        "mlp",
        "--epochs",
        1,
    )
    told = done.stdout + done.stderr
    assert "4 write" in told
    assert "tf.function" not in told


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
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        ".cxr-batch",
        "mlp.onnx",
        "mlp.md",
        "manifest.json",
    }
    manifest = json.loads((tmp_path / "models" / "manifest.json").read_text())
    assert manifest["comparison"] is None
    entry = manifest["models"]["mlp"]
    scored = run(
        "score",
        data / "test",
        "-o",
        tmp_path / "out",
        "--model",
        tmp_path / "models" / "mlp.onnx",
        "--keep-atypical",  # what 130 films of noise make of another one is no matter here
        "--no-report",
    )
    assert scored.returncode == 0, scored.stderr
    assert f"accuracy {entry['metrics']['test']['accuracy']:.3f}" in scored.stdout


def test_models_that_are_exported_together_are_compared(killed_then_finished, data, tmp_path):
    folder = tmp_path / "run"
    for name in ("mlp", "twin"):
        shutil.copytree(killed_then_finished[0] / "mlp", folder / name)
    path = folder / "twin" / "card.json"
    path.write_text(path.read_text().replace('"name": "mlp"', '"name": "twin"'))
    exported = run("export", folder, "-o", tmp_path / "models")
    assert exported.returncode == 0, exported.stderr
    said = "On 40 test films, by AUC, mlp and twin cannot be told apart."
    assert said in exported.stdout
    names = ("mlp", "twin")
    cards = [Classifier.load(tmp_path / "models" / f"{name}.onnx", "cpu").card for name in names]
    assert find_shared_comparison(cards) == cards[0].comparison
    manifest = json.loads((tmp_path / "models" / "manifest.json").read_text())
    assert manifest["comparison"]["pairs"][0]["p_holm"] == 1
    models = [word for name in names for word in ("--model", tmp_path / "models" / f"{name}.onnx")]
    scored = run("score", data / "test", "-o", tmp_path / "out", "--keep-atypical", *models)
    assert scored.returncode == 0, scored.stderr
    found, rows, _ = store.read_run(open_output(tmp_path / "out"))
    assert find_shared_comparison([model.card for model in found.models]) == cards[0].comparison
    assert f", {found.undecided} undecided" in scored.stdout
    assert {row.spread for row in rows} == {0.0}


@pytest.mark.parametrize(
    ("normals", "code", "message"),
    [
        (("no-equals",), 2, "expected NAME=FOLDER, found no-equals"),
        (("a=.", "a=."), 2, "found two folders named a"),
        (("a=nowhere",), 1, "Expected a folder of normal images, found none at nowhere"),
    ],
)
def test_normals_that_cannot_be_used_end_the_training(data, tmp_path, normals, code, message):
    options = [word for value in normals for word in ("--normals", value)]
    failed = run("train", data, "-o", tmp_path / "run", "--model", "mlp", *options)
    assert failed.returncode == code
    assert message in failed.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_was_tampered_with_gives_no_model(killed_then_finished, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(killed_then_finished[0], broken)
    (broken / "mlp" / "model.keras").write_bytes(b"not a network")
    failed = run("export", broken, "-o", tmp_path / "models")
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: ")
    assert not list(tmp_path.glob("models/*.onnx"))
