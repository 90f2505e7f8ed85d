"""Numbers, names and times as a reader sees them. Pure functions."""

from __future__ import annotations

import math
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch_scorer.metrics.classification import Estimate

MAX_NAME_CHARS = 140
NOT_DEFINED = "not defined"
NO_INTERVAL = "no interval"
MAX_DECIMALS = 6
MIN_SHOWN_CHANGE = 0.0001

# Fixed words for a probability, after the scale of the IPCC (Mastrandrea et al. 2010).
LIKELIHOOD_SCALE = (
    (0.90, "very likely"),
    (0.66, "likely"),
    (0.33, "about as likely as not"),
    (0.10, "unlikely"),
    (0.0, "very unlikely"),
)
_INVISIBLE = ("C", "M", "Zl", "Zp")


def format_count(number: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 film", "1,204 films"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def format_likelihood(probability: float) -> str:
    """A probability in fixed words, by the two decimals that are printed."""
    shown = round(probability, 2)
    return next(words for lowest, words in LIKELIHOOD_SCALE if shown >= lowest)


def format_probability(probability: float, threshold: float) -> str:
    """Two decimals, or as many as it takes to tell the value from the threshold.

    Certainty is not claimed: what would round to 0 or 1 is "under 0.01" or "over 0.99".
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
    """A small difference with its sign, four decimals: "−0.0002", or "less than 0.0001"."""
    if abs(difference) < MIN_SHOWN_CHANGE:
        return f"less than {MIN_SHOWN_CHANGE}"
    return f"{difference:+.4f}".replace("-", "−")


def format_value(estimate: Estimate) -> str:
    """A metric, three decimals, or "not defined"."""
    return NOT_DEFINED if estimate.value is None else f"{estimate.value:.3f}"


def format_interval(estimate: Estimate) -> str:
    """The 95 % interval of a metric, or nothing where the metric is not defined."""
    if estimate.low is None or estimate.high is None:
        return ""
    if estimate.low == estimate.high:  # resampling so few films cannot show their spread
        return NO_INTERVAL
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def format_estimate(estimate: Estimate) -> str:
    """A metric with its interval and n: "0.902 (95 % interval 0.892 to 0.911, n = 5,232)"."""
    interval = format_interval(estimate)
    if not interval:
        return f"{NOT_DEFINED} (n = {estimate.n:,})"
    known = interval if interval == NO_INTERVAL else f"95 % interval {interval}"
    return f"{format_value(estimate)} ({known}, n = {estimate.n:,})"


def format_per_hundred(estimate: Estimate, *, inverse: bool = False) -> str:
    """A share as people out of 100: "96 (95 % interval 93 to 98, n = 390)".

    Args:
        estimate: A defined share.
        inverse: Count the others: of 100, those who are not in the share.
    """
    shown = format_share(estimate, 100, inverse=inverse)
    if not shown:
        return NOT_DEFINED
    return f"{shown[0]} (95 % interval {shown[1]}, n = {estimate.n:,})"


def format_share(estimate: Estimate, of: int, *, inverse: bool = False) -> tuple[str, str] | None:
    """A share as people out of ``of``, with its interval: ("96", "93 to 98").

    The interval is rounded outwards, so that it never looks narrower than it is.
    """
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    value, low, high = (of * share for share in (estimate.value, estimate.low, estimate.high))
    if inverse:
        value, low, high = of - value, of - high, of - low
    return f"{value:.0f}", format_integer_interval(low, high)


def format_integer_interval(low: float, high: float) -> str:
    """An interval in whole numbers that holds the given one: "3 to 8"."""
    return f"{math.floor(round(low, 6)):,} to {math.ceil(round(high, 6)):,}"


def sanitize_text(name: str, length: int = MAX_NAME_CHARS) -> str:
    """A file name that cannot play tricks: nothing invisible, nothing endless.

    Characters that steer or hide text (line ends, direction marks, lone accents) are written as
    their number; a very long name loses its middle.
    """
    text = "".join(
        f"‹U+{ord(char):04X}›" if _is_invisible(char) else char
        for char in unicodedata.normalize("NFC", name)
    )
    if len(text) <= length:
        return text
    tail = length // 3
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def format_timestamp(iso: str) -> str:
    """A moment in words: "23 November 2026, 20:17 UTC". What is no ISO date stays as it is."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return sanitize_text(iso)
    zone = f" {moment.tzname()}" if moment.tzinfo else ""
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"


def format_run_date(name: str) -> str:
    """The day of a night of ``cxr job``: "26 November" for 20261126-020000."""
    try:
        day = datetime.strptime(name[:8], "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return sanitize_text(name)
    return f"{day.day} {day:%B}"


def format_duration(seconds: float) -> str:
    """A time span to the precision that matters."""
    if seconds < 1:
        return "less than a second"
    if seconds < 2 * 60:
        return format_count(round(seconds), "second")
    if seconds < 2 * 3600:
        return format_count(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def join_words(words: list[str]) -> str:
    """A list in a sentence: "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _is_invisible(char: str) -> bool:
    kind = unicodedata.category(char)
    return kind.startswith(_INVISIBLE) or (kind == "Zs" and char != " ")
