"""Numbers, names and times as text. Pure functions."""

from __future__ import annotations

import math
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch_scorer.metrics.classification import Estimate
    from batch_scorer.model.card import ModelCard

MAX_NAME_CHARS = 140
NOT_DEFINED = "not defined"
NO_INTERVAL = "no interval"
MAX_DECIMALS = 6
MIN_SHOWN_CHANGE = 0.0001

# The likelihood scale of the IPCC (Mastrandrea et al. 2010).
LIKELIHOOD_SCALE = (
    (0.90, "very likely"),
    (0.66, "likely"),
    (0.33, "about as likely as not"),
    (0.10, "unlikely"),
    (0.0, "very unlikely"),
)
_INVISIBLE = ("C", "M", "Zl", "Zp")


def format_count(number: int, singular: str, plural: str = "") -> str:
    """Format a number with its noun: "1 film", "1,204 films"."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def format_likelihood(probability: float) -> str:
    """Format a probability in fixed words, chosen by the two decimals that are printed."""
    shown = round(probability, 2)
    return next(words for lowest, words in LIKELIHOOD_SCALE if shown >= lowest)


def format_probability(probability: float, threshold: float) -> str:
    """Format a probability with enough decimals to separate it from the threshold, at least two.

    It never shows certainty: a value that rounds to 0 or 1 becomes "under 0.01" or "over 0.99".
    """
    decimals = 2
    while round(probability, decimals) == round(threshold, decimals) and decimals < MAX_DECIMALS:
        if probability == threshold:
            return format_threshold(threshold)
        decimals += 1
    text = f"{probability:.{decimals}f}"
    return {"0.00": "under 0.01", "1.00": "over 0.99"}.get(text, text)


def format_threshold(threshold: float) -> str:
    """Three decimals."""
    return f"{threshold:.3f}"


def format_change(difference: float) -> str:
    """Format a small difference with its sign: "−0.0002", or "less than 0.0001"."""
    if abs(difference) < MIN_SHOWN_CHANGE:
        return f"less than {MIN_SHOWN_CHANGE}"
    return f"{difference:+.4f}".replace("-", "−")


def format_value(estimate: Estimate) -> str:
    """Format a metric with three decimals, or as "not defined"."""
    return NOT_DEFINED if estimate.value is None else f"{estimate.value:.3f}"


def format_interval(estimate: Estimate) -> str:
    """Format the 95 % interval of a metric; empty where the metric is not defined."""
    if estimate.low is None or estimate.high is None:
        return ""
    if estimate.low == estimate.high:  # too few images for the bootstrap
        return NO_INTERVAL
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def format_estimate(estimate: Estimate) -> str:
    """Format a metric with interval and n: "0.902 (95 % interval 0.892 to 0.911, n = 5,232)"."""
    interval = format_interval(estimate)
    if not interval:
        return f"{NOT_DEFINED} (n = {estimate.n:,})"
    known = interval if interval == NO_INTERVAL else f"95 % interval {interval}"
    return f"{format_value(estimate)} ({known}, n = {estimate.n:,})"


def format_per_hundred(estimate: Estimate, *, inverse: bool = False) -> str:
    """Format a share as people out of 100: "96 (95 % interval 93 to 98, n = 390)".

    Args:
        estimate: A defined share.
        inverse: Count the people who are not in the share.
    """
    shown = format_share(estimate, 100, inverse=inverse)
    if not shown:
        return NOT_DEFINED
    return f"{shown[0]} (95 % interval {shown[1]}, n = {estimate.n:,})"


def format_share(
    estimate: Estimate, total: int, *, inverse: bool = False
) -> tuple[str, str] | None:
    """Format a share as people out of ``total``, with its interval: ("96", "93 to 98").

    The interval is rounded outwards, so it never looks narrower than it is. Returns None where the
    share is not defined.
    """
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    value, low, high = (total * share for share in (estimate.value, estimate.low, estimate.high))
    if inverse:
        value, low, high = total - value, total - high, total - low
    return f"{value:.0f}", format_integer_interval(low, high)


def format_integer_interval(low: float, high: float) -> str:
    """Format an interval in whole numbers that contains the given one: "3 to 8"."""
    return f"{math.floor(round(low, 6)):,} to {math.ceil(round(high, 6)):,}"


def sanitize_text(text: str, max_chars: int = MAX_NAME_CHARS) -> str:
    """Make a name from outside safe to print: no invisible characters, limited length.

    Characters that steer or hide text (line ends, direction marks, lone accents) become their code
    point, such as ‹U+202E›. A name over ``max_chars`` characters loses its middle.
    """
    printable = "".join(
        f"‹U+{ord(char):04X}›" if _is_invisible(char) else char
        for char in unicodedata.normalize("NFC", text)
    )
    if len(printable) <= max_chars:
        return printable
    tail = max_chars // 3
    return f"{printable[: max_chars - tail - 1]}…{printable[-tail:]}"


def format_title(card: ModelCard) -> str:
    """Format the title of a model."""
    return sanitize_text(card.title, 60)


def format_timestamp(iso: str) -> str:
    """Format a time as "23 November 2026, 20:17 UTC". Anything but an ISO date stays as it is."""
    try:
        timestamp = datetime.fromisoformat(iso)
    except ValueError:
        return sanitize_text(iso)
    zone = f" {timestamp.tzname()}" if timestamp.tzinfo else ""
    return f"{timestamp.day} {timestamp:%B %Y, %H:%M}{zone}"


def format_run_date(name: str) -> str:
    """Format the date of a scheduled run: "26 November" for 20261126-020000."""
    try:
        day = datetime.strptime(name[:8], "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return sanitize_text(name)
    return f"{day.day} {day:%B}"


def format_duration(seconds: float) -> str:
    """Format a time span with a sensible precision."""
    if seconds < 1:
        return "less than a second"
    if seconds < 2 * 60:
        return format_count(round(seconds), "second")
    if seconds < 2 * 3600:
        return format_count(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def join_words(words: list[str]) -> str:
    """Join words to a list in a sentence: "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _is_invisible(char: str) -> bool:
    kind = unicodedata.category(char)
    return kind.startswith(_INVISIBLE) or (kind == "Zs" and char != " ")
