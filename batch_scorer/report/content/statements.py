"""The numbers that page 1 states, in a form that outlives its wording. Pure functions.

A report carries the sentences of its page 1 that state totals, with a tag in place of each total:
"{flagged} of {scored} scored films were flagged as possible pneumonia." ``cxr verify`` finds the
numbers by these sentences, never by those that a later version would write. The tags are part of
the format: a tag is never renamed, and its meaning never changes.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from batch_scorer.report.content.typeface import replace_unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batch_scorer.report.content.summary import Summary
    from batch_scorer.results.schema import RunManifest

TAGS = (
    *("found", "listed", "scored", "flagged", "not flagged", "not scored", "undecided"),
    *("atypical", "new", "new flagged"),
)
MAX_SENTENCES = 50
MAX_SENTENCE_CHARS = 2_000
_TAG_PATTERN = re.compile(rf"\{{({'|'.join(TAGS)})\}}")
_NUMBER_PATTERN = r"\d{1,18}(?:,\d{3}){0,6}"
"""No report counts a longer number."""

Sentence = Annotated[str, Meta(min_length=1, max_length=MAX_SENTENCE_CHARS)]


class Statements(msgspec.Struct, frozen=True):
    """The statements on page 1 of one report.

    ``run_sha256`` is the hash of the attached run.json, which holds the hash of the rows.
    ``model`` is the text by which page 1 names the first model and its file's hash.
    """

    run_sha256: str
    model: str
    sentences: Annotated[list[Sentence], Meta(max_length=MAX_SENTENCES)]
    version: Literal[1] = 1


def build_statements(
    manifest: RunManifest, summary: Summary, model_line: str, run_sha256: str
) -> Statements:
    """Build the statements of a report.

    Args:
        manifest: The run.
        summary: Its page 1.
        model_line: The text by which page 1 names the first model.
        run_sha256: The hash of run.json as attached.
    """
    totals = collect_totals(manifest)
    tiles = zip(summary.tiles, ("flagged", "not flagged", "not scored"), strict=True)
    printed = [
        (summary.headline, ("flagged", "scored")),
        *((f"{tile.number} {tile.label} {tile.note}", (tag,)) for tile, tag in tiles),
        (summary.file_count, ("found", "listed")),
        (summary.changes, ("new", "new flagged")),
        (summary.undecided, ("undecided", "scored")),
        (summary.atypical, ("atypical", "scored")),
    ]
    return Statements(
        run_sha256=run_sha256,
        model=replace_unsupported(model_line),
        sentences=[
            tag_numbers(
                replace_unsupported(text), {tag: totals[tag] for tag in tags if tag in totals}
            )
            for text, tags in printed
            if text
        ],
    )


def collect_totals(manifest: RunManifest) -> dict[str, int]:
    """Collect the totals that page 1 must state, by tag, from run.json."""
    totals = {
        "found": manifest.found,
        "flagged": manifest.flagged,
        "not flagged": manifest.not_flagged,
        "not scored": manifest.not_scored,
    }
    if manifest.found < manifest.listed:
        totals["listed"] = manifest.listed
    if manifest.scored:
        totals["scored"] = manifest.scored
        if manifest.undecided is not None:
            totals["undecided"] = manifest.undecided
        if manifest.atypical is not None:
            totals["atypical"] = manifest.atypical
    if manifest.changes and manifest.changes.new_or_changed:
        totals |= {"new": manifest.changes.new_or_changed, "new flagged": manifest.changes.flagged}
    return totals


def tag_numbers(sentence: str, totals: Mapping[str, int]) -> str:
    """Replace the first occurrence of each total by its tag."""
    for tag, total in totals.items():
        number = re.compile(rf"(?<![\w,.]){total:,}(?!\w|[,.]\d)")
        sentence = number.sub(f"{{{tag}}}", sentence, count=1)
    return sentence


def fill_tags(sentence: str, totals: Mapping[str, int]) -> str:
    """Replace each tag by its total; a tag without one stays."""
    return _TAG_PATTERN.sub(
        lambda tag: f"{totals[tag[1]]:,}" if tag[1] in totals else tag[0], sentence
    )


def find_numbers(sentence: str, page: str) -> list[tuple[str, int]] | None:
    """Find the numbers in the positions of a sentence's tags, whatever the line breaks.

    No part of the pattern matches a text in two ways, so a hostile page takes no longer to search.

    Args:
        sentence: The sentence, with tags.
        page: The text of the page.

    Returns:
        Pairs of tag and number, for each occurrence of the sentence; None where there is none.
    """
    parts = _TAG_PATTERN.split(sentence)
    tags = parts[1::2]
    parts[::2] = [r"\s++".join(map(_make_word_pattern, text.split())) for text in parts[::2]]
    parts[1::2] = [f"((?>{_NUMBER_PATTERN}))"] * len(tags)
    text = r"\s*+".join(filter(None, parts))
    found = list(re.finditer(rf"(?<![\w,.]){text}(?!\w)", page))
    if not found:
        return None
    return [
        (tag, int(number.replace(",", "")))
        for match in found
        for tag, number in zip(tags, match.groups(), strict=True)
    ]


def _make_word_pattern(word: str) -> str:
    """Make a pattern for a word that may be broken after each hyphen."""
    return r"-\s*+".join(map(re.escape, word.split("-")))


_LEGACY_SENTENCES: Sequence[tuple[str, ...]] = (
    (
        "{flagged} of {scored} scored film was flagged as possible pneumonia.",
        "{flagged} of {scored} scored films was flagged as possible pneumonia.",
        "{flagged} of {scored} scored films were flagged as possible pneumonia.",
    ),
    ("{flagged} flagged possible pneumonia: read first",),
    ("{not flagged} clear which does not mean healthy",),
    ("{not scored} not scored read these without the model",),
    (
        "The first {found} of {listed} files in",
        "{found} file found in",
        "{found} files found in",
    ),
    (
        "{new} file is new since the night of NIGHT",
        "{new} files are new since the night of NIGHT",
        "{new} file is new or changed since the night of NIGHT",
        "{new} files are new or changed since the night of NIGHT",
        "{new} file changed since the night of NIGHT",
        "{new} files changed since the night of NIGHT",
    ),
    ("{new flagged} of them is flagged", "{new flagged} of them are flagged"),
    (
        "{undecided} of {scored} scored film, flagged or not",
        "{undecided} of {scored} scored films, flagged or not",
    ),
    (
        "{atypical} of {scored} scored film looks unlike most films that the model learned from",
        "{atypical} of {scored} scored films looks unlike most films that the model learned from",
        "{atypical} of {scored} scored films look unlike most films that the model learned from",
    ),
)
"""The sentences of cxr-batch 0.1.0, whose reports carry no statements, in singular and plural.

Archived reports have these words in print. They are never edited.
"""


def list_legacy_sentences(manifest: RunManifest) -> Iterator[tuple[str, ...]]:
    """Yield the sentences of a report without statements; its page 1 has one of each group."""
    totals = collect_totals(manifest)
    run_date = _format_legacy_run_date(manifest)
    for group in _LEGACY_SENTENCES:
        if all(tag in totals for tag in _TAG_PATTERN.findall(group[-1])):
            yield tuple(sentence.replace("NIGHT", run_date) for sentence in group)


def format_legacy_model(manifest: RunManifest) -> str:
    """Format the first model as a report without statements names it."""
    first = manifest.models[0]
    return f"{first.name} {first.sha256[:12]}"


def _format_legacy_run_date(manifest: RunManifest) -> str:
    """Format the earlier run date as 0.1.0 did: "26 November" for 20261126-020000."""
    name = manifest.changes.run_date if manifest.changes else ""
    try:
        day = datetime.strptime(name[:8], "%Y%m%d")  # noqa: DTZ007 - a day alone
    except ValueError:
        return name
    return f"{day.day} {day:%B}"
