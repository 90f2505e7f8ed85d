"""Nothing of somebody else's goes in a run folder, and an interrupted training goes on."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import keras
import numpy as np
import optuna
import pytest

from batch_scorer.errors import DatasetError, ForeignFile
from batch_scorer.model.card import encode_card
from batch_scorer.storage.output import INTERNAL_FOLDER
from tests.tiny_model import make_tiny_card
from trainer import model_card, run_folder
from trainer.audit import html
from trainer.audit.cli import audit
from trainer.config import FitConfig
from trainer.data.dataset import LabelledImages
from trainer.model.networks import SIZE_PX
from trainer.throughput import describe_speed
from trainer.train import _EpochSaver, _save_final_network, _train, claim_run_folder
from trainer.tune import JOURNAL_FILE, SEARCH_FILES, _JournalFile

CONFIG = FitConfig("mlp", 1, 16, 1, "tensorflow", "none")
DATASET = SimpleNamespace(fingerprint="0", withheld="")
DIARY = "Dear diary"
WEIGHTS = run_folder.format_weights_name(1)
ALL = sorted({*run_folder.RUN_FILES, *SEARCH_FILES, WEIGHTS})


def look(folder):
    """Target or content of everything below a folder, but for the program's own."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if INTERNAL_FOLDER not in path.parts and (path.is_symlink() or path.is_file())
    }


def claim_all(folder):
    claim_run_folder(folder, CONFIG, DATASET, tuple({*run_folder.RUN_FILES, *SEARCH_FILES}))


def copy_config(folder, tmp_path):
    """The config of the same command, without a record: as a version that kept none wrote it."""
    claim_all(tmp_path / "other")
    folder.mkdir()
    shutil.copy(tmp_path / "other" / run_folder.CONFIG_FILE, folder)


def keep(folder, *losses):
    """Epochs with these validation losses, after those that were before."""
    rows = run_folder.read_history_rows(folder)
    for loss in losses:
        columns = dict.fromkeys(run_folder.HISTORY_COLUMNS, "1") | {
            run_folder.MONITORED_METRIC: str(loss)
        }
        rows.append({"epoch": str(len(rows)), **columns})
        run_folder.save_epoch(folder, rows, len(rows) * 10, b"weights %d" % len(rows))


def kept(folder):
    return sorted(path.name for path in (folder / run_folder.RESUME_FOLDER).glob("*"))


@pytest.mark.parametrize("name", [*ALL, "resume/diary.txt", "a.txt"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}" if name == run_folder.CONFIG_FILE else DIARY)
    before = look(tmp_path)
    with pytest.raises((ForeignFile, DatasetError), match="holds"):
        claim_all(tmp_path)
    assert look(tmp_path) == before
    assert not (tmp_path / INTERNAL_FOLDER).exists()


@pytest.mark.parametrize("content", [b"Dear diary", b"\xff\xfe", b"[" * 100_000, b"[]"])
def test_a_config_that_is_something_else_is_refused(tmp_path, content):
    (tmp_path / run_folder.CONFIG_FILE).write_bytes(content)
    with pytest.raises(ForeignFile, match="Expected the configuration of a run"):
        claim_all(tmp_path)


@pytest.mark.parametrize("claimed", [False, True])
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
@pytest.mark.parametrize("name", [*ALL, run_folder.RESUME_FOLDER])
def test_beside_a_config_everything_that_no_record_names_is_refused(tmp_path, name, kind, claimed):
    folder, victim = tmp_path / "run", tmp_path / "victim"
    if claimed:
        claim_all(folder)
    else:
        copy_config(folder, tmp_path)
    victim.mkdir()
    (victim / "epoch-001.weights.h5").write_text(DIARY)
    place = folder / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    if kind == "file":
        place.write_text(DIARY)
    elif kind == "link":
        place.symlink_to(victim if name == run_folder.RESUME_FOLDER else victim / "a.txt")
    else:
        place.mkdir()
        (place / "epoch-001.weights.h5").write_text(DIARY)
    before = look(tmp_path)
    with pytest.raises(ForeignFile):
        claim_all(folder)
    assert look(tmp_path) == before


def test_an_empty_folder_and_one_that_was_claimed_are_taken(tmp_path):
    claim_run_folder(tmp_path, CONFIG, DATASET)
    (tmp_path / "notes.txt").write_text(DIARY)
    claim_run_folder(tmp_path, CONFIG, DATASET)
    (tmp_path / "notes.txt").unlink()
    (tmp_path / run_folder.CONFIG_FILE).unlink()  # killed after the record, before the config
    claim_run_folder(tmp_path, CONFIG, DATASET)
    assert run_folder.read_config(tmp_path)["model"] == "mlp"


def test_a_finished_run_without_a_record_is_taken_and_its_files_are_kept(tmp_path):
    folder = tmp_path / "run"
    copy_config(folder, tmp_path)
    (folder / run_folder.MODEL_FILE).write_text("network")
    (folder / run_folder.PREDICTIONS_FILE).write_text(DIARY)
    card = folder / run_folder.CARD_FILE
    card.write_text(encode_card(make_tiny_card(name="cnn")))
    with pytest.raises(ForeignFile, match=r"contains .*, which `cxr train` did not write"):
        claim_run_folder(folder, CONFIG, DATASET)
    card.write_text(encode_card(make_tiny_card(name="mlp")))
    claim_run_folder(folder, CONFIG, DATASET)
    run_folder.write_text(folder, run_folder.PREDICTIONS_FILE, "rows")
    (earlier,) = folder.glob(f"earlier/*/{run_folder.PREDICTIONS_FILE}")
    assert earlier.read_text() == DIARY


@pytest.mark.parametrize("name", [run_folder.HISTORY_FILE, run_folder.SECONDS_FILE, WEIGHTS])
def test_what_comes_while_training_goes_on_is_not_replaced(tmp_path, name):
    claim_run_folder(tmp_path, CONFIG, DATASET)
    keeper = _EpochSaver(tmp_path)
    keeper.set_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(DIARY)
    before = look(tmp_path)
    with pytest.raises(ForeignFile, match=f"holds a {name}"):
        keeper.on_epoch_end(0, {run_folder.MONITORED_METRIC: 0.5})
    assert look(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    [
        b"Dear diary\nmy",
        b"\xff\xfe",
        b"epoch\n0",
        b"val_pneumonia_loss,b\n1",
        b"val_pneumonia_loss\nx",
    ],
)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        (run_folder.HISTORY_FILE, run_folder.read_history),
        (run_folder.SECONDS_FILE, run_folder.read_seconds),
    ],
)
def test_a_history_that_was_changed_is_said(tmp_path, name, read, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=r"of a training run in .*, found other content"):
        read(tmp_path)


def test_a_training_goes_on_after_its_newest_whole_epoch(tmp_path):
    claim_run_folder(tmp_path, CONFIG, DATASET)
    assert run_folder.prepare_resume(tmp_path) == 0
    keep(tmp_path, 0.7, 0.2, 0.8, 0.9)
    assert kept(tmp_path) == ["epoch-002.weights.h5", "epoch-004.weights.h5"]
    claim_run_folder(tmp_path, CONFIG, DATASET)
    assert (run_folder.prepare_resume(tmp_path), run_folder.find_best_epoch(tmp_path)) == (4, 2)
    newest = tmp_path / run_folder.format_weights_name(4)
    newest.write_bytes(b"torn")
    assert run_folder.prepare_resume(tmp_path) == 2
    assert run_folder.read_history(tmp_path)[run_folder.MONITORED_METRIC] == [0.7, 0.2]
    keep(tmp_path, 0.1)
    assert kept(tmp_path) == ["epoch-003.weights.h5"]
    assert (tmp_path / "seconds.txt").read_text() == "30.0\n"
    assert b"torn" in look(tmp_path / "earlier").values()
    (tmp_path / run_folder.format_weights_name(3)).unlink()
    assert run_folder.prepare_resume(tmp_path) == 0
    assert run_folder.read_history_rows(tmp_path) == []


def test_a_training_whose_best_epoch_is_gone_starts_over(tmp_path):
    claim_run_folder(tmp_path, CONFIG, DATASET)
    keep(tmp_path, 0.7, 0.2, 0.8)
    (tmp_path / run_folder.format_weights_name(2)).unlink()
    assert run_folder.prepare_resume(tmp_path) == 0


def test_of_an_interrupted_training_only_its_own_files_go(tmp_path):
    claim_run_folder(tmp_path, CONFIG, DATASET)
    keep(tmp_path, 0.7)
    diary = tmp_path / run_folder.RESUME_FOLDER / "diary.txt"
    diary.write_text(DIARY)
    claim_run_folder(tmp_path, CONFIG, DATASET)
    run_folder.remove_resume(tmp_path)
    assert kept(tmp_path) == ["diary.txt"]
    diary.unlink()
    run_folder.remove_resume(tmp_path)
    assert not diary.parent.exists()


def test_keras_opens_nothing_in_the_run_folder(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text(DIARY)
    folder = tmp_path / "run"
    claim_run_folder(folder, CONFIG, DATASET)
    for name in (f"partial.{run_folder.MODEL_FILE}", "epoch.weights.h5"):
        (folder / name).symlink_to(victim)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    keeper = _EpochSaver(folder)
    keeper.set_model(model)
    keeper.on_epoch_end(0, {run_folder.MONITORED_METRIC: 0.5})
    assert kept(folder) == ["epoch-001.weights.h5"]
    monkeypatch.setattr("trainer.train.make_final_network", lambda *_: model)
    monkeypatch.setattr("trainer.train.build_inference_model", lambda *_, **__: model)
    films = SimpleNamespace(pixels=np.zeros((2, 9, 9, 1), np.uint8))
    monkeypatch.setattr("trainer.train.fit_ood_detector", lambda _: None)
    _save_final_network(model, CONFIG, films, folder)
    assert keras.models.load_model(folder / run_folder.MODEL_FILE).count_params() == 3
    assert victim.read_text() == DIARY


def test_the_journal_of_a_search_goes_on_and_is_not_another_file(tmp_path):
    claim_run_folder(tmp_path, CONFIG, DATASET, SEARCH_FILES)

    def study():
        storage = optuna.storages.JournalStorage(_JournalFile(tmp_path))
        return optuna.create_study(study_name="mlp", storage=storage, load_if_exists=True)

    study().optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    cut_off = study().ask()
    study().tell(cut_off.number, state=optuna.trial.TrialState.FAIL)
    states = [trial.state.name for trial in study().get_trials()]
    assert states == ["COMPLETE", "COMPLETE", "FAIL"]
    journal = tmp_path / JOURNAL_FILE
    journal.write_text(DIARY)
    with pytest.raises(ForeignFile, match="found a changed file"):
        study()
    assert journal.read_text() == DIARY


def test_an_audit_asks_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.audit.audit.audit_dataset", lambda *_, **__: pytest.fail("began"))
    (tmp_path / html.PAGE_FILE).write_text(DIARY)
    with pytest.raises(ForeignFile):
        audit.main([str(tmp_path), "-o", str(tmp_path)], standalone_mode=False)
    assert look(tmp_path) == {html.PAGE_FILE: DIARY.encode()}


def test_a_training_that_was_stopped_after_its_last_epoch_repeats_none(tmp_path, monkeypatch):
    pixels = np.random.default_rng(1).integers(0, 255, (20, SIZE_PX, SIZE_PX, 1), np.uint8)
    names = np.arange(20).astype(str)
    films = LabelledImages(pixels, np.arange(20) % 2, np.array([""] * 20), names)
    dataset = SimpleNamespace(train=films, validation=films, fingerprint="0", withheld="")
    claim_run_folder(tmp_path, CONFIG, dataset)
    stopped = []

    def stop(model, *_):
        stopped.append([*model.get_weights(), *model.optimizer.variables])
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.train._save_final_network", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            _train(CONFIG, dataset, tmp_path)
    assert len(run_folder.read_history_rows(tmp_path)) == CONFIG.epochs
    assert all(map(np.array_equal, *stopped)), "weights and optimiser go on where they were"


def finish(folder, *, older=False):
    """A run folder whose training is over; an older version kept no record of what it wrote."""
    claim_run_folder(folder, CONFIG, DATASET)
    keep(folder, 0.7, 0.2)
    run_folder.open_run(folder).write(run_folder.MODEL_FILE, b"network")
    if older:
        kept_files = (run_folder.MODEL_FILE, run_folder.HISTORY_FILE, run_folder.SECONDS_FILE)
        shutil.rmtree(folder / INTERNAL_FOLDER)
        run_folder.open_run(folder).add_to_record({name: [] for name in kept_files})


def read_finished(folder):
    describe_speed(folder, "mlp", 10)
    model_card._make_history(folder)
    model_card._load_network(folder)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (run_folder.HISTORY_FILE, None),
        (run_folder.HISTORY_FILE, b"epoch,val_pneumonia_loss\n0,0.7\n"),
        (run_folder.HISTORY_FILE, b"epoch,val_pneumonia_loss\n"),
        (run_folder.SECONDS_FILE, None),
        (run_folder.SECONDS_FILE, b"1e400"),
        (run_folder.SECONDS_FILE, b"nan"),
        (run_folder.SECONDS_FILE, b"-1"),
        (run_folder.MODEL_FILE, b"junk"),
    ],
)
def test_a_finished_training_whose_kept_files_changed_is_refused(tmp_path, name, content, older):
    finish(tmp_path, older=older)
    describe_speed(tmp_path, "mlp", 10)
    path = tmp_path / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"of a training run in .*{name}, found other content"):
        read_finished(tmp_path)


def test_a_history_that_only_looks_right_is_not_what_was_written(tmp_path):
    finish(tmp_path)
    path = tmp_path / run_folder.HISTORY_FILE
    path.write_text(path.read_text().replace("0.2", "0.1"))
    with pytest.raises(DatasetError, match="found other content"):
        run_folder.read_history(tmp_path)
