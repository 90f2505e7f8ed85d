"""What is new in a night, against the newest finished one before it. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from batch_scorer.card import CLASSES
from batch_scorer.records import Since
from batch_scorer.triage import fresh_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch_scorer.records import RunManifest, Score


def date_rows(rows: Sequence[Score], before: Sequence[Score], night: str) -> list[Score]:
    """Each row with the night that first wrote it.

    A row stays of its old night while its file has the same name, the same content and the same
    status, by whatever model it was scored.
    """
    old = {row.image: row for row in before}
    return [msgspec.structs.replace(row, night=_night(row, old, night)) for row in rows]


def _night(row: Score, old: dict[str, Score], night: str) -> str:
    known = old.get(row.image)
    if known and (known.sha256, known.status) == (row.sha256, row.status):
        return known.night
    return night


def tell_since(
    rows: Sequence[Score], before: Sequence[Score], earlier: RunManifest, night: str
) -> Since:
    """What came, changed and went between two nights.

    Args:
        rows: This night's, with the nights that first wrote them.
        before: The earlier night's.
        earlier: The earlier night.
        night: This night's name.
    """
    names, names_before = {row.image for row in rows}, {row.image for row in before}
    fresh = fresh_rows(rows, night)
    new = sum(row.image not in names_before for row in fresh)
    return Since(
        night=earlier.night,
        finished=earlier.finished,
        films=len(before),
        new=new,
        changed=len(fresh) - new,
        gone=len(names_before - names),
        flagged=sum(row.prediction == CLASSES[1] for row in fresh),
    )
