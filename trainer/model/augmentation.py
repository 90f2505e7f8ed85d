"""Augmentation: random changes of training images, so the network learns lungs, not scanners.

Three layers that act in training only. The saved network does not contain them.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

TRANSFER_PROBABILITY = 0.5
"""The share of images that take on the grey levels of another image."""
N_LEVELS = 17
MIN_RANGE = 1e-3
SAMPLE_STRIDE_PX = 3


class RandomAffine(keras.layers.Layer):  # type: ignore[misc]
    """Flips, rotates, shifts and zooms each image, with one interpolation.

    Uncovered areas are filled from the image's edge. Black borders would tell the network that it
    is in training, and every logit of a whole image would come out too low.

    Args:
        seed: Seed of the random numbers.
        turn: Largest angle, in radians.
        shift: Largest shift, as a share of the side.
        zoom: Largest natural logarithm of the zoom. Each axis adds up to a fifth of it on its
            own.
    """

    def __init__(self, seed: int, *, turn: float, shift: float, zoom: float) -> None:
        super().__init__(dtype="float32")
        self._seed = keras.random.SeedGenerator(seed)
        self._turn, self._shift, self._zoom = turn, shift, zoom

    def call(self, x: Any, training: bool = False) -> Any:  # noqa: FBT001, FBT002 - Keras's signature
        """Change images (N, S, S, 1) in 0..1; return the same shape."""
        if not training:
            return x
        images, side = ops.shape(x)[0], x.shape[1]
        draw = keras.random.uniform((6, images), -1.0, 1.0, seed=self._seed)
        angle, zoom = self._turn * draw[0], self._zoom * draw[1]
        across = ops.exp(zoom + self._zoom / 5 * draw[2]) * ops.sign(draw[3])
        down = ops.exp(zoom - self._zoom / 5 * draw[2])
        cosine, sine, middle = ops.cos(angle), ops.sin(angle), (side - 1) / 2
        a, b = cosine * across, -sine * down
        c, d = sine * across, cosine * down
        right = middle + self._shift * side * draw[4] - (a + b) * middle
        below = middle + self._shift * side * draw[5] - (c + d) * middle
        row, column = ops.arange(side, dtype="float32")[:, None], ops.arange(side, dtype="float32")
        a, b, right, c, d, below = (each[:, None, None] for each in (a, b, right, c, d, below))
        return _sample_bilinear(x, c * column + d * row + below, a * column + b * row + right)


def _sample_bilinear(x: Any, rows: Any, columns: Any) -> Any:
    """Sample images at given positions with bilinear interpolation, repeating edge pixels.

    Keras's ``ops.image.affine_transform`` computes the same, but image by image with torch, which
    took four times as long as the rest of a step.

    Args:
        x: Images (N, S, S, 1).
        rows: Row positions, (N, S, S), in pixels.
        columns: Column positions, likewise.
    """
    side = x.shape[1]
    flat = ops.reshape(x, (-1, side * side))
    rows, columns = (ops.clip(positions, 0.0, side - 1.0) for positions in (rows, columns))
    top, left = (
        ops.cast(ops.minimum(ops.floor(positions), side - 2.0), "int32")
        for positions in (rows, columns)
    )
    down = rows - ops.cast(top, "float32")
    right = columns - ops.cast(left, "float32")

    def pick(positions: Any) -> Any:
        found = ops.take_along_axis(flat, ops.reshape(positions, (-1, side * side)), axis=1)
        return ops.reshape(found, (-1, side, side))

    corner = top * side + left
    upper = pick(corner) * (1.0 - right) + pick(corner + 1) * right
    lower = pick(corner + side) * (1.0 - right) + pick(corner + side + 1) * right
    return (upper * (1.0 - down) + lower * down)[..., None]


class RandomHistogramMatching(keras.layers.Layer):  # type: ignore[misc]
    """Moves the grey levels of half of the images part of the way to those of another image.

    Grey levels alone separate most normal images of a data set from those with pneumonia
    (``docs/experiments.md``), and other hospitals have other grey levels. This layer breaks that
    link. The previous image in the batch provides the levels, whatever its class: 17 quantiles from
    the darkest to the brightest pixel, with straight lines between.

    Args:
        seed: Seed of the random numbers.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(dtype="float32")
        self._seed = keras.random.SeedGenerator(seed)

    def call(self, x: Any, training: bool = False) -> Any:  # noqa: FBT001, FBT002 - Keras's signature
        """Change images (N, S, S, 1) in 0..1; return the same shape and range."""
        if not training:
            return x
        some = x[:, 1::SAMPLE_STRIDE_PX, 1::SAMPLE_STRIDE_PX]
        some = ops.sort(ops.reshape(some, (-1, some.shape[1] * some.shape[2])), axis=1)
        ranks = np.linspace(0, some.shape[1] - 1, N_LEVELS).round().astype(np.int32)
        own = ops.transpose(ops.take(some, ranks, axis=1))[..., None, None, None]
        draw = keras.random.uniform((2, ops.shape(x)[0], 1, 1, 1), seed=self._seed)
        share = ops.where(draw[0] < TRANSFER_PROBABILITY, draw[1], 0.0)
        new = own + share * (ops.roll(own, 1, axis=1) - own)
        found = new[0]
        for level in range(1, N_LEVELS):
            span = ops.maximum(own[level] - own[level - 1], MIN_RANGE)
            risen = ops.clip((x - own[level - 1]) / span, 0.0, 1.0)
            found = found + risen * (new[level] - new[level - 1])
        return found


class RandomIntensity(keras.layers.Layer):  # type: ignore[misc]
    """Changes gamma, contrast, brightness, sharpness and noise of each image.

    Args:
        seed: Seed of the random numbers.
        gamma: Largest natural logarithm of the exponent.
        contrast: Largest natural logarithm of the contrast factor around the image's mean.
        brightness: Largest shift, for a range of 1.
        blur: Largest share of a 3 by 3 mean that is mixed in, twice.
        noise: Largest standard deviation, for a range of 1.
    """

    def __init__(
        self, seed: int, *, gamma: float, contrast: float, brightness: float, blur: float,
        noise: float,
    ) -> None:  # fmt: skip
        super().__init__(dtype="float32")
        self._seed = keras.random.SeedGenerator(seed)
        self._gamma, self._contrast, self._brightness = gamma, contrast, brightness
        self._blur, self._noise = blur, noise

    def call(self, x: Any, training: bool = False) -> Any:  # noqa: FBT001, FBT002 - Keras's signature
        """Change images (N, S, S, 1) in 0..1; return the same shape and range."""
        if not training:
            return x
        draw = keras.random.uniform((5, ops.shape(x)[0], 1, 1, 1), -1.0, 1.0, seed=self._seed)
        share = ops.maximum(draw[0], 0.0) * self._blur  # half of the images stay sharp
        for _ in range(2):
            blurred = ops.average_pool(x, 3, strides=1, padding="same")
            x = x + share * (blurred - x)
        x = ops.power(ops.clip(x, 1e-3, 1.0), ops.exp(self._gamma * draw[1]))
        mean = ops.mean(x, axis=(1, 2, 3), keepdims=True)
        x = mean + (x - mean) * ops.exp(self._contrast * draw[2]) + self._brightness * draw[3]
        grain = keras.random.normal(ops.shape(x), seed=self._seed)
        return ops.clip(x + self._noise * ops.maximum(draw[4], 0.0) * grain, 0.0, 1.0)
