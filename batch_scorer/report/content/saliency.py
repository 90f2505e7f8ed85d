"""Evidence maps: what they show, and what they do not prove. Pure functions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.report.content.text import format_count, format_title

if TYPE_CHECKING:
    from collections.abc import Collection

    from batch_scorer.imaging.heatmap import Peak
    from batch_scorer.model.card import ModelCard
    from batch_scorer.model.card_sections import Evidence
    from batch_scorer.report.content.view import RunView

CHECKED_SHARE = 0.1
MIN_SIMILAR_CORRELATION = 0.3
"""Rank correlation with the maps of shuffled weights at which a map counts as similar."""
MIN_MAPS, MAX_REGION_SHARE = 6, 0.6
"""With this many maps, a larger share of them in one region counts as the model's habit."""
_NO_MAPS_TEXTS = {
    "unanswered": "The model {model} gives no evidence maps, so the films stand alone.",
    "model": "Evidence maps are missing: the file of the model {model} was not at hand, or had "
    "been replaced, when they were to be drawn.",
    "films": "Evidence maps are missing: the films were not at hand when the shards were joined.",
}


@dataclass(frozen=True)
class EvidenceFacts:
    """The texts above all evidence maps."""

    explanation: str
    limitation: str
    checks: str
    scale: str
    scale_low: str
    scale_high: str
    scale_alt: str


def describe_evidence(view: RunView) -> EvidenceFacts | None:
    """Describe how to read the evidence maps; None where there are none."""
    gallery, card = view.manifest.gallery, view.card
    maps = gallery.maps
    if not maps or card.evidence is None:
        return None
    max_evidence = max(0.0, *(peak.value for peak in maps.values()))
    which = "each film" if gallery.heatmaps == "all" else "each flagged film"
    return EvidenceFacts(
        explanation=f"Beside {which} lies its evidence map: the brighter a place, the more it "
        f"raised the probability that the model {format_title(card)} gave; what lowered it is "
        "dark.",
        limitation="A map shows what the model went by, not where a disease is: a bright place "
        "proves no pneumonia, a dark one no healthy lung. It is coarse, "
        f"{card.evidence.height} by {card.evidence.width} places a film, smoothed for print.",
        checks=" ".join(
            filter(None, (_describe_checks(card.evidence), _describe_common_region(maps.values())))
        ),
        scale="Evidence for pneumonia at a place, in log odds; one scale for all maps",
        scale_low="0, or against",
        scale_high=format_evidence(max_evidence),
        scale_alt=f"Scale of the evidence maps: from dark, no evidence or evidence against, to "
        f"bright, {format_evidence(max_evidence)} in log odds.",
    )


def describe_missing_maps(view: RunView) -> str:
    """Say why the requested maps are missing; empty where none are."""
    reason = view.manifest.gallery.no_maps_reason
    if not reason:
        return ""
    return _NO_MAPS_TEXTS[reason].format(model=format_title(view.card))


def describe_map(name: str, peak: Peak, card: ModelCard) -> str:
    """Write the alternative text of one map."""
    title = format_title(card)
    if peak.value <= 0:
        return f"Evidence map of {name}: dark, for {title} no place speaks for pneumonia."
    return (
        f"Evidence map of {name} by {title}: brightest in the {find_peak_region(peak)} of the "
        f"picture, {format_evidence(peak.value)} in log odds for pneumonia."
    )


def format_peak(peak: Peak) -> str:
    """Format the brightest region of a map and its evidence, for the line below the image."""
    if peak.value <= 0:
        return "no place speaks for pneumonia"
    return f"most in the {find_peak_region(peak)}: {format_evidence(peak.value)}"


def find_peak_region(peak: Peak) -> str:
    """Return the ninth of the image that holds the peak of a map, left and right as printed."""
    down = ("upper", "middle", "lower")[min(int(peak.y * 3), 2)]
    across = ("left", "centre", "right")[min(int(peak.x * 3), 2)]
    return "centre" if (down, across) == ("middle", "centre") else f"{down} {across}"


def format_evidence(value: float) -> str:
    """Format log odds; small values get a second decimal."""
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _describe_checks(evidence: Evidence) -> str:
    """Describe the results of the faithfulness checks on validation images."""
    checks = evidence.faithfulness
    step = min(range(len(checks.steps)), key=lambda i: abs(checks.steps[i] - CHECKED_SHARE))
    brightest, random = checks.deletion[step], checks.random_deletion[step]
    text = (
        f"Checked on {format_count(checks.images, 'validation film')} with pneumonia: blurring the "
        f"brightest {checks.steps[step]:.0%} of places {_format_logit_change(brightest)}, "
        f"blurring as much at random {_format_logit_change(random)}."
    )
    if not checks.beats_random:
        text += " That is no better than chance: do not rely on these maps."
    correlation = checks.randomised_correlation
    if abs(correlation) >= MIN_SIMILAR_CORRELATION:
        which, sign = ("same", "") if correlation > 0 else ("reverse", "−")
        text += (
            f" A network with shuffled weights draws partly the {which} map (rank correlation "
            f"{sign}{abs(correlation):.2f}): part of it is the film's own shape."
        )
    return text


def _describe_common_region(peaks: Collection[Peak]) -> str:
    """Say that most maps of a run peak in one region; empty where they do not."""
    bright = Counter(find_peak_region(peak) for peak in peaks if peak.value > 0)
    if bright.total() < MIN_MAPS:
        return ""
    region, number = bright.most_common(1)[0]
    if number / bright.total() <= MAX_REGION_SHARE:
        return ""
    return (
        f"Of these {bright.total():,} maps {number:,} are brightest in the {region} of the "
        "picture: where a map is bright may say more of the model's habit than of the film."
    )


def _format_logit_change(decrease: float) -> str:
    verb = "lowers" if decrease >= 0 else "raises"
    return f"{verb} the log odds by {abs(decrease):.2f}"
