"""Duplicate images: identical pixels, or pixels that look the same.

Two images look the same if their perceptual hashes differ in at most ``MAX_HASH_DISTANCE_BITS``.
The hash is a pHash of 256 bits: one for each of the lowest 16 by 16 frequencies, set if above the
median. On the 5,856 images of Kermany et al., identical images differ in 0 bits and all other pairs
in at least 38. On a hundred of them, saving as JPEG of quality 30 changed at most 14 bits, 20 %
more brightness 16, and cropping a hundredth on each side 32. Rotated, flipped and strongly cropped
copies are not found.
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
    """Groups of two or more images with identical pixels, and of others that look the same."""

    identical: tuple[DuplicateGroup, ...]
    near_duplicates: tuple[DuplicateGroup, ...]


def find_duplicates(images: Sequence[ImageStats]) -> DuplicateGroups:
    """Group the images that are duplicates of each other."""
    same_pixels = _group_by_key(images, [image.pixels_sha256 for image in images])
    look_same = _group_by_key(
        images, _label_components(_find_close_pairs(images), len(images)).tolist()
    )
    near_duplicates = [
        group for group in look_same if len({image.pixels_sha256 for image in group}) > 1
    ]
    return DuplicateGroups(tuple(same_pixels), tuple(near_duplicates))


def count_duplicates(groups: Sequence[DuplicateGroup]) -> DuplicateCounts:
    """Count groups by their parts, and groups whose images contradict each other."""
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
    """Count groups whose images have more than one value; empty values are ignored."""
    return sum(len({getattr(image, name) for image in group} - {""}) > 1 for group in groups)


def _group_by_key(images: Sequence[ImageStats], keys: Iterable[object]) -> list[DuplicateGroup]:
    """Group the images that share a key, two or more per group."""
    groups: dict[object, list[ImageStats]] = defaultdict(list)
    for image, key in zip(images, keys, strict=True):
        groups[key].append(image)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _find_close_pairs(images: Sequence[ImageStats]) -> NDArray[np.int64]:
    """Find pairs of images with close hashes, indices of shape (pairs, 2).

    With bits written as -1 and 1, the product of two hashes is the number of equal bits minus the
    number of different bits. Blocks limit the memory.
    """
    signs = np.stack([image.phash for image in images]).astype(np.float32) * 2 - 1
    pairs = []
    for start in range(0, len(signs), BLOCK_SIZE):
        agreement = signs[start : start + BLOCK_SIZE] @ signs[start:].T
        first, second = np.nonzero(agreement >= HASH_BITS - 2 * MAX_HASH_DISTANCE_BITS)
        pairs.append(np.stack([first, second], axis=1)[first < second] + start)
    return np.concatenate(pairs)


def _label_components(pairs: NDArray[np.int64], size: int) -> NDArray[np.int32]:
    """Label the connected components of the graph of pairs, shape (size,)."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    parts: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return parts
