"""A run folder of somebody else is refused, and of a training only its own files go."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from batch_scorer.errors import ForeignFile
from trainer import run_folder
from trainer.fit import claim
from trainer.recipes import FitConfig

CONFIG = FitConfig("mlp", 1, 16, 1, "tensorflow", "none")
DATASET = SimpleNamespace(fingerprint="0", withheld="")


@pytest.mark.parametrize("name", ["predictions.csv", "model.keras", "resume/diary.txt", "a.txt"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("Dear diary")
    with pytest.raises(ForeignFile, match=r"holds .*, and no run of `cxr train`"):
        claim(tmp_path, CONFIG, DATASET)
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["Dear diary"]


def test_an_empty_folder_and_one_that_was_claimed_are_taken(tmp_path):
    claim(tmp_path, CONFIG, DATASET)
    (tmp_path / "notes.txt").write_text("Dear diary")
    claim(tmp_path, CONFIG, DATASET)


def test_of_an_interrupted_training_only_its_own_files_go(tmp_path):
    state = tmp_path / run_folder.STATE_FOLDER
    state.mkdir(parents=True)
    for name in (run_folder.STATE_WEIGHTS, f"{run_folder.STATE_METADATA}.bkp"):
        (state / name).touch()
    resume = tmp_path / run_folder.RESUME_FOLDER
    (resume / run_folder.BEST_WEIGHTS.format(epoch=3)).touch()
    (resume / "diary.txt").write_text("Dear diary")
    run_folder.remove_resume(resume)
    assert list(resume.rglob("*")) == [resume / "diary.txt"]
    (resume / "diary.txt").unlink()
    run_folder.remove_resume(resume)
    assert not resume.exists()
