"""How images get to the network: from memory under TensorFlow, from the device under torch and JAX.

Under torch and JAX all images are moved to the device once, as bytes (5,000 images take 250 MB); a
step then sends the numbers of its images and no pixels. TensorFlow, which trains on CPUs here, takes
the arrays as they are.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops, tree

TrainingArrays = tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]
"""Pixels (N, S, S, 1), right answers (N, 1) and weights (N,) by question."""


class DeviceDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """Films that stay on the device and are taken by number.

    Args:
        part: What to keep there.
        batch_size: Images per step; the last step of an epoch has what is left.
        seed: Of the order, which is another one in each epoch; None keeps the order as it is.
    """

    def __init__(self, part: TrainingArrays, batch_size: int, seed: int | None) -> None:
        super().__init__()
        self._part = tree.map_structure(ops.convert_to_tensor, part)
        self._batch_size = batch_size
        self._order = np.arange(len(part[0]), dtype=np.int32)
        self._random = None if seed is None else np.random.default_rng(seed)
        self._shuffle()

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Pixels, right answers and weights of one step, all on the device."""
        start = index * self._batch_size
        images = self._order[start : start + self._batch_size]
        taken: tuple[Any, ...] = tree.map_structure(
            lambda whole: ops.take(whole, images, axis=0), self._part
        )
        return taken

    def on_epoch_end(self) -> None:
        """Draw the order of the next epoch."""
        self._shuffle()

    def _shuffle(self) -> None:
        if self._random is not None:
            self._random.shuffle(self._order)


def make_fit_arguments(
    train: TrainingArrays, validation: TrainingArrays, batch_size: int, seed: int
) -> dict[str, Any]:
    """What ``keras.Model.fit`` needs to take its images, for the backend in use."""
    if keras.backend.backend() == "tensorflow":
        pixels, targets, weights = train
        return {
            "x": pixels,
            "y": targets,
            "sample_weight": weights,
            "batch_size": batch_size,
            "validation_data": validation,
        }
    return {
        "x": DeviceDataset(train, batch_size, seed),
        "validation_data": DeviceDataset(validation, batch_size, None),
        "shuffle": False,
    }
