"""Two checks of the evidence map on validation images: does it show what the network uses?

- **Deletion** (Petsiuk et al. 2018): the regions of highest evidence are blurred, more of them at
  each step. The logit must fall faster than with randomly chosen regions.
- **Randomisation** (Adebayo et al. 2018): the map must change when the learned weights are
  shuffled. A map that does not change shows edges of the image, not what the network learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from PIL import Image, ImageFilter
from scipy.stats import spearmanr

from batch_scorer.model.card_sections import Faithfulness

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.data.dataset import LabelledImages

MAX_IMAGES = 100
DELETION_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
BLUR_PX = 16
PREDICT_BATCH = 32


def check_evidence(model: keras.Model, images: LabelledImages, seed: int) -> Faithfulness:
    """Check a network's evidence maps on validation images.

    Args:
        model: From ``trainer.model.heads.build_inference_model``.
        images: Validation images; up to 100 of those with pneumonia are used.
        seed: Seed of the random regions and the shuffled weights.
    """
    diseased = np.flatnonzero(images.labels)
    pixels = images.pixels[
        diseased[np.unique(np.linspace(0, len(diseased) - 1, MAX_IMAGES).astype(int))]
    ]
    rng = np.random.default_rng(seed)
    found = _predict(model, pixels)
    maps, logits = found["evidence"], found["logit"][:, 0]
    return Faithfulness(
        images=len(pixels),
        steps=list(DELETION_SHARES),
        deletion=_measure_logit_drops(model, pixels, logits, maps),
        random_deletion=_measure_logit_drops(model, pixels, logits, rng.random(maps.shape)),
        randomised_correlation=_mean_rank_correlation(
            maps, _predict(_shuffle_weights(model, rng), pixels)["evidence"]
        ),
    )


def _measure_logit_drops(
    model: keras.Model,
    pixels: NDArray[np.uint8],
    logits: NDArray[np.float64],
    maps: NDArray[np.float64],
) -> list[float]:
    """Measure the mean drop of the logit as the highest regions of ``maps`` are blurred."""
    blurred = np.stack([_blur(image) for image in pixels])
    order = np.argsort(np.argsort(-maps.reshape(len(maps), -1), axis=1), axis=1)
    rank = order.reshape(maps.shape) / order.shape[1]
    drops = []
    for share in DELETION_SHARES:
        covered = np.stack([_upsample_mask(mask, pixels.shape[1]) for mask in rank < share])
        changed = np.where(covered[..., None], blurred, pixels)
        drops.append(float(np.mean(logits - _predict(model, changed)["logit"][:, 0])))
    return drops


def _blur(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    blurred = Image.fromarray(image[:, :, 0]).filter(ImageFilter.GaussianBlur(BLUR_PX))
    return np.asarray(blurred)[..., None]


def _upsample_mask(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))


def _shuffle_weights(model: keras.Model, rng: np.random.Generator) -> keras.Model:
    """Copy the network and shuffle the learned weights within each array."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for weight in copy.trainable_weights:
        weight.assign(rng.permutation(np.asarray(weight).ravel()).reshape(weight.shape))
    return copy


def _mean_rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Compute the mean rank correlation between two maps of each image."""
    pairs = zip(first, second, strict=True)
    return float(np.mean([spearmanr(one.ravel(), two.ravel()).statistic for one, two in pairs]))


def _predict(model: keras.Model, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    found = model.predict(pixels, batch_size=PREDICT_BATCH, verbose=0)
    return {name: np.asarray(values, dtype=np.float64) for name, values in found.items()}
