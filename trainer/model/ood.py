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

from trainer.model.networks import SIZE_PX, downsample

if TYPE_CHECKING:
    from numpy.typing import NDArray

REDUCED_SIZE_PX = 24
N_COMPONENTS = 16
DISTANCE_QUANTILE = 0.991
ORIENTATION_QUANTILE = 0.999
"""Together they put one training film of a hundred beyond 1, where films are rejected."""
MIN_CONTRAST = 0.02
PREDICT_BATCH = 256


@dataclass(frozen=True)
class ProbabilisticPca:
    """Where training films lie: probabilistic principal components.

    ``mean`` is (D,), ``components`` (D, K) with the ``variances`` (K,) along them, ``rest`` the
    variance along every other direction.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variances: NDArray[np.float64]
    rest: float

    @classmethod
    def fit(cls, small: NDArray[np.float64]) -> ProbabilisticPca:
        """Fit to small versions, (N, D)."""
        found = PCA(min(N_COMPONENTS, len(small) // 2), random_state=0).fit(small)
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

    def build_distance(self, small: Any, name: str) -> Any:
        """The same as layers, (N, 1)."""
        along = _make_fixed_dense(self.components, f"components{name}", self.mean)(small)
        offset = _make_fixed_dense(self.mean[:, None], f"mean{name}")(small)
        squares = ops.sum(small * small, axis=1, keepdims=True)
        whole = (squares - 2.0 * offset + float(self.mean @ self.mean)) / self.rest
        less = _make_fixed_dense((1 / self.variances - 1 / self.rest)[:, None], f"variances{name}")
        return ops.log(ops.maximum(whole + less(along * along), 1e-3))


@dataclass(frozen=True)
class OodDetector:
    """What training films look like. Make one with ``fit_ood_detector``.

    ``distance_range`` and ``orientation_range`` are each the values of the median training film and of one that is
    as far off as training films get.
    """

    pca: ProbabilisticPca
    distance_range: tuple[float, float]
    orientation_range: tuple[float, float]

    def build_atypicality(self, pixels: Any) -> Any:
        """Atypicality (N, 1) of ``pixels`` (N, 224, 224, 1), as layers."""
        small = _normalize_small(pixels)
        far = self.pca.build_distance(small, "")
        turned = self.pca.build_distance(ops.flip(small, axis=1), "_turned")
        return ops.maximum(
            _scale_to_range(far, self.distance_range),
            _scale_to_range(far - turned, self.orientation_range),
        )


def fit_ood_detector(pixels: NDArray[np.uint8]) -> OodDetector:
    """Learn what films look like.

    How far off training films get is measured on films that the Gaussian was not fitted to, five
    parts in turn; a few hundred films would otherwise lie closer to it than any new film.

    Args:
        pixels: Training films, shape (N, 224, 224, 1).
    """
    entrance = keras.Input((SIZE_PX, SIZE_PX, 1), dtype="uint8")
    shrunk = keras.Model(entrance, _normalize_small(entrance))
    small = np.asarray(shrunk.predict(pixels, batch_size=PREDICT_BATCH, verbose=0), np.float64)
    far, turned = np.empty(len(small)), np.empty(len(small))
    for fitted, held_out in KFold(5, shuffle=True, random_state=0).split(small):
        gaussian = ProbabilisticPca.fit(small[fitted])
        far[held_out] = gaussian.measure(small[held_out])
        turned[held_out] = gaussian.measure(small[held_out, ::-1])
    return OodDetector(
        ProbabilisticPca.fit(small),
        (float(np.median(far)), float(np.quantile(far, DISTANCE_QUANTILE))),
        (float(np.median(far - turned)), float(np.quantile(far - turned, ORIENTATION_QUANTILE))),
    )


def _normalize_small(pixels: Any) -> Any:
    """Small versions without their own tone, (N, 576)."""
    x = layers.Rescaling(1 / 255, dtype="float32")(pixels)
    x = layers.Reshape((REDUCED_SIZE_PX * REDUCED_SIZE_PX,), dtype="float32")(
        downsample(x, REDUCED_SIZE_PX, "small")
    )
    x = x - ops.mean(x, axis=1, keepdims=True)
    return x / (ops.sqrt(ops.mean(x * x, axis=1, keepdims=True)) + MIN_CONTRAST)


def _make_fixed_dense(
    weights: NDArray[np.float64], name: str, origin: NDArray[np.float64] | None = None
) -> Any:
    """A matrix product that never learns, measured from ``origin`` where there is one."""
    layer = layers.Dense(weights.shape[1], trainable=False, name=f"typical_{name}", dtype="float32")
    layer.build((None, weights.shape[0]))
    layer.set_weights(
        [weights, -(origin @ weights) if origin is not None else np.zeros(weights.shape[1])]
    )
    return layer


def _scale_to_range(values: Any, middle_and_edge: tuple[float, float]) -> Any:
    middle, edge = middle_and_edge
    return (values - middle) / (edge - middle)
