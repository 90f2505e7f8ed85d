"""The input pipeline: from memory with TensorFlow, from the device with torch and JAX.

With torch and JAX, all images are moved to the device once, as bytes (5,000 images take 250 MB). A
step then sends only the indices of its images. TensorFlow, which trains on CPUs here, takes the
arrays directly.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops, tree

TrainingArrays = tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]
"""Pixels (N, S, S, 1), and targets (N, 1) and sample weights (N,) by output."""


class DeviceDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """Images that stay on the device and are selected by index.

    Args:
        part: The arrays to move to the device.
        batch_size: Images per step; the last step of an epoch has the rest.
        seed: Seed of the order, which differs in each epoch; None keeps the original order.
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
        """Return pixels, targets and sample weights of one step, all on the device."""
        start = index * self._batch_size
        indices = self._order[start : start + self._batch_size]
        batch: tuple[Any, ...] = tree.map_structure(
            lambda array: ops.take(array, indices, axis=0), self._part
        )
        return batch

    def on_epoch_end(self) -> None:
        """Draw the order of the next epoch."""
        self._shuffle()

    def _shuffle(self) -> None:
        if self._random is not None:
            self._random.shuffle(self._order)


def make_fit_arguments(
    train: TrainingArrays, validation: TrainingArrays, batch_size: int, seed: int
) -> dict[str, Any]:
    """Make the data arguments of ``keras.Model.fit`` for the backend in use."""
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
