"""Another split of the same films: by cause and series."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from batch_scorer.errors import DatasetError
from benchmarks import held_out
from benchmarks.held_out import hold_out, main, tell
from trainer.dataset import Dataset, Films

NAMES = [
    *(f"person{number}_bacteria_1.jpeg" for number in (1, 2, 3)),
    *(f"person{number}_virus_1.jpeg" for number in (3, 4)),
    *(f"IM-{number:04d}-0001.jpeg" for number in (5, 6)),
    *(f"NORMAL2-IM-{number:04d}-0001.jpeg" for number in (7, 8)),
]


def films_of(names):
    labels = np.array([int(name.startswith("person")) for name in names])
    patients = np.array([name.split("_")[0] for name in names])
    pixels = np.zeros((len(names), 4, 4, 1), np.uint8)
    return Films(pixels, labels, patients, np.array(names))


def dataset_of(train, validation):
    return Dataset("set", "", "", films_of(train), films_of(validation), films_of(NAMES))


def test_parts_differ_in_cause_and_series_and_share_no_patient():
    found = hold_out(dataset_of(NAMES[::2], NAMES[1::2]), "bacterial", "IM")
    assert sorted(found.train.keys) == sorted([*NAMES[:3], *NAMES[5:7]])
    assert sorted(found.validation.keys) == sorted([NAMES[4], *NAMES[7:]])  # person3 is in both
    assert found.test is None


def test_the_other_cause_and_series_can_be_learnt_from():
    found = hold_out(dataset_of(NAMES[::2], NAMES[1::2]), "viral", "NORMAL2")
    assert sorted(found.train.keys) == sorted([*NAMES[3:5], *NAMES[7:]])
    assert sorted(found.validation.keys) == sorted([*NAMES[:2], *NAMES[5:7]])  # not person3


def test_names_without_a_series_are_refused():
    plain = [name.replace("NORMAL2-IM", "IM") for name in NAMES]
    with pytest.raises(DatasetError, match="both classes to judge, found one class"):
        hold_out(dataset_of(plain[::2], plain[1::2]), "bacterial", "IM")


def test_the_sentence_has_both_figures_with_their_intervals():
    films = films_of(
        [f"person{n}_virus_1.jpeg" for n in range(20)] + [f"IM-{n}" for n in range(20)]
    )
    logits = np.where(films.labels == 1, 2.0, -2.0)
    logits[[0, 39]] = logits[[39, 0]]
    said = tell(films, logits)
    assert said.startswith("AUC 0.9")
    assert "specificity 0.95" in said
    assert "20 normal films, 20 with pneumonia" in said


def test_the_script_itself_answers():
    done = subprocess.run(
        [sys.executable, held_out.__file__, "--help"], capture_output=True, text=True, check=True
    )
    assert "judge it on the other" in " ".join(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "learnt", "judged", "each"),
    [("cause", 32, 32, 16), ("tone", 54, 10, 5)],
)
def test_the_command_trains_and_judges(tmp_path, by, learnt, judged, each):
    rng = np.random.default_rng(0)
    for number in range(16):
        for name in (
            f"PNEUMONIA/person{number}_bacteria_1.png",
            f"PNEUMONIA/person{number + 50}_virus_1.png",
            f"NORMAL/IM-{number}-0001.png",
            f"NORMAL/NORMAL2-IM-{number}-0001.png",
        ):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            high = 160 if "PNEUMONIA" in name else 60
            Image.fromarray(rng.integers(0, high, (256, 256), np.uint8)).save(path)
    done = CliRunner().invoke(main, [str(tmp_path), "--model", "mlp", "--epochs", "1", "--by", by])
    assert done.exit_code == 0, done.output
    assert f"{learnt} films to learn from, {judged} to judge" in done.output
    expected = f"at a sensitivity of 0.95; {each} normal films, {each} with pneumonia"
    assert expected in done.output
