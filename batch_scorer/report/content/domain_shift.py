"""The difference between a batch and the model's training images, in plain words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.report.content.accuracy import format_split
from batch_scorer.report.content.text import (
    format_count,
    format_estimate,
    format_per_hundred,
    format_probability,
    format_title,
)
from batch_scorer.results.drift import MIN_IMAGES, PROBABILITY_BINS, DriftLevel

if TYPE_CHECKING:
    from batch_scorer.model.card import ModelCard
    from batch_scorer.results.drift import Drift, KsTest

SHIFT_WARNING = "This batch looks unlike the films that the model learned from"
LEVEL_TEXTS = {
    DriftLevel.NONE: "alike",
    DriftLevel.MEDIUM: "somewhat different",
    DriftLevel.LARGE: "unlike",
}
APPEARANCE_STATISTICS = {
    "typicality": ("How ordinary a film is (0 to 1)", 2),
    "brightness": ("Brightness (mean grey, 0 to 255)", 0),
    "contrast": ("Contrast (spread of grey)", 0),
}
LAST_BIN_START = 0.9


@dataclass(frozen=True)
class DriftRow:
    """One row of the drift table: both medians, KS statistic, p-value and level."""

    quantity: str
    batch: str
    training: str
    statistic: str
    p_value: str
    level: str


@dataclass(frozen=True)
class ProbabilityHistogram:
    """Shares of images by probability bin, for this batch and for the reference images."""

    edges: tuple[float, ...]
    batch: tuple[float, ...]
    reference: tuple[float, ...]
    reference_label: str


@dataclass(frozen=True)
class DriftFacts:
    """Part 5 of the report.

    ``warning`` and ``short_warning``, which page 1 shows, are empty unless the drift is large.
    ``headline`` is the result in a few words.
    """

    headline: str
    warning: str
    short_warning: str
    sentences: tuple[str, ...]
    rows: tuple[DriftRow, ...]
    about: str
    histogram: ProbabilityHistogram | None
    histogram_title: str
    histogram_alt: str
    predictions: str


def describe_drift(drift: Drift, card: ModelCard) -> DriftFacts:
    """Describe how much a batch differs from the training images of the deciding model."""
    large = drift.level == DriftLevel.LARGE
    label = f"{format_count(card.references['validation'].images, 'validation film')}"
    return DriftFacts(
        headline=_format_headline(drift),
        warning=f"Warning: {_lowercase_first(SHIFT_WARNING)}." if large else "",
        short_warning=f"Warning: {_lowercase_first(SHIFT_WARNING)} (section 5). Do not act on its "
        "answers before they were measured on labelled films like these."
        if large
        else "",
        sentences=(
            _describe_level(drift),
            *_describe_atypical_share(drift, card),
            *_describe_limits(drift, card),
        ),
        rows=_make_rows(drift, card),
        about=_describe_table(drift, card),
        histogram=(
            ProbabilityHistogram(
                tuple(PROBABILITY_BINS.tolist()),
                drift.batch_histogram,
                drift.reference_histogram,
                label,
            )
            if drift.predictions
            else None
        ),
        histogram_title=f"Probabilities of this batch ({format_count(drift.images, 'film')}) "
        f"against the {label}",
        histogram_alt=_describe_histogram(drift, label),
        predictions=_describe_predictions(drift, card),
    )


def _format_headline(drift: Drift) -> str:
    if drift.level == DriftLevel.LARGE:
        return SHIFT_WARNING
    if drift.level == DriftLevel.MEDIUM:
        return "This batch looks somewhat different from the films that the model learned from"
    if drift.level is None or not drift.appearance:
        return "Whether this batch looks like the training films is not known"
    return "This batch looks like the training films, which is no proof of right answers"


def _describe_level(drift: Drift) -> str:
    if drift.level is None:
        return _describe_too_few(drift)
    images = format_count(drift.images, "film")
    if drift.level == DriftLevel.LARGE:
        return (
            f"{SHIFT_WARNING}: {_format_reasons(drift, DriftLevel.LARGE)}. How good the model is "
            "on such films is not known, and the figures of section 3 do not say it. Measure it "
            "on labelled films like these before you act on any answer."
        )
    if drift.level == DriftLevel.MEDIUM:
        return (
            "This batch looks somewhat different from the films that the model learned from: "
            f"{_format_reasons(drift, DriftLevel.MEDIUM)}. Take the figures of section 3 with "
            "caution."
        )
    if not drift.appearance:
        return _describe_too_few(drift)
    return (
        f"By what was measured, the {images} of this batch look like those that the model learned "
        "from."
    )


def _describe_too_few(drift: Drift) -> str:
    if not drift.images:
        return "No film was scored, so there is nothing to compare."
    if drift.images >= MIN_IMAGES:
        return (
            "The model file or these rows lack the numbers, so whether this batch looks like the "
            "training films is not known."
        )
    verb = "is" if drift.images == 1 else "are"
    return (
        f"{format_count(drift.images, 'film')} {verb} too few to tell whether this batch looks "
        f"like the films that the model learned from; {MIN_IMAGES} are needed."
    )


def _format_reasons(drift: Drift, level: DriftLevel) -> str:
    """List the statistics that reach a level, as phrases."""
    phrases = {
        "typicality": "its films are stranger than the training films",
        "brightness": "they are brighter or darker",
        "contrast": "their contrast is another",
    }
    found = [phrases[name] for name, gap in drift.appearance.items() if gap.level == level]
    appearance_level = (
        DriftLevel.NONE if not drift.appearance else max(g.level for g in drift.appearance.values())
    )
    if drift.atypical_share and appearance_level < level:
        found.append("many of its films are strange to the model")
    return ", ".join(found)


def _describe_atypical_share(drift: Drift, card: ModelCard) -> tuple[str, ...]:
    if (
        drift.atypical_share is None
        or drift.atypical_share.value is None
        or card.typicality is None
    ):
        return ()
    if drift.atypical_share.n < MIN_IMAGES:
        atypical = round(drift.atypical_share.value * drift.atypical_share.n)
        return (
            f"{atypical:,} of {format_count(drift.atypical_share.n, 'film')} that could be judged "
            f"{'looks' if atypical == 1 else 'look'} strange to the model: atypical, or not scored "
            "for that reason.",
        )
    text = (
        f"Of 100 films of this batch {format_per_hundred(drift.atypical_share)} look strange to "
        "the model: atypical, or not scored for that reason."
    )
    training = card.typicality.flagged.get("training")
    return (f"{text} Of 100 training films {format_per_hundred(training)}." if training else text,)


def _describe_limits(drift: Drift, card: ModelCard) -> tuple[str, ...]:
    """Say that a similar batch proves nothing; the fall from validation to test shows it."""
    if drift.level is None:
        return ()
    if card.reference.split == "validation":
        return ("Looking alike is no proof that the answers are right.",)
    validation = card.references["validation"].metrics
    return (
        "Looking alike is no proof that the answers are right: from validation films to the "
        f"{format_split(card)}, of the same data set, specificity went from "
        f"{format_estimate(validation['specificity'])} to "
        f"{format_estimate(card.reference.metrics['specificity'])}.",
    )


def _make_rows(drift: Drift, card: ModelCard) -> tuple[DriftRow, ...]:
    rows = []
    for name, test in drift.appearance.items():
        quantity, decimals = APPEARANCE_STATISTICS[name]
        rows.append(
            _make_row(quantity, f"{test.batch:.{decimals}f}", f"{test.training:.{decimals}f}", test)
        )
    if other := drift.predictions:
        batch, training = (
            format_probability(p, card.threshold.value) for p in (other.batch, other.training)
        )
        rows.append(_make_row("Probability of pneumonia", batch, training, other))
    return tuple(rows)


def _make_row(quantity: str, batch: str, training: str, test: KsTest) -> DriftRow:
    return DriftRow(
        quantity=quantity,
        batch=batch,
        training=training,
        statistic=f"{test.statistic:.2f}",
        p_value="under 0.001" if test.p < 0.001 else f"{test.p:.3f}",  # noqa: PLR2004 - as is usual
        level=LEVEL_TEXTS[test.level],
    )


def _describe_table(drift: Drift, card: ModelCard) -> str:
    if not drift.appearance and not drift.predictions:
        return ""
    training = card.training.images
    n_images = sum(number for name, number in training.items() if name.startswith("train "))
    reference = f"{format_count(n_images, 'film')} that {format_title(card)} was trained on"
    return (
        f"Middle value of this batch (n = {drift.images:,}, copies counted once) and of the "
        f"{reference}; probabilities stand against {drift.split} films. The gap is the largest "
        "distance between the two distributions (Kolmogorov and Smirnov), from 0, alike, to 1, "
        "nothing in common. Below 0.2, or where chance gives it more often than once in 1,000, it "
        "counts as alike, from 0.3 as unlike. Brightness and contrast of the training films are "
        "taken as bell curves."
    )


def _describe_predictions(drift: Drift, card: ModelCard) -> str:
    """Explain a shift of the probabilities, which never raises the drift level by itself."""
    if drift.predictions is None or drift.predictions.level == DriftLevel.NONE:
        return ""
    validation = card.references["validation"]
    return (
        "The probabilities spread otherwise than on validation films, "
        f"{100 * validation.pneumonia / validation.images:.0f} of 100 of which show pneumonia. "
        "That comes of other films, or of patients who have pneumonia more or less often; these "
        "numbers cannot tell which."
    )


def _describe_histogram(drift: Drift, label: str) -> str:
    if not drift.predictions:
        return ""
    low, high = (100 * shares[0] for shares in (drift.batch_histogram, drift.reference_histogram))
    low_top, high_top = (
        100 * shares[-1] for shares in (drift.batch_histogram, drift.reference_histogram)
    )
    return (
        "Histogram of the probability of pneumonia in tenths. Of "
        f"{format_count(drift.images, 'film')} of this batch {low:.0f} of 100 lie below 0.1 and "
        f"{low_top:.0f} at {LAST_BIN_START} or above; of {label} {high:.0f} and {high_top:.0f}."
    )


def _lowercase_first(text: str) -> str:
    return text[0].lower() + text[1:]
