"""How much an image looks like the training films: a Gaussian of small, tone-free versions.

Every film is shrunk to 24 by 24, and its own mean and contrast are taken out, so that dark or
bright films are no stranger than others. Principal components of the training films, with one
variance for all that they leave over, make a Gaussian (Tipping and Bishop 1999). Two distances
follow: how far an image is from it, and how much farther than the same image upside down, because
a chest on its head is made of the same shapes. Each is scaled so that 0 is the median training
film and 1 the film that all but a few training films stay below; the larger one is the answer.

Source: Tipping and Bishop 1999, Probabilistic principal component analysis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers, ops
from sklearn.decomposition import PCA
from sklearn.model_selection import KFold

from trainer.model.networks import SIZE_PX, shrink

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL_PX = 24
COMPONENTS = 16
DISTANCE_QUANTILE = 0.991
UPRIGHT_QUANTILE = 0.999
"""Together they put one training film of a hundred beyond 1, where films are rejected."""
LEAST_CONTRAST = 0.02
PREDICT_BATCH = 256


@dataclass(frozen=True)
class Gaussian:
    """Where training films lie: probabilistic principal components.

    ``mean`` is (D,), ``components`` (D, K) with the ``variances`` (K,) along them, ``rest`` the
    variance along every other direction.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variances: NDArray[np.float64]
    rest: float

    @classmethod
    def fit(cls, small: NDArray[np.float64]) -> Gaussian:
        """Fit to small versions, (N, D)."""
        found = PCA(min(COMPONENTS, len(small) // 2), random_state=0).fit(small)
        return cls(
            found.mean_,
            found.components_.T,
            found.explained_variance_,
            float(found.noise_variance_),
        )

    def measure(self, small: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logarithm of the squared distance of each small version, (N,)."""
        offset = small - self.mean
        along = offset @ self.components
        less = along**2 @ (1 / self.variances - 1 / self.rest)
        return np.asarray(np.log((offset**2).sum(axis=1) / self.rest + less))

    def measured(self, small: Any, name: str) -> Any:
        """The same as layers, (N, 1)."""
        along = _product(self.components, f"components{name}", self.mean)(small)
        offset = _product(self.mean[:, None], f"mean{name}")(small)
        squares = ops.sum(small * small, axis=1, keepdims=True)
        whole = (squares - 2.0 * offset + float(self.mean @ self.mean)) / self.rest
        less = _product((1 / self.variances - 1 / self.rest)[:, None], f"variances{name}")
        return ops.log(ops.maximum(whole + less(along * along), 1e-3))


@dataclass(frozen=True)
class Typical:
    """What training films look like. Make one with ``fit_typical``.

    ``distance`` and ``upright`` are each the values of the median training film and of one that is
    as far off as training films get.
    """

    gaussian: Gaussian
    distance: tuple[float, float]
    upright: tuple[float, float]

    def judge(self, pixels: Any) -> Any:
        """Atypicality (N, 1) of ``pixels`` (N, 224, 224, 1), as layers."""
        small = _small(pixels)
        far = self.gaussian.measured(small, "")
        turned = self.gaussian.measured(ops.flip(small, axis=1), "_turned")
        return ops.maximum(_scale(far, self.distance), _scale(far - turned, self.upright))


def fit_typical(pixels: NDArray[np.uint8]) -> Typical:
    """Learn what films look like.

    How far off training films get is measured on films that the Gaussian was not fitted to, five
    parts in turn; a few hundred films would otherwise lie closer to it than any new film.

    Args:
        pixels: Training films, shape (N, 224, 224, 1).
    """
    entrance = keras.Input((SIZE_PX, SIZE_PX, 1), dtype="uint8")
    shrunk = keras.Model(entrance, _small(entrance))
    small = np.asarray(shrunk.predict(pixels, batch_size=PREDICT_BATCH, verbose=0), np.float64)
    far, turned = np.empty(len(small)), np.empty(len(small))
    for fitted, held_out in KFold(5, shuffle=True, random_state=0).split(small):
        gaussian = Gaussian.fit(small[fitted])
        far[held_out] = gaussian.measure(small[held_out])
        turned[held_out] = gaussian.measure(small[held_out, ::-1])
    return Typical(
        Gaussian.fit(small),
        (float(np.median(far)), float(np.quantile(far, DISTANCE_QUANTILE))),
        (float(np.median(far - turned)), float(np.quantile(far - turned, UPRIGHT_QUANTILE))),
    )


def _small(pixels: Any) -> Any:
    """Small versions without their own tone, (N, 576)."""
    x = layers.Rescaling(1 / 255, dtype="float32")(pixels)
    x = layers.Reshape((SMALL_PX * SMALL_PX,), dtype="float32")(shrink(x, SMALL_PX, "small"))
    x = x - ops.mean(x, axis=1, keepdims=True)
    return x / (ops.sqrt(ops.mean(x * x, axis=1, keepdims=True)) + LEAST_CONTRAST)


def _product(
    weights: NDArray[np.float64], name: str, origin: NDArray[np.float64] | None = None
) -> Any:
    """A matrix product that never learns, measured from ``origin`` where there is one."""
    layer = layers.Dense(weights.shape[1], trainable=False, name=f"typical_{name}", dtype="float32")
    layer.build((None, weights.shape[0]))
    layer.set_weights(
        [weights, -(origin @ weights) if origin is not None else np.zeros(weights.shape[1])]
    )
    return layer


def _scale(values: Any, middle_and_edge: tuple[float, float]) -> Any:
    middle, edge = middle_and_edge
    return (values - middle) / (edge - middle)
