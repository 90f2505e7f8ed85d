"""Films that are copies of each other: the same pixels, or pixels that look the same.

Two images look the same when their perceptual hashes (pHash of 256 bits: which of the lowest 16 by
16 frequencies lie above their median) differ in at most ``MAX_HASH_DISTANCE_BITS``. On the 5,856 images of Kermany
et al. identical images differ in 0 bits and no other pair in fewer than 38; on a hundred of them,
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
    """Groups of two or more images: with the same pixels, and others that look the same."""

    identical: tuple[DuplicateGroup, ...]
    near_duplicates: tuple[DuplicateGroup, ...]


def find_duplicates(images: Sequence[ImageStats]) -> DuplicateGroups:
    """Group the images that are copies of each other."""
    same_pixels = _group_by_key(images, [image.pixels_sha256 for image in images])
    look_same = _group_by_key(
        images, _label_components(_find_close_pairs(images), len(images)).tolist()
    )
    alike = [group for group in look_same if len({image.pixels_sha256 for image in group}) > 1]
    return DuplicateGroups(tuple(same_pixels), tuple(alike))


def count_duplicates(groups: Sequence[DuplicateGroup]) -> DuplicateCounts:
    """Count groups by the parts that they lie in, and those whose images contradict each other."""
    within: dict[str, int] = defaultdict(int)
    across: dict[str, int] = defaultdict(int)
    for group in groups:
        parts = list(dict.fromkeys(image.part for image in group))
        for part in parts:
            within[part] += sum(image.part == part for image in group) > 1
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
    """Groups whose images tell more than one value; an empty one tells nothing."""
    return sum(len({getattr(image, name) for image in group} - {""}) > 1 for group in groups)


def _group_by_key(images: Sequence[ImageStats], keys: Iterable[object]) -> list[DuplicateGroup]:
    """The images that share a mark, in groups of two or more."""
    groups: dict[object, list[ImageStats]] = defaultdict(list)
    for image, key in zip(images, keys, strict=True):
        groups[key].append(image)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _find_close_pairs(images: Sequence[ImageStats]) -> NDArray[np.int64]:
    """Indices of images whose hashes are close, shape (pairs, 2), in blocks so that memory is flat.

    With bits written as -1 and 1, the product of two hashes is the number of bits that agree less
    the number that differ.
    """
    signs = np.stack([image.phash for image in images]).astype(np.float32) * 2 - 1
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
