"""A search for the best settings of one network, on validation images only.

Each trial is a full training, scored like the network that would be kept. The score is the mean of
two log losses, on the validation images and on the corrupted ones. Both are computed after
calibration, so settings that only shift or stretch the logits gain nothing. The first trial is the
unchanged recipe.

Trials are logged to a journal in the search folder. After a kill, the same command resumes and
repeats the interrupted trial.
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
    """The best settings of a search, their score and the recipe's score.

    ``recipe_score`` is None if the recipe diverged.
    """

    score: float
    recipe_score: float | None
    trials: int
    best: FitConfig


def search_settings(config: FitConfig, dataset: Dataset, folder: Path, trials: int) -> SearchResult:
    """Run trials until the search has ``trials`` of them, and return the best settings.

    Args:
        config: The configuration that all trials share; settings in its ``changes`` stay fixed.
        dataset: Training and validation images; test images are not used.
        folder: The search folder, with the journal ``search.jsonl`` and the table
            ``search.csv``.
        trials: The total number of trials, including those of earlier calls.

    Raises:
        DatasetError: The folder holds a search of another config or of other images, every
            setting is fixed, or every trial diverged.
        ForeignFile: The folder holds a file that this program did not write.
        OutputError: The folder cannot be written.
    """
    free_settings = [name for name in TUNABLE_SETTINGS if name not in config.changes]
    if not free_settings:
        raise DatasetError("--set fixes every setting, so there is nothing to search.")
    claim_run_folder(folder, config, dataset, SEARCH_FILES)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open_study(folder, config, free_settings)
    validation = [dataset.validation, corrupt_images(dataset.validation)]

    def run(trial: optuna.Trial) -> float:
        changed = {name: _suggest_value(trial, config, name) for name in free_settings}
        trial_config = replace(config, changes={**config.changes, **changed})
        log.info("2 train     trial %d: %s", trial.number + 1, _format_settings(changed))
        return _run_trial(trial, trial_config, dataset, validation)

    while (missing := trials - len(study.get_trials(deepcopy=False, states=FINISHED_STATES))) > 0:
        log.info("            %d of %d trials left", missing, trials)
        study.optimize(run, n_trials=1)
        run_folder.write_text(folder, TABLE_FILE, _format_table(study, config))
    return _find_best(study, config)


def _open_study(folder: Path, config: FitConfig, free_settings: list[str]) -> optuna.Study:
    """Open the study of a folder: a new one, or the one of an earlier call."""
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(_JournalFile(folder)),
        study_name=config.model,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=config.epochs // 3),
    )
    earlier = study.get_trials(deepcopy=False)
    # Each call has its own seed: the same seed would suggest the same settings again.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(earlier))
    for trial in earlier:
        if trial.state is TrialState.RUNNING:
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=TrialState.FAIL)
    if not earlier:
        study.enqueue_trial(_read_recipe_values(config, free_settings))
    return study


class _JournalFile(BaseJournalBackend):  # type: ignore[misc]
    """The journal of an Optuna study, one JSON object per line, written by one command at a time.

    Raises:
        ForeignFile: The file was changed since it was written.
    """

    def __init__(self, folder: Path) -> None:
        self._output = run_folder.open_run(folder)
        data = run_folder.read_unchanged(self._output, JOURNAL_FILE)
        if data is None and (folder / JOURNAL_FILE).exists():
            raise ForeignFile(
                f"Expected the trials of this search in {folder / JOURNAL_FILE}, found a "
                "changed file.",
                "Search again in another folder.",
            )
        self._logs: list[dict[str, Any]] = [json.loads(line) for line in (data or b"").splitlines()]

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return all entries from that number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries and rewrite the file."""
        self._logs += logs
        text = "".join(f"{json.dumps(log)}\n" for log in self._logs)
        self._output.write(JOURNAL_FILE, text.encode())


def _read_recipe_values(config: FitConfig, names: Iterable[str]) -> dict[str, float]:
    """Read the recipe's values of these settings."""
    return {name: getattr(config.recipe, name) for name in names}


def _suggest_value(trial: optuna.Trial, config: FitConfig, name: str) -> float:
    """Suggest a value for one setting, from a wide range around the recipes' values."""
    default = config.recipe.learning_rate
    low, high = {
        "learning_rate": (default / 10, default * 10),
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
    """Train with one trial's settings; return the score of the epoch that ``fit`` would keep."""
    keras.utils.clear_session()
    keep_best = keras.callbacks.EarlyStopping(
        run_folder.MONITORED_METRIC, mode="min", patience=config.epochs, restore_best_weights=True
    )
    trained = train_network(
        config, dataset, [_PruningCallback(trial, dataset.validation), keep_best]
    )
    final = build_inference_model(
        make_final_network(trained, config), None, flip_tta=config.recipe.flip_tta
    )
    losses = _compute_log_losses(final, "logit", validation)
    for name, loss in zip(("validation", "shifted"), losses, strict=True):
        trial.set_user_attr(name, loss)
    return float(np.mean(losses))


class _PruningCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops a trial that is worse than the median of the others at the same epoch."""

    def __init__(self, trial: optuna.Trial, validation: LabelledImages) -> None:
        super().__init__()
        self._trial, self._validation = trial, validation

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        (loss,) = _compute_log_losses(self.model, "pneumonia", [self._validation])
        self._trial.report(loss, epoch)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def _compute_log_losses(model: keras.Model, name: str, parts: list[LabelledImages]) -> list[float]:
    """Compute the log loss of each part after one calibration on all of them.

    Raises:
        optuna.TrialPruned: The network diverged.
    """
    logits = [
        np.asarray(model.predict(images.pixels, batch_size=PREDICT_BATCH, verbose=0)[name], float)
        for images in parts
    ]
    if not all(np.isfinite(part).all() for part in logits):
        raise optuna.TrialPruned("The network diverged.")
    labels = np.concatenate([images.labels for images in parts])
    calibration = calibrate(labels, np.concatenate(logits)[:, 0])
    return [
        float(log_loss(images.labels, calibration.apply(part[:, 0])))
        for images, part in zip(parts, logits, strict=True)
    ]


def _format_table(study: optuna.Study, config: FitConfig) -> str:
    """Format all finished trials as CSV, best first, pruned ones last."""
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
            "Every trial diverged, so the search has no result.",
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
