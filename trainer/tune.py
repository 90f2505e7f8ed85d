"""Search settings for one network, on validation films alone; test films are never looked at.

Every trial is a whole training, judged as the network that would be kept. Its score is the mean of
two log losses, on the validation films and on the shifted ones, both after calibration, so that
settings that only move or stretch the logits gain nothing. The first trial is the recipe as it is.

Trials are kept in a journal in the search's folder: after a kill the same command goes on, and the
trial that was cut off is tried again.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import optuna
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState
from sklearn.metrics import log_loss

from batch_scorer.errors import DatasetError, ForeignFile
from trainer import run_folder
from trainer.config import TUNABLE_SETTINGS
from trainer.data.corruptions import corrupt_images
from trainer.evaluate import calibrate
from trainer.model.heads import build_inference_model
from trainer.train import claim_run_folder, make_final_network, train_network

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from trainer.config import FitConfig
    from trainer.data.dataset import Dataset, LabelledImages

log = logging.getLogger(__name__)
JOURNAL_FILE = "search.jsonl"
TABLE_FILE = "search.csv"
SEARCH_FILES = (run_folder.CONFIG_FILE, JOURNAL_FILE, TABLE_FILE)
TABLE_COLUMNS = ("trial", "state", "score", "validation", "shifted", "minutes", *TUNABLE_SETTINGS)
PREDICT_BATCH = 32
FINISHED_STATES = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class SearchResult:
    """The best settings of a search: their score, the recipe's own, and how to train with them.

    The recipe has no score where it diverged.
    """

    score: float
    recipe_score: float | None
    trials: int
    best: FitConfig


def search_settings(config: FitConfig, dataset: Dataset, folder: Path, trials: int) -> SearchResult:
    """Try settings until there are so many trials, and say which were best.

    Args:
        config: What every trial has in common; settings that it changes stay as they are there.
        dataset: Its test films are not looked at.
        folder: Of the search: ``search.jsonl`` to go on from and the table ``search.csv``.
        trials: How many there shall be in all, those of earlier calls among them.

    Raises:
        DatasetError: The folder holds a search of another config or of other films, every setting
            is fixed, or every trial diverged.
        ForeignFile: The folder holds something that the program did not write.
        LedgerError: The folder cannot be written.
    """
    free = [name for name in TUNABLE_SETTINGS if name not in config.changes]
    if not free:
        raise DatasetError("Every setting is fixed by --set, so there is nothing to search.")
    claim_run_folder(folder, config, dataset, SEARCH_FILES)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open_study(folder, config, free)
    validation = [dataset.validation, corrupt_images(dataset.validation)]

    def run(trial: optuna.Trial) -> float:
        changed = {name: _suggest_value(trial, config, name) for name in free}
        tried = replace(config, changes={**config.changes, **changed})
        log.info("2 train     trial %d: %s", trial.number + 1, _format_settings(changed))
        return _run_trial(trial, tried, dataset, validation)

    while (missing := trials - len(study.get_trials(deepcopy=False, states=FINISHED_STATES))) > 0:
        log.info("            %d of %d trials left", missing, trials)
        study.optimize(run, n_trials=1)
        run_folder.write_text(folder, TABLE_FILE, _format_table(study, config))
    return _find_best(study, config)


def _open_study(folder: Path, config: FitConfig, free: list[str]) -> optuna.Study:
    """The study of a folder, new or as an earlier call left it."""
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(_JournalFile(folder)),
        study_name=config.model,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=config.epochs // 3),
    )
    earlier = study.get_trials(deepcopy=False)
    # A seed of its own for each call: the same one would suggest the same settings again.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(earlier))
    for trial in earlier:
        if trial.state is TrialState.RUNNING:
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=TrialState.FAIL)
    if not earlier:
        study.enqueue_trial(_read_recipe_values(config, free))
    return study


class _JournalFile(BaseJournalBackend):  # type: ignore[misc]
    """What Optuna notes of a search, one JSON object a line. One command at a time writes it.

    Raises:
        ForeignFile: The file was changed since it was written.
    """

    def __init__(self, folder: Path) -> None:
        self._place = run_folder.open_run(folder)
        data = run_folder.read_unchanged(self._place, JOURNAL_FILE)
        if data is None and (folder / JOURNAL_FILE).exists():
            raise ForeignFile(
                f"Expected the trials of this search in {folder / JOURNAL_FILE}, found that it was "
                "changed since.",
                "Search again in another folder.",
            )
        self._logs: list[dict[str, Any]] = [json.loads(line) for line in (data or b"").splitlines()]

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Everything from that number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Note more."""
        self._logs += logs
        text = "".join(f"{json.dumps(log)}\n" for log in self._logs)
        self._place.write(JOURNAL_FILE, text.encode())


def _read_recipe_values(config: FitConfig, names: Iterable[str]) -> dict[str, float]:
    """What the recipe has for these settings."""
    return {name: getattr(config.recipe, name) for name in names}


def _suggest_value(trial: optuna.Trial, config: FitConfig, name: str) -> float:
    """A value for one setting; the ranges are wide around what recipes have."""
    usual = config.recipe.learning_rate
    low, high = {
        "learning_rate": (usual / 10, usual * 10),
        "weight_decay": (1e-6, 1e-1),
        "label_smoothing": (0.0, 0.2),
        "augmentation": (0.0, 1.5),
    }[name]
    value: float = trial.suggest_float(
        name, low, high, log=name in ("learning_rate", "weight_decay")
    )
    return value


def _run_trial(
    trial: optuna.Trial, config: FitConfig, dataset: Dataset, validation: list[LabelledImages]
) -> float:
    """Train with one trial's settings; the score of the epoch that ``fit`` would keep."""
    keras.utils.clear_session()
    keep_best = keras.callbacks.EarlyStopping(
        run_folder.MONITORED_METRIC, mode="min", patience=config.epochs, restore_best_weights=True
    )
    trained = train_network(
        config, dataset, [_PruningCallback(trial, dataset.validation), keep_best]
    )
    kept = build_inference_model(
        make_final_network(trained, config), None, both_ways=config.recipe.flip_tta
    )
    losses = _compute_log_losses(kept, "logit", validation)
    for name, loss in zip(("validation", "shifted"), losses, strict=True):
        trial.set_user_attr(name, loss)
    return float(np.mean(losses))


class _PruningCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends a trial that is worse than the median of the others at the same epoch."""

    def __init__(self, trial: optuna.Trial, validation: LabelledImages) -> None:
        super().__init__()
        self._trial, self._validation = trial, validation

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        (loss,) = _compute_log_losses(self.model, "pneumonia", [self._validation])
        self._trial.report(loss, epoch)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def _compute_log_losses(model: keras.Model, name: str, parts: list[LabelledImages]) -> list[float]:
    """Log loss of each part, after one calibration on all of them.

    Raises:
        optuna.TrialPruned: The network diverged.
    """
    logits = [
        np.asarray(model.predict(films.pixels, batch_size=PREDICT_BATCH, verbose=0)[name], float)
        for films in parts
    ]
    if not all(np.isfinite(part).all() for part in logits):
        raise optuna.TrialPruned("The network diverged.")
    labels = np.concatenate([films.labels for films in parts])
    calibration = calibrate(labels, np.concatenate(logits)[:, 0])
    return [
        float(log_loss(films.labels, calibration.apply(part[:, 0])))
        for films, part in zip(parts, logits, strict=True)
    ]


def _format_table(study: optuna.Study, config: FitConfig) -> str:
    """All trials as CSV, the best first, those that were ended early last."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TABLE_COLUMNS)
    finished = study.get_trials(deepcopy=False, states=FINISHED_STATES)
    for trial in sorted(
        finished, key=lambda trial: (trial.state is not FINISHED_STATES[0], trial.value or 0)
    ):
        complete = trial.state is TrialState.COMPLETE
        writer.writerow(
            (
                trial.number + 1,
                "complete" if complete else "ended early",
                trial.value if complete else "",
                trial.user_attrs.get("validation", ""),
                trial.user_attrs.get("shifted", ""),
                f"{trial.duration.total_seconds() / 60:.1f}",
                *(
                    trial.params.get(name, getattr(config.recipe, name))
                    for name in TUNABLE_SETTINGS
                ),
            )
        )
    return text.getvalue()


def _find_best(study: optuna.Study, config: FitConfig) -> SearchResult:
    complete = study.get_trials(deepcopy=False, states=FINISHED_STATES[:1])
    if not complete:
        raise DatasetError(
            "Every trial diverged, so there are no best settings.",
            "Search again in another folder, with a smaller --set learning_rate=NUMBER.",
        )
    scores = (
        trial.value
        for trial in complete
        if trial.params == _read_recipe_values(config, trial.params)
    )
    return SearchResult(
        score=study.best_value,
        recipe_score=next(scores, None),
        trials=len(study.get_trials(deepcopy=False, states=FINISHED_STATES)),
        best=replace(config, changes={**config.changes, **study.best_params}),
    )


def _format_settings(settings: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in settings.items())
