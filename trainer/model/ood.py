"""Out-of-distribution detection: a Gaussian of small, brightness-free training images.

Every image is reduced to 24 by 24, without its own mean and contrast, so dark and bright images are
not atypical as such. Principal components of the training images, with one variance for the rest,
form a Gaussian. Two distances follow: from an image to the Gaussian, and the difference to the same
image upside down, because an inverted chest has the same shapes. Each is scaled so that 0 is the
median training image and 1 an upper quantile of the training images. Atypicality is the larger one.

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
"""Together, the quantiles put one training image of a hundred above 1, the limit of rejection."""
MIN_CONTRAST = 0.02
PREDICT_BATCH = 256


@dataclass(frozen=True)
class ProbabilisticPca:
    """The distribution of training images: probabilistic principal components.

    ``mean`` is (D,), ``components`` (D, K) with their ``variances`` (K,); ``noise_variance`` is the
    variance in all other directions.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variances: NDArray[np.float64]
    noise_variance: float

    @classmethod
    def fit(cls, small: NDArray[np.float64]) -> ProbabilisticPca:
        """Fit to reduced images, (N, D)."""
        found = PCA(min(N_COMPONENTS, len(small) // 2), random_state=0).fit(small)
        return cls(
            found.mean_,
            found.components_.T,
            found.explained_variance_,
            float(found.noise_variance_),
        )

    def compute_distance(self, small: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the logarithm of the squared distance of each reduced image, (N,)."""
        offset = small - self.mean
        along = offset @ self.components
        correction = along**2 @ (1 / self.variances - 1 / self.noise_variance)
        return np.asarray(np.log((offset**2).sum(axis=1) / self.noise_variance + correction))

    def build_distance(self, small: Any, name: str) -> Any:
        """Build layers that compute the same distance, (N, 1)."""
        along = _make_fixed_dense(self.components, f"components{name}", self.mean)(small)
        offset = _make_fixed_dense(self.mean[:, None], f"mean{name}")(small)
        squares = ops.sum(small * small, axis=1, keepdims=True)
        whole = (squares - 2.0 * offset + float(self.mean @ self.mean)) / self.noise_variance
        correction = _make_fixed_dense(
            (1 / self.variances - 1 / self.noise_variance)[:, None], f"variances{name}"
        )
        return ops.log(ops.maximum(whole + correction(along * along), 1e-3))


@dataclass(frozen=True)
class OodDetector:
    """A detector of atypical images. Fit one with ``fit_ood_detector``.

    ``distance_range`` and ``orientation_range`` each hold two values: of the median training image
    and of an upper quantile of the training images.
    """

    pca: ProbabilisticPca
    distance_range: tuple[float, float]
    orientation_range: tuple[float, float]

    def build_atypicality(self, pixels: Any) -> Any:
        """Build layers that compute atypicality (N, 1) of ``pixels`` (N, 224, 224, 1)."""
        small = _normalize_small(pixels)
        distances = self.pca.build_distance(small, "")
        flipped_distances = self.pca.build_distance(ops.flip(small, axis=1), "_turned")
        return ops.maximum(
            _scale_to_range(distances, self.distance_range),
            _scale_to_range(distances - flipped_distances, self.orientation_range),
        )


def fit_ood_detector(pixels: NDArray[np.uint8]) -> OodDetector:
    """Fit the detector to training images.

    The distances of training images are measured in five-fold cross-validation. Otherwise a few
    hundred images would lie closer to their own Gaussian than any new image.

    Args:
        pixels: Training images, shape (N, 224, 224, 1).
    """
    pixel_input = keras.Input((SIZE_PX, SIZE_PX, 1), dtype="uint8")
    reduce = keras.Model(pixel_input, _normalize_small(pixel_input))
    small = np.asarray(reduce.predict(pixels, batch_size=PREDICT_BATCH, verbose=0), np.float64)
    distances, flipped_distances = np.empty(len(small)), np.empty(len(small))
    for fitted, held_out in KFold(5, shuffle=True, random_state=0).split(small):
        pca = ProbabilisticPca.fit(small[fitted])
        distances[held_out] = pca.compute_distance(small[held_out])
        flipped_distances[held_out] = pca.compute_distance(small[held_out, ::-1])
    return OodDetector(
        ProbabilisticPca.fit(small),
        (float(np.median(distances)), float(np.quantile(distances, DISTANCE_QUANTILE))),
        (
            float(np.median(distances - flipped_distances)),
            float(np.quantile(distances - flipped_distances, ORIENTATION_QUANTILE)),
        ),
    )


def _normalize_small(pixels: Any) -> Any:
    """Reduce images to 24 by 24 without their own brightness and contrast, (N, 576)."""
    x = layers.Rescaling(1 / 255, dtype="float32")(pixels)
    x = layers.Reshape((REDUCED_SIZE_PX * REDUCED_SIZE_PX,), dtype="float32")(
        downsample(x, REDUCED_SIZE_PX, "small")
    )
    x = x - ops.mean(x, axis=1, keepdims=True)
    return x / (ops.sqrt(ops.mean(x * x, axis=1, keepdims=True)) + MIN_CONTRAST)


def _make_fixed_dense(
    weights: NDArray[np.float64], name: str, origin: NDArray[np.float64] | None = None
) -> Any:
    """Make a matrix product that is never trained, relative to ``origin`` if given."""
    layer = layers.Dense(weights.shape[1], trainable=False, name=f"typical_{name}", dtype="float32")
    layer.build((None, weights.shape[0]))
    layer.set_weights(
        [weights, -(origin @ weights) if origin is not None else np.zeros(weights.shape[1])]
    )
    return layer


def _scale_to_range(values: Any, value_range: tuple[float, float]) -> Any:
    middle, edge = value_range
    return (values - middle) / (edge - middle)
