"""Page 1: what was scored, how far to trust it, what to do next. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_scorer.errors import NotRadiograph
from batch_scorer.report.content.accuracy import reference_findings, split_name
from batch_scorer.report.content.changes import describe_news
from batch_scorer.report.content.methods import people_of
from batch_scorer.report.content.text import (
    count,
    join_words,
    show_duration,
    show_moment,
    show_name,
    show_threshold,
)

if TYPE_CHECKING:
    from batch_scorer.model.card import ModelCard
    from batch_scorer.results.schema import RunManifest

ENOUGH_LABELS = 100
HASH_LENGTH = 12
TILES = {
    "flagged": "possible pneumonia: read first",
    "clear": "which does not mean healthy",
    "not scored": "read these without the model",
}
"""What stands below the big numbers of page 1."""
SYNTHETIC = "These films are synthetic: they were made by a computer and show no patient."
DEMONSTRATION = "This is what the page would advise if they were films of patients:"
OTHER_HOSPITALS = (
    "On films from other hospitals such models have fallen from AUC 0.95 to 0.54 (Xin et al. 2021)."
)


@dataclass(frozen=True)
class Tile:
    """A big number of page 1."""

    number: str
    label: str
    note: str


@dataclass(frozen=True)
class Summary:
    """Everything on page 1; ``counted`` is the beginning of ``scored_what``, up to the source."""

    headline: str
    synthetic: str
    warning: str
    tiles: tuple[Tile, ...]
    counted: str
    scored_what: str
    news: str
    scored_when: str
    scored_by: str
    undecided: str
    atypical: str
    trust: tuple[str, ...]
    never: str
    next_about: str
    next_steps: tuple[str, ...]


def describe_summary(manifest: RunManifest, warning: str = "") -> Summary:
    """Page 1 of a run.

    Args:
        manifest: The run.
        warning: What cannot wait until a later page.
    """
    primary = manifest.models[0]
    return Summary(
        headline=_headline(manifest),
        synthetic=SYNTHETIC if manifest.synthetic else "",
        warning=warning,
        tiles=_tiles(manifest),
        counted=_counted(manifest),
        scored_what=_scored_what(manifest),
        news=describe_news(manifest),
        scored_when=_scored_when(manifest),
        scored_by=_scored_by(manifest),
        undecided=_uncertain(manifest),
        atypical=_atypical(manifest),
        trust=_trust(manifest, warning),
        never=_never(primary.card),
        next_about=DEMONSTRATION if manifest.synthetic else "",
        next_steps=_next_steps(manifest, warning),
    )


def name_model(manifest: RunManifest) -> str:
    """The first model and the beginning of its file's hash."""
    primary = manifest.models[0]
    return f"{show_name(primary.name, 40)} {primary.sha256[:HASH_LENGTH]}"


def _headline(manifest: RunManifest) -> str:
    if not manifest.found:
        return "No file was found to score."
    if not manifest.scored:
        return "No film could be scored."
    verb = "was" if 1 in (manifest.flagged, manifest.scored) else "were"
    return (
        f"{manifest.flagged:,} of {count(manifest.scored, 'scored film')} {verb} flagged as "
        "possible pneumonia."
    )


def _tiles(manifest: RunManifest) -> tuple[Tile, ...]:
    numbers = (manifest.flagged, manifest.not_flagged, manifest.not_scored)
    return tuple(
        Tile(f"{number:,}", label, note)
        for number, (label, note) in zip(numbers, TILES.items(), strict=True)
    )


def _counted(manifest: RunManifest) -> str:
    if manifest.found < manifest.listed:
        return f"The first {manifest.found:,} of {count(manifest.listed, 'file')} in"
    return f"{count(manifest.found, 'file')} found in"


def _scored_what(manifest: RunManifest) -> str:
    text = f"{_counted(manifest)} “{show_name(manifest.source, 90)}”."
    if manifest.duplicates:
        verb = "is an exact copy" if manifest.duplicates == 1 else "are exact copies"
        text += f" {manifest.duplicates:,} of the scored films {verb} of another film."
    if manifest.hidden:
        text += f" {count(manifest.hidden, 'hidden file')} left out."
    return text


def _scored_when(manifest: RunManifest) -> str:
    return f"{show_moment(manifest.started)}, in {show_duration(sum(manifest.seconds.values()))}."


def _scored_by(manifest: RunManifest) -> str:
    primary, others = manifest.models[0], manifest.models[1:]
    text = (
        f"{show_name(primary.card.title, 40)} ({show_name(primary.name, 30)}, file hash "
        f"{primary.sha256[:HASH_LENGTH]}) decides: it flags a film when its probability of "
        f"pneumonia is {show_threshold(primary.threshold)} or more."
    )
    if others:
        names = join_words([show_name(model.card.title, 30) for model in others])
        text += f" {names} {'gives' if len(others) == 1 else 'give'} a second opinion."
    return text


def _atypical(manifest: RunManifest) -> str:
    """How many films look unlike the training films; empty where no model says so of any."""
    if manifest.atypical is None or not manifest.scored:
        return ""
    verb = "looks" if 1 in (manifest.atypical, manifest.scored) else "look"
    text = (
        f"{manifest.atypical:,} of {count(manifest.scored, 'scored film')} {verb} unlike most "
        "films that the model learned from: other patients, another machine, another position. Its "
        "answers for them deserve less trust."
    )
    rejected = manifest.reasons.get(NotRadiograph.code, 0)
    if rejected:
        text += (
            f" {count(rejected, 'file')} too far from them to be judged "
            f"{'is' if rejected == 1 else 'are'} listed as not scored."
        )
    return text


def _uncertain(manifest: RunManifest) -> str:
    """How many answers are uncertain; empty where no model says so of any."""
    band = manifest.models[0].card.band
    if band is None or manifest.undecided is None or not manifest.scored:
        return ""
    return (
        f"{manifest.undecided:,} of {count(manifest.scored, 'scored film')}, flagged or not: the "
        f"probability lies between {show_threshold(band.low)} and {show_threshold(band.high)}, "
        "around the threshold. Read these as if the model had said nothing."
    )


def _trust(manifest: RunManifest, warning: str) -> tuple[str, ...]:
    card = manifest.models[0].card
    ill, well = reference_findings(card, "the model")
    where = split_name(card)
    sentences = [
        "Do not trust it on films like these yet, and never to decide who is ill."
        if warning
        else "Trust it to choose which films are read first, never to decide who is ill.",
        f"On the {where}, counted by film: {ill[0].lower()}{ill[1:]} {well}",
    ]
    if manifest.metrics:
        sentences.append(_measured(manifest))
    return (*sentences, f"{OTHER_HOSPITALS} So measure it on films of your own.")


def _measured(manifest: RunManifest) -> str:
    found = manifest.metrics[0].confusion
    ill = found.true_positive + found.false_negative
    well = found.false_positive + found.true_negative
    parts = []
    if ill:
        parts.append(f"flagged {found.true_positive:,} of {ill:,} with pneumonia")
    if well:
        parts.append(f"wrongly flagged {found.false_positive:,} of {count(well, 'normal film')}")
    films = count(found.total, "labelled film")
    return f"On the {films} of this batch it {join_words(parts)} (section 3)."


def _never(card: ModelCard) -> str:
    text = (
        "Not to diagnose, not to decide on treatment, not to send a patient home. A film that is "
        "not flagged may still show pneumonia or another illness."
    )
    if people_of(card) == "children":
        text += (
            " The model learned from children of one to five years in one hospital; it knows "
            "nothing of adults."
        )
    return text


def _next_steps(manifest: RunManifest, warning: str) -> tuple[str, ...]:
    flagged, clear, unscored = manifest.flagged, manifest.not_flagged, manifest.not_scored
    steps = []
    if not manifest.found:
        steps.append("Check the folder that was given: no file was found in it.")
    if warning:
        steps.append(
            "Read every film as if there were no model: what a flag is worth on such films is not "
            "known."
        )
    elif flagged:
        films = "the flagged film" if flagged == 1 else f"the {flagged:,} flagged films"
        steps.append(
            f"Have a clinician read {films} now{_which_first(manifest)}. Section 2 says where to "
            "begin."
        )
    if clear and not warning:
        films = "the film that was" if clear == 1 else f"the {clear:,} films that were"
        steps.append(f"Read {films} not flagged as usual: the model misses some pneumonia.")
    if unscored:
        files = "the file that was" if unscored == 1 else f"the {unscored:,} files that were"
        steps.append(f"Read {files} not scored without the model. Section 6 says why.")
    if manifest.synthetic or manifest.labelled < ENOUGH_LABELS:
        steps.append(
            f"Score at least {ENOUGH_LABELS} films of your own that a radiologist has labelled, "
            "and see section 3: only that shows how good the model is in your clinic."
        )
    return tuple(steps)


def _which_first(manifest: RunManifest) -> str:
    """Where some of the flagged films are of an earlier night: that the new ones come first."""
    fresh = manifest.changes.flagged if manifest.changes else 0
    if not 0 < fresh < manifest.flagged:
        return ""
    return ", the new one first" if fresh == 1 else f", the {fresh:,} new ones first"
