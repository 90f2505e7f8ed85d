"""Checks of a model card for impossible figures and overlong texts.

The types of the card call these checks. They raise ``ValueError``, to which msgspec adds the field.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batch_scorer.metrics.classification import Curve, Estimate

PROBABILITY_TOLERANCE = 1e-6
"""The excess allowed beyond 0 and 1: ONNX Runtime's Sigmoid(17) is 1.0000001."""
MAX_CARD_CHARS = 1_000_000
MAX_TEXT_CHARS = 2_000
"""Bundled cards have 29,000 characters; their longest text has 171."""
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
"""A valid model name, which becomes a column name of the CSV file."""


def check_proportions(estimates: Iterable[Estimate]) -> None:
    """Refuse proportions, or interval limits, outside 0 to 1."""
    for estimate in estimates:
        for value in (estimate.value, estimate.low, estimate.high):
            if (
                value is not None
                and not -PROBABILITY_TOLERANCE <= value <= 1 + PROBABILITY_TOLERANCE
            ):
                raise ValueError(f"expected a proportion from 0 to 1, found {value:g}")


def check_metrics(figures: Mapping[str, Estimate], names: Iterable[str]) -> None:
    """Refuse figures with a missing metric or a metric outside 0 to 1."""
    if missing := sorted(set(names) - figures.keys()):
        raise ValueError(f"expected all metrics, found no {' and no '.join(missing)}")
    check_proportions(figures.values())


def check_curves(*curves: Curve) -> None:
    """Refuse a curve with different numbers of x and y values."""
    for curve in curves:
        check_equal_lengths(curve.x, curve.y)


def check_equal_lengths(*columns: Sequence[float]) -> None:
    """Refuse lists of different lengths."""
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"expected lists of equal length, found lengths {lengths}")


def check_ascending(quantiles: Sequence[float]) -> None:
    """Refuse quantiles that are not in ascending order."""
    if list(quantiles) != sorted(quantiles):
        raise ValueError(
            "expected quantiles in ascending order, found a lower one after a higher one"
        )


def check_contents(card: Mapping[str, Any]) -> None:
    """Refuse a card that a run cannot use.

    The types of the card do not make these checks, because older runs may contain such a card.

    Args:
        card: The card as plain dicts and lists.

    Raises:
        ValueError: The validation figures are missing, the name is not plain, or a text is too
            long.
    """
    if "validation" not in card["references"]:
        raise ValueError("expected metrics of the validation images, found none")
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
    """Yield all texts of a card, including the keys of its tables."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        yield from part
        yield from (text for value in part.values() for text in _find_texts(value))
    elif isinstance(part, list):
        yield from (text for value in part for text in _find_texts(value))
