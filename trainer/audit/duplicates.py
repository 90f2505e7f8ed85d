"""Films that are copies of each other: the same pixels, or pixels that look the same.

Two films look the same when their perceptual hashes (pHash of 256 bits: which of the lowest 16 by
16 frequencies lie above their median) differ in at most ``MAX_HASH_DISTANCE_BITS``. On the 5,856 films of Kermany
et al. identical films differ in 0 bits and no other pair in fewer than 38; on a hundred of them,
saving again as JPEG of quality 30 changed at most 14 bits, 20 % more brightness 16, and cutting off
a hundredth on each side 32. Turned, mirrored and strongly cropped copies are not found.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from batch_scorer.model.card_sections import DuplicateCounts
from trainer.audit.image_stats import HASH_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from trainer.audit.image_stats import ImageStats

MAX_HASH_DISTANCE_BITS = 32
BLOCK_SIZE = 512

DuplicateGroup = tuple["ImageStats", ...]


@dataclass(frozen=True)
class DuplicateGroups:
    """Groups of two or more films: with the same pixels, and others that look the same."""

    identical: tuple[DuplicateGroup, ...]
    near_duplicates: tuple[DuplicateGroup, ...]


def find_duplicates(films: Sequence[ImageStats]) -> DuplicateGroups:
    """Group the films that are copies of each other."""
    same_pixels = _group_by_key(films, [film.pixels_sha256 for film in films])
    look_same = _group_by_key(
        films, _label_components(_find_close_pairs(films), len(films)).tolist()
    )
    alike = [group for group in look_same if len({film.pixels_sha256 for film in group}) > 1]
    return DuplicateGroups(tuple(same_pixels), tuple(alike))


def count_duplicates(groups: Sequence[DuplicateGroup]) -> DuplicateCounts:
    """Count groups by the parts that they lie in, and those whose films contradict each other."""
    within: dict[str, int] = defaultdict(int)
    across: dict[str, int] = defaultdict(int)
    for group in groups:
        parts = list(dict.fromkeys(film.part for film in group))
        for part in parts:
            within[part] += sum(film.part == part for film in group) > 1
        for pair in combinations(parts, 2):
            across[" and ".join(pair)] += 1
    return DuplicateCounts(
        groups=len(groups),
        images=sum(len(group) for group in groups),
        within={part: number for part, number in within.items() if number},
        across=dict(across),
        mixed_labels=_count_mixed(groups, "label"),
        mixed_patients=_count_mixed(groups, "patient"),
    )


def _count_mixed(groups: Sequence[DuplicateGroup], name: str) -> int:
    """Groups whose films tell more than one value; an empty one tells nothing."""
    return sum(len({getattr(film, name) for film in group} - {""}) > 1 for group in groups)


def _group_by_key(films: Sequence[ImageStats], marks: Iterable[object]) -> list[DuplicateGroup]:
    """The films that share a mark, in groups of two or more."""
    groups: dict[object, list[ImageStats]] = defaultdict(list)
    for film, mark in zip(films, marks, strict=True):
        groups[mark].append(film)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _find_close_pairs(films: Sequence[ImageStats]) -> NDArray[np.int64]:
    """Indices of films whose hashes are close, shape (pairs, 2), in blocks so that memory is flat.

    With bits written as -1 and 1, the product of two hashes is the number of bits that agree less
    the number that differ.
    """
    signs = np.stack([film.appearance for film in films]).astype(np.float32) * 2 - 1
    pairs = []
    for start in range(0, len(signs), BLOCK_SIZE):
        agreement = signs[start : start + BLOCK_SIZE] @ signs[start:].T
        first, second = np.nonzero(agreement >= HASH_BITS - 2 * MAX_HASH_DISTANCE_BITS)
        pairs.append(np.stack([first, second], axis=1)[first < second] + start)
    return np.concatenate(pairs)


def _label_components(pairs: NDArray[np.int64], size: int) -> NDArray[np.int32]:
    """Number the connected parts of the graph of pairs, shape (size,)."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    parts: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return parts
