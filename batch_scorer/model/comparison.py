"""Models of one set against each other: what the exporter measured, and when it may be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from batch_scorer.metrics.classification import Estimate
from batch_scorer.system.strict_json import Count, Number

if TYPE_CHECKING:
    from collections.abc import Sequence


class PairedDifference(msgspec.Struct, frozen=True):
    """``first`` minus ``second`` in one metric ("auc", or "accuracy" at each one's threshold).

    ``p`` is two-sided; ``p_holm`` is corrected for all differences of the comparison.
    """

    first: str
    second: str
    metric: str
    difference: Estimate
    p: Number
    p_holm: Number


class Comparison(msgspec.Struct, frozen=True):
    """The models that were exported together, in pairs, on the same films.

    ``films_sha256`` tells which films; ``patients`` is 0 where not every film's patient is known.
    """

    split: str
    films: Count
    patients: Count
    films_sha256: str
    method: str
    pairs: list[PairedDifference]

    @property
    def names(self) -> set[str]:
        """The models that were compared."""
        return {name for pair in self.pairs for name in (pair.first, pair.second)}

    def among(self, names: set[str]) -> Comparison | None:
        """The pairs of some models only, or None where there is none."""
        pairs = [pair for pair in self.pairs if {pair.first, pair.second} <= names]
        return msgspec.structs.replace(self, pairs=pairs) if pairs else None


class _Card(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def comparison(self) -> Comparison | None: ...


def shared_comparison(cards: Sequence[_Card]) -> Comparison | None:
    """The comparison that models of a run have in common.

    Only models whose cards carry the very same comparison were measured together, on the same
    films: others are left out, and a model that was exported alone has none.
    """
    for card in cards:
        if card.comparison is None:
            continue
        together = {other.name for other in cards if other.comparison == card.comparison}
        if found := card.comparison.among(together):
            return found
    return None
