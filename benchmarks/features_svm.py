"""A support vector machine on what the CNN sees, beside the CNN's own head.

The trained network's pooled layer gives a few hundred numbers a film; a support vector machine
with an RBF kernel learns from those of the training films. C and gamma are chosen by AUC in a
cross-validation on training films, grouped by patient. Both heads are then treated alike:
calibrated on the validation films as they are and shifted, with a threshold by the same rule, as a
model card has them. They are judged on the same films: validation, and validation shifted as
another hospital might send it. The test films are not read by either.

The network learned from the training films, so its features separate them better than any new
films, and the cross-validation chooses among settings that all look nearly perfect.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from batch_scorer import metrics
from batch_scorer.card import read_card
from batch_scorer.errors import DatasetError, UsageError
from batch_scorer.process import quiet_import
from benchmarks.command import Measurement, packages, with_interval

if TYPE_CHECKING:
    import keras
    from numpy.typing import NDArray

    from trainer.dataset import Films

NAME = "cnn"
FOLDS = 5
GRID = {"svc__C": (0.1, 1.0, 10.0, 100.0, 1000.0), "svc__gamma": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)}
BATCH = 32
SHOWN = ("auc", "accuracy", "recall", "specificity")


@dataclass(frozen=True)
class Seen:
    """What the network makes of some films: ``features`` (N, K) and its own ``logits`` (N,)."""

    features: NDArray[np.float32]
    logits: NDArray[np.float64]


@click.command(
    cls=Measurement, epilog="Example: python benchmarks/features_svm.py runs/first chest_xray"
)
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(run: Path, data: Path) -> None:
    """Compare a support vector machine on the CNN's features with the CNN's own head.

    RUN is the output folder of `cxr train`, DATA what the CNN in it was trained on.
    """
    with packages(), quiet_import():
        import keras

        from trainer.dataset import read_dataset
        from trainer.models import SIZE_PX
        from trainer.shifts import shift_films

    folder = run / NAME
    if not (folder / "card.json").is_file():
        raise UsageError(
            f"Expected a finished training of the CNN in {folder}, found no card.json.",
            "Make one with: cxr train DATA -o RUN --model cnn",
        )
    card = read_card((folder / "card.json").read_text(encoding="utf-8"), str(folder))
    dataset = read_dataset(data, SIZE_PX, card.training.seed)
    if dataset.fingerprint != card.training.data_fingerprint:
        raise DatasetError(
            f"Expected the films that {folder} was trained on, found others in {data}.",
            "The validation films can only be told by splitting the same films again.",
        )
    network = read_features(keras.models.load_model(folder / "model.keras", compile=False))
    click.echo(f"{len(dataset.train)} training films: features")
    search = fit_svm(dataset.train, look(network, dataset.train).features)
    chosen = ", ".join(f"{name[5:]} {value:g}" for name, value in search.best_params_.items())
    support = search.best_estimator_[-1].n_support_.sum()
    click.echo(
        f"chosen: {chosen}; AUC {search.best_score_:.4f} by {FOLDS} folds; {support} vectors"
    )
    films = {"validation": dataset.validation, "shifted": shift_films(dataset.validation)}
    seen = {split: look(network, part) for split, part in films.items()}
    answers = {
        "own head": {split: found.logits for split, found in seen.items()},
        "SVM": {split: search.decision_function(found.features) for split, found in seen.items()},
    }
    print_table(films, {head: judge(films, logits) for head, logits in answers.items()})


def read_features(model: keras.Model) -> keras.Model:
    """The pooled layer and the logit of the network inside a run folder's model.

    Where the model reads films mirrored as well, both are means over the two ways, as its own
    answer is.
    """
    from keras import Input, Model, ops

    from trainer.recipes import RECIPES

    inner = model.get_layer(f"{NAME}_explained")
    pooled = Model(inner.input, (inner.get_layer("pooled").output, inner.output["logit"]))
    pixels = Input(inner.input.shape[1:], dtype="uint8")
    found = pooled(pixels)
    if RECIPES[NAME].both_ways:
        mirrored = pooled(ops.flip(pixels, axis=2))
        found = tuple((one + other) / 2 for one, other in zip(found, mirrored, strict=True))
    return Model(pixels, found)


def look(network: keras.Model, films: Films) -> Seen:
    """Features and logits of films."""
    features, logits = network.predict(films.pixels, batch_size=BATCH, verbose=0)
    return Seen(features, np.asarray(logits, np.float64)[:, 0])


def fit_svm(films: Films, features: NDArray[np.float32]) -> GridSearchCV:
    """Choose C and gamma by grouped cross-validation, and fit on all films given.

    Args:
        films: N films; their labels and patients.
        features: Shape (N, K).
    """
    search = GridSearchCV(
        make_pipeline(StandardScaler(), SVC(class_weight="balanced", cache_size=500)),
        GRID,
        scoring="roc_auc",
        cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0),
    )
    return search.fit(features, films.labels, groups=films.groups)


def judge(
    films: dict[str, Films], logits: dict[str, NDArray[np.float64]]
) -> dict[str, tuple[NDArray[np.float64], float]]:
    """Calibrated probabilities by split, each with the threshold chosen on validation."""
    from trainer import evaluate

    calibration = evaluate.calibrate(
        np.concatenate([part.labels for part in films.values()]),
        np.concatenate([logits[split] for split in films]),
        "validation, as it is and shifted",
    )
    found = {split: calibration.apply(logits[split]) for split in films}
    threshold = evaluate.choose_threshold(films["validation"].labels, found["validation"]).value
    return {split: (probabilities, threshold) for split, probabilities in found.items()}


def print_table(films: dict[str, Films], judged: dict[str, dict[str, Any]]) -> None:
    """Both heads on the same films, and by how much the SVM is better, paired by patient."""
    click.echo("| films | n | head | AUC | accuracy | sensitivity | specificity | log loss |")
    click.echo("|---" * 8 + "|")
    for split, part in films.items():
        groups = part.groups.tolist()
        for head, found in judged.items():
            probabilities, threshold = found[split]
            values = metrics.evaluate(part.labels, probabilities, threshold, groups)
            cells = " | ".join(with_interval(values[name]) for name in SHOWN)
            loss = log_loss(part.labels, probabilities)
            click.echo(f"| {split} | {len(part)} | {head} | {cells} | {loss:.4f} |")
    for split, part in films.items():
        pair = judged["SVM"][split], judged["own head"][split]
        differences = metrics.compare(part.labels, *pair, part.groups.tolist(), resamples=1000)
        for name, (difference, p) in differences.items():
            click.echo(
                f"SVM minus own head, {split}, {name}: {with_interval(difference)}, p {p:.3f}"
            )


if __name__ == "__main__":
    main()
