"""cxr train --search: trials on validation films, killed and resumed, and settings that are set."""

from __future__ import annotations

import csv
import signal
import subprocess

import pytest

from tests.images import make_labelled_folder
from tests.trainer.commands import command, run
from trainer import run_folder, throughput
from trainer.config import RECIPES, FitConfig

pytestmark = pytest.mark.slow

OPTIONS = ("--model", "mlp", "--epochs", "2", "--batch-size", "16")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_labelled_folder(tmp_path_factory.mktemp("data") / "films", 40, 60)


@pytest.fixture(scope="module")
def killed_then_finished(data, tmp_path_factory):
    """A search for three trials that was killed in its second one, then started again."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    search = ("train", data, "-o", folder, *OPTIONS, "--search", 3)
    table = folder / "search" / "mlp" / "search.csv"
    with subprocess.Popen(
        command(*search), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if "trial 2" in line:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = rows(table)
    return table, before, run(*search)


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_killed_search_goes_on_where_it_was(killed_then_finished):
    table, before, finished = killed_then_finished
    assert finished.returncode == 0, finished.stderr
    assert [row["trial"] for row in before] == ["1"]
    after = rows(table)
    assert len(after) == 3
    assert before[0] in after, "a finished trial was not repeated"
    assert "2 of 3 trials left" in finished.stderr
    assert "trial 1:" not in finished.stderr


def test_the_first_trial_is_the_recipe_and_the_best_one_is_printed(killed_then_finished):
    table, _, finished = killed_then_finished
    found = rows(table)
    first = next(row for row in found if row["trial"] == "1")
    for name in ("learning_rate", "weight_decay", "label_smoothing", "augmentation"):
        assert float(first[name]) == getattr(RECIPES["mlp"], name)
    complete = [row for row in found if row["state"] == "complete"]
    assert complete == found[: len(complete)]
    scores = [float(row["score"]) for row in complete]
    assert scores == sorted(scores)
    assert scores[0] == pytest.approx(
        (float(found[0]["validation"]) + float(found[0]["shifted"])) / 2
    )
    assert f"best of 3 trials scores {scores[0]:.4f}" in finished.stdout
    assert f"--set learning_rate={found[0]['learning_rate']}" in finished.stdout


def test_the_printed_command_trains_with_the_settings(killed_then_finished, data):
    words = killed_then_finished[2].stdout.split("Next: cxr ")[1].split()
    trained = run(*words, "--no-test")
    assert trained.returncode == 0, trained.stderr
    assert "mlp: 2 epochs of " in trained.stderr
    other = run("train", data, "-o", words[words.index("-o") + 1], *OPTIONS)
    assert other.returncode == 1
    assert "holds a run with changes" in other.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "depth=3"), "expected one of learning_rate, weight_decay"),
        (("--set", "learning_rate=fast"), "expected learning_rate=NUMBER, found"),
        (("--set", "label_smoothing=0.9"), "expected label_smoothing from 0 to 0.5, found 0.9"),
        (("--set", "learning_rate=nan"), "expected learning_rate from 1e-06 to 1, found nan"),
        (("--search", 2, "--normals", "a=."), "remove --normals"),
    ],
)
def test_settings_that_cannot_be_used_are_wrong_usage(data, tmp_path, options, message):
    refused = run("train", data, "-o", tmp_path / "run", *options)
    assert refused.returncode == 2
    assert message in " ".join(refused.stderr.split())
    assert not (tmp_path / "run").exists()


def test_a_config_says_its_recipe_and_the_command_that_repeats_it():
    changes = {"learning_rate": 0.002, "policy": "mixed_bfloat16"}
    config = FitConfig("cnn", 3, 8, 1, "torch", "none", changes)
    assert (config.recipe.learning_rate, config.recipe.policy) == (0.002, "mixed_bfloat16")
    assert config.recipe.label_smoothing == RECIPES["cnn"].label_smoothing
    assert config.command.endswith("--backend torch --compute bfloat16 --set learning_rate=0.002")


def test_the_speed_of_a_training_is_told(tmp_path):
    folder = tmp_path / "cnn"
    folder.mkdir()
    columns = ",".join(run_folder.HISTORY_COLUMNS)
    (folder / "history.csv").write_text(f"epoch,{columns}\n0,1,0.5,1,1\n1,1,0.4,1,1\n")
    (folder / "seconds.txt").write_text("120.0\n")
    said = throughput.describe_speed(folder, "cnn", 4578)
    assert said == "cnn: 2 epochs of 4,578 images in 2.0 minutes, 76 images per second"
    assert throughput.describe_total_time(tmp_path, ("cnn",), 180).startswith(
        "all 1 networks trained in 2.0 min"
    )
