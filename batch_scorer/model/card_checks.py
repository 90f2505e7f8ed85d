"""What no model card may say: figures that cannot be, and texts that nothing has room for.

The card's own types raise ``ValueError`` on what these find, which msgspec turns into its own error
with the place in the card.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batch_scorer.metrics.classification import Curve, Estimate

PROBABILITY_TOLERANCE = 1e-6
"""By how much a probability may leave 0 to 1: ONNX Runtime's Sigmoid of 17 is 1.0000001."""
MAX_CARD_CHARS = 1_000_000
MAX_TEXT_CHARS = 2_000
"""Characters. Bundled cards have 29,000, and their longest text 171."""
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
"""A model's name becomes a column of the CSV file."""


def check_proportions(estimates: Iterable[Estimate]) -> None:
    """Refuse an estimate of a share, or of its interval, outside 0 to 1."""
    for estimate in estimates:
        for value in (estimate.value, estimate.low, estimate.high):
            if (
                value is not None
                and not -PROBABILITY_TOLERANCE <= value <= 1 + PROBABILITY_TOLERANCE
            ):
                raise ValueError(f"expected a share from 0 to 1, found {value:g}")


def check_metrics(figures: Mapping[str, Estimate], names: Iterable[str]) -> None:
    """Refuse figures that lack a metric, or one that is no share."""
    if missing := sorted(set(names) - figures.keys()):
        raise ValueError(f"expected all metrics, found none called {' or '.join(missing)}")
    check_proportions(figures.values())


def check_curves(*curves: Curve) -> None:
    """Refuse a curve with another number of heights than of places."""
    for curve in curves:
        check_equal_lengths(curve.x, curve.y)


def check_equal_lengths(*columns: Sequence[float]) -> None:
    """Refuse columns of different lengths."""
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"expected as many numbers in each list, found {lengths}")


def check_ascending(quantiles: Sequence[float]) -> None:
    """Refuse quantiles that go down anywhere."""
    if list(quantiles) != sorted(quantiles):
        raise ValueError("expected quantiles in ascending order, found one below that before it")


def check_contents(card: Mapping[str, Any]) -> None:
    """Refuse a card, as plain dicts and lists, that a run could not use.

    It has no figures of validation images, its name is no plain word, or a text is long. Not a
    check of the card's own types: older runs may hold such a card.
    """
    if "validation" not in card["references"]:
        raise ValueError("expected figures of the validation images, found none")
    if not _MODEL_NAME.fullmatch(card["name"]):
        raise ValueError(
            "expected a name of up to 40 letters, digits, dots, hyphens and underscores, "
            f"found {card['name'][:40]!a}"
        )
    longest = max(map(len, _find_texts(card)))
    if longest > MAX_TEXT_CHARS:
        raise ValueError(
            f"expected texts of up to {MAX_TEXT_CHARS:,} characters, found one of {longest:,}"
        )


def _find_texts(part: Any) -> Iterator[str]:
    """All texts of a card, and the keys of its tables."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        yield from part
        yield from (text for value in part.values() for text in _find_texts(value))
    elif isinstance(part, list):
        yield from (text for value in part for text in _find_texts(value))
