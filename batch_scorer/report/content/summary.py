"""Page 1: what was scored, how far to trust it, what to do next. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.errors import NotRadiograph
from batch_scorer.report.content.accuracy import describe_reference_findings, format_split
from batch_scorer.report.content.changes import describe_changes
from batch_scorer.report.content.methods import format_population
from batch_scorer.report.content.text import (
    format_count,
    format_duration,
    format_threshold,
    format_timestamp,
    join_words,
    sanitize_text,
)

if TYPE_CHECKING:
    from batch_scorer.model.card import ModelCard
    from batch_scorer.report.content.view import RunView
    from batch_scorer.results.schema import ModelUsed, RunManifest

MIN_LABELLED_IMAGES = 100
HASH_CHARS = 12
TILE_NOTES = {
    "flagged": "possible pneumonia: read first",
    "clear": "which does not mean healthy",
    "not scored": "read these without the model",
}
"""The notes below the large numbers of page 1."""
SYNTHETIC_NOTICE = "These films are synthetic: they were made by a computer and show no patient."
DEMO_NOTICE = "This is what the page would advise if they were films of patients:"
OTHER_HOSPITALS_NOTE = (
    "On films from other hospitals such models have fallen from AUC 0.95 to 0.54 (Xin et al. 2021)."
)


@dataclass(frozen=True)
class SummaryTile:
    """One of the large numbers of page 1."""

    number: str
    label: str
    note: str


@dataclass(frozen=True)
class Summary:
    """Everything on page 1. ``file_count`` is the start of ``scored_files``, up to the source."""

    headline: str
    synthetic: str
    warning: str
    tiles: tuple[SummaryTile, ...]
    file_count: str
    scored_files: str
    changes: str
    scored_when: str
    scored_by: str
    undecided: str
    atypical: str
    trust: tuple[str, ...]
    prohibited_uses: str
    next_about: str
    next_steps: tuple[str, ...]


def describe_summary(view: RunView, warning: str = "") -> Summary:
    """Describe a run on one page.

    Args:
        view: The run.
        warning: A warning that belongs on page 1.
    """
    manifest = view.manifest
    return Summary(
        headline=_format_headline(manifest),
        synthetic=SYNTHETIC_NOTICE if manifest.synthetic else "",
        warning=warning,
        tiles=_make_tiles(manifest),
        file_count=_format_file_count(manifest),
        scored_files=_describe_files(manifest),
        changes=describe_changes(manifest),
        scored_when=_describe_time(manifest),
        scored_by=_describe_models(view),
        undecided=_describe_undecided(view),
        atypical=_describe_atypical(manifest),
        trust=_describe_trust(view, warning),
        prohibited_uses=_describe_prohibited_uses(view.card),
        next_about=DEMO_NOTICE if manifest.synthetic else "",
        next_steps=_list_next_steps(manifest, warning),
    )


def format_model(model: ModelUsed) -> str:
    """Format a model's name and the start of its file hash."""
    return f"{sanitize_text(model.name, 40)} {model.sha256[:HASH_CHARS]}"


def _format_headline(manifest: RunManifest) -> str:
    if not manifest.found:
        return "No file was found to score."
    if not manifest.scored:
        return "No film could be scored."
    verb = "was" if 1 in (manifest.flagged, manifest.scored) else "were"
    return (
        f"{manifest.flagged:,} of {format_count(manifest.scored, 'scored film')} {verb} flagged as "
        "possible pneumonia."
    )


def _make_tiles(manifest: RunManifest) -> tuple[SummaryTile, ...]:
    numbers = (manifest.flagged, manifest.not_flagged, manifest.not_scored)
    return tuple(
        SummaryTile(f"{number:,}", label, note)
        for number, (label, note) in zip(numbers, TILE_NOTES.items(), strict=True)
    )


def _format_file_count(manifest: RunManifest) -> str:
    if manifest.found < manifest.listed:
        return f"The first {manifest.found:,} of {format_count(manifest.listed, 'file')} in"
    return f"{format_count(manifest.found, 'file')} found in"


def _describe_files(manifest: RunManifest) -> str:
    text = f"{_format_file_count(manifest)} “{sanitize_text(manifest.source, 90)}”."
    if manifest.duplicates:
        verb = "is an exact copy" if manifest.duplicates == 1 else "are exact copies"
        text += f" {manifest.duplicates:,} of the scored films {verb} of another film."
    if manifest.hidden:
        text += f" {format_count(manifest.hidden, 'hidden file')} left out."
    return text


def _describe_time(manifest: RunManifest) -> str:
    duration = format_duration(sum(manifest.seconds.values()))
    return f"{format_timestamp(manifest.started)}, in {duration}."


def _describe_models(view: RunView) -> str:
    primary, others = view.model, view.manifest.models[1:]
    text = (
        f"{sanitize_text(primary.card.title, 40)} ({sanitize_text(primary.name, 30)}, file hash "
        f"{primary.sha256[:HASH_CHARS]}) decides: it flags a film when its probability of "
        f"pneumonia is {format_threshold(primary.threshold)} or more."
    )
    if others:
        names = join_words([sanitize_text(model.card.title, 30) for model in others])
        text += f" {names} {'gives' if len(others) == 1 else 'give'} a second opinion."
    return text


def _describe_atypical(manifest: RunManifest) -> str:
    """Say how many images are atypical; empty where the model does not measure that."""
    if manifest.atypical is None or not manifest.scored:
        return ""
    verb = "looks" if 1 in (manifest.atypical, manifest.scored) else "look"
    text = (
        f"{manifest.atypical:,} of {format_count(manifest.scored, 'scored film')} {verb} unlike "
        "most films that the model learned from: other patients, another machine, another "
        "position. Its answers for them deserve less trust."
    )
    rejected = manifest.reasons.get(NotRadiograph.code, 0)
    if rejected:
        text += (
            f" {format_count(rejected, 'file')} too far from them to be judged "
            f"{'is' if rejected == 1 else 'are'} listed as not scored."
        )
    return text


def _describe_undecided(view: RunView) -> str:
    """Say how many images are undecided; empty where the model has no such band."""
    manifest, band = view.manifest, view.card.band
    if band is None or manifest.undecided is None or not manifest.scored:
        return ""
    return (
        f"{manifest.undecided:,} of {format_count(manifest.scored, 'scored film')}, flagged or "
        f"not: the probability lies between {format_threshold(band.low)} and "
        f"{format_threshold(band.high)}, around the threshold. Read these as if the model had "
        "said nothing."
    )


def _describe_trust(view: RunView, warning: str) -> tuple[str, ...]:
    detected, false_alarms = describe_reference_findings(view.card, "the model")
    sentences = [
        "Do not trust it on films like these yet, and never to decide who is ill."
        if warning
        else "Trust it to choose which films are read first, never to decide who is ill.",
        f"On the {format_split(view.card)}, counted by film: {detected[0].lower()}{detected[1:]} "
        f"{false_alarms}",
    ]
    if view.manifest.metrics:
        sentences.append(_describe_batch_performance(view.manifest))
    return (*sentences, f"{OTHER_HOSPITALS_NOTE} So measure it on films of your own.")


def _describe_batch_performance(manifest: RunManifest) -> str:
    confusion = manifest.metrics[0].confusion
    ill = confusion.true_positive + confusion.false_negative
    well = confusion.false_positive + confusion.true_negative
    parts = []
    if ill:
        parts.append(f"flagged {confusion.true_positive:,} of {ill:,} with pneumonia")
    if well:
        parts.append(
            f"wrongly flagged {confusion.false_positive:,} of {format_count(well, 'normal film')}"
        )
    films = format_count(confusion.total, "labelled film")
    return f"On the {films} of this batch it {join_words(parts)} (section 3)."


def _describe_prohibited_uses(card: ModelCard) -> str:
    text = (
        "Not to diagnose, not to decide on treatment, not to send a patient home. A film that is "
        "not flagged may still show pneumonia or another illness."
    )
    if format_population(card) == "children":
        text += (
            " The model learned from children of one to five years in one hospital; it knows "
            "nothing of adults."
        )
    return text


def _list_next_steps(manifest: RunManifest, warning: str) -> tuple[str, ...]:
    flagged, not_flagged, unscored = manifest.flagged, manifest.not_flagged, manifest.not_scored
    steps = []
    if not manifest.found:
        steps.append("Check the folder that was given: no file was found in it.")
    if warning:
        steps.append(
            "Read every film as if there were no model: what a flag is worth on such films is not "
            "known."
        )
    elif flagged:
        images = "the flagged film" if flagged == 1 else f"the {flagged:,} flagged films"
        steps.append(
            f"Have a clinician read {images} now{_format_new_first(manifest)}. Section 2 says "
            "where to begin."
        )
    if not_flagged and not warning:
        images = "the film that was" if not_flagged == 1 else f"the {not_flagged:,} films that were"
        steps.append(f"Read {images} not flagged as usual: the model misses some pneumonia.")
    if unscored:
        files = "the file that was" if unscored == 1 else f"the {unscored:,} files that were"
        steps.append(f"Read {files} not scored without the model. Section 6 says why.")
    if manifest.synthetic or manifest.labelled < MIN_LABELLED_IMAGES:
        steps.append(
            f"Score at least {MIN_LABELLED_IMAGES} films of your own that a radiologist has "
            "labelled, and see section 3: only that shows how good the model is in your clinic."
        )
    return tuple(steps)


def _format_new_first(manifest: RunManifest) -> str:
    """Say that new flagged images come first, where others were flagged in earlier runs."""
    new_flagged = manifest.changes.flagged if manifest.changes else 0
    if not 0 < new_flagged < manifest.flagged:
        return ""
    return ", the new one first" if new_flagged == 1 else f", the {new_flagged:,} new ones first"
