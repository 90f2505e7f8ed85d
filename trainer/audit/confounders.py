"""How much of the AUC needs no lungs at all: a rule that sees only a film's outer properties.

A logistic regression on width, height, brightness, contrast and file size. What it reaches, a
network can reach without knowing where a lung is, so only what lies above speaks for the network.
File size and contrast follow how much detail a film shows: they are not blind to its content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from batch_scorer.metrics import classification
from batch_scorer.metrics.classification import Estimate
from batch_scorer.model.card import CLASSES
from trainer.data.dataset import join_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.audit.image_stats import Film

FOLDS = 5
MOST_STEPS = 1000
TOGETHER = "together"
PROPERTIES = {
    "width": "width_px",
    "height": "height_px",
    "brightness": "brightness",
    "contrast": "contrast",
    "file size": "size_bytes",
}
LOGARITHMIC = frozenset({"width", "height", "file size"})


class Shortcut(msgspec.Struct, frozen=True):
    """AUC of the rule, by what it may see: one property, or all ``TOGETHER``.

    ``cross_validation`` is over the films outside the test part, ``test`` that of a rule fitted on
    all of these. ``constant`` are properties that every film shares, so that they tell nothing.
    ``missing`` says why there are no figures.
    """

    cross_validation: dict[str, Estimate]
    test: dict[str, Estimate]
    constant: list[str]
    missing: str = ""


def measure_shortcut(films: Sequence[Film], seed: int = 0) -> Shortcut:
    """Cross-validate the rule by patient, and try it on the test part where that is labelled.

    Films of one patient, or with the same pixels, are in one fold. The answers of all folds are
    pooled; classes weigh the same in each, so that no fold's answers lie above another's.

    Args:
        films: All films; those of the part "test" are kept out of fitting.
        seed: Of the folds.
    """
    own = [film for film in films if film.part != "test"]
    test = [film for film in films if film.part == "test" and film.label]
    labels = _labels(own)
    groups = np.empty(0, dtype=np.int32)
    if own:
        groups = join_groups(_patients(own), [film.pixels_sha256 for film in own])
    if missing := _why_missing(labels, groups):
        return Shortcut({}, {}, [], missing)
    table = {name: _column(own, name) for name in PROPERTIES}
    constant = [name for name, column in table.items() if np.ptp(column) == 0]
    usable = [name for name in PROPERTIES if name not in constant]
    if not usable:
        return Shortcut(
            {}, {}, constant, "Size, brightness and contrast of all films are the same."
        )
    subsets = {**{name: [name] for name in usable}, TOGETHER: usable}
    folds = list(
        StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels, groups)
    )
    both = len(np.unique(_labels(test))) == len(CLASSES)
    return Shortcut(
        {name: _cross_validate(own, columns, folds) for name, columns in subsets.items()},
        {name: _try(own, test, columns) for name, columns in subsets.items()} if both else {},
        constant,
    )


def fewest_patients(labels: NDArray[np.int64], groups: NDArray[np.int32] | NDArray[np.str_]) -> int:
    """How many patients the class has that has fewer.

    Args:
        labels: Shape (N,), the place of each film's class in ``CLASSES``.
        groups: Shape (N,), the same for films of one patient.
    """
    return min(len(np.unique(groups[labels == label])) for label in range(len(CLASSES)))


def _why_missing(labels: NDArray[np.int64], groups: NDArray[np.int32]) -> str:
    fewest = fewest_patients(labels, groups)
    if fewest >= 2 * FOLDS:
        return ""
    return (
        f"Expected films of at least {2 * FOLDS} patients in each class outside the test part, "
        f"found {fewest} in one: too few to measure this on."
    )


def _cross_validate(
    films: Sequence[Film],
    columns: Sequence[str],
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> Estimate:
    table, labels = _table(films, columns), _labels(films)
    answers = np.empty(len(films))
    for fitted, held_out in folds:
        answers[held_out] = _fit(table[fitted], labels[fitted]).predict_proba(table[held_out])[:, 1]
    return _auc(films, answers)


def _try(own: Sequence[Film], test: Sequence[Film], columns: Sequence[str]) -> Estimate:
    rule = _fit(_table(own, columns), _labels(own))
    return _auc(test, rule.predict_proba(_table(test, columns))[:, 1])


def _fit(table: NDArray[np.float64], labels: NDArray[np.int64]) -> Pipeline:
    fitted: Pipeline = rule_without_lungs().fit(table, labels)
    return fitted


def rule_without_lungs() -> Pipeline:
    """The rule, not fitted: a logistic regression on scaled columns, classes of equal weight."""
    return make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=MOST_STEPS)
    )


def _auc(films: Sequence[Film], answers: NDArray[np.float64]) -> Estimate:
    return classification.compute_metrics(_labels(films), answers, 0.5, _patients(films).tolist())[
        "auc"
    ]


def _table(films: Sequence[Film], columns: Sequence[str]) -> NDArray[np.float64]:
    return np.stack([_column(films, name) for name in columns], axis=1)


def _column(films: Sequence[Film], name: str) -> NDArray[np.float64]:
    values = np.array([getattr(film, PROPERTIES[name]) for film in films], dtype=np.float64)
    return np.log(values) if name in LOGARITHMIC else values


def _labels(films: Sequence[Film]) -> NDArray[np.int64]:
    return np.array([CLASSES.index(film.label) for film in films], dtype=np.int64)


def _patients(films: Sequence[Film]) -> NDArray[np.str_]:
    """The patient of each film; a film without one is a patient of its own."""
    return np.array([film.patient or film.key for film in films])
