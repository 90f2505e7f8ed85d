"""Films whose tone and texture speak for the other class.

How bright, flat or sharp a film is tells most normal films of a set from those with pneumonia,
without a look at any lung. A network that leans on it fails where another place makes films in
another way. The films that such a rule gets most wrong are the ones to judge a network by that
learnt from the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from trainer.audit.shortcut import FOLDS, rule_without_lungs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.dataset import Films

PERCENTILES = (2, 10, 25, 50, 75, 90, 98)
SCALES = 4
BORDER = 1 / 16
LEAST_STEP = 1e-4
FILMS_AT_ONCE = 256


def answer_by_tone(films: Films, seed: int = 0) -> NDArray[np.float64]:
    """The probability of pneumonia that tone and texture alone give each film.

    A logistic regression, cross-validated: no film is answered by a rule that has seen a film of
    its patient.

    Args:
        films: N films of both classes.
        seed: Of the folds.

    Returns:
        Shape (N,).
    """
    parts = range(0, len(films), FILMS_AT_ONCE)
    table = np.concatenate(
        [describe_tone(films.pixels[start : start + FILMS_AT_ONCE]) for start in parts]
    )
    answers: NDArray[np.float64] = cross_val_predict(
        rule_without_lungs(),
        table,
        films.labels,
        groups=films.groups,
        cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed),
        method="predict_proba",
    )[:, 1]
    return answers


def misled(
    labels: NDArray[np.int64], answers: NDArray[np.float64], share: float
) -> NDArray[np.bool_]:
    """Which films the rule gets most wrong: this share of each class.

    Args:
        labels: Shape (N,), 1 for pneumonia.
        answers: Shape (N,), from ``answer_by_tone``.
        share: Between 0 and 1.

    Returns:
        Shape (N,).
    """
    normal = answers > np.quantile(answers[labels == 0], 1 - share)
    pneumonia = answers < np.quantile(answers[labels == 1], share)
    found: NDArray[np.bool_] = np.where(labels == 1, pneumonia, normal)
    return found


def describe_tone(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Numbers about each film that do not say where anything is.

    Mean and spread; percentiles of the grey levels; the brightness of each border; the mean step
    between neighbours, down and across, at full size and after each halving.

    Args:
        pixels: Shape (N, S, S, 1).

    Returns:
        Shape (N, 2 + 7 + 4 + 2 * 4).
    """
    films = pixels[..., 0].astype(np.float32) / 255
    every = (1, 2)
    columns = [films.mean(every), films.std(every)]
    columns += list(np.percentile(films, PERCENTILES, axis=every))
    edge = round(films.shape[1] * BORDER)
    borders = (films[:, :edge], films[:, -edge:], films[:, :, :edge], films[:, :, -edge:])
    columns += [border.mean(every) for border in borders]
    for _ in range(SCALES):
        columns += [
            np.log(np.abs(np.diff(films, axis=axis)).mean(every) + LEAST_STEP) for axis in every
        ]
        half = films.shape[1] // 2
        films = films[:, : 2 * half, : 2 * half].reshape(-1, half, 2, half, 2).mean((2, 4))
    return np.stack(columns, axis=1).astype(np.float32)
