"""The three networks, each written out from input to output.

Every network takes ``pixels`` uint8 (N, 224, 224, 1) and has two outputs, each a logit (N, 1):
``pneumonia`` (against normal), and ``viral`` (against bacterial), which learns from images with
pneumonia only. Downsampling and normalisation are layers of the network, so the scorer needs no
code per model. Augmentation is built in for training and left out of the saved network.

The names of some layers tell ``trainer.model.heads`` how to build evidence. ``pooled`` is a mean
over positions, which gives a map directly. ``hidden`` marks dense layers, which need a backward
pass. If the positions of that mean see the whole image, ``local`` marks the last layer whose
positions do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers, ops
from PIL import Image

from batch_scorer.imaging.decode import RESIZE_FILTER
from trainer.model.augmentation import RandomAffine, RandomHistogramMatching, RandomIntensity

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE_PX = 224
MIN_VARIANCE = 0.003
"""Lower limit of the local variance, for a range of 1, so that noise in flat areas stays small."""


def build_mlp(
    seed: int,
    *,
    pretrained: bool = False,  # noqa: ARG001 - one signature
    augment: float = 1.0,
) -> keras.Model:
    """Build the multilayer perceptron 32-32-64-128 on images of 64 by 64."""
    pixels, x = _make_input(
        64, seed, augment, turn=0.1, shift=0.05, zoom=0.1, match_histograms=False
    )
    x = _stack_normalized_views(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dropout(0.1, seed=seed)(x)
    for number, units in enumerate((32, 32, 64, 128), start=1):
        x = layers.Dense(
            units, activation="relu", kernel_initializer="he_normal", name=f"hidden{number}"
        )(x)
    x = layers.Dropout(0.3, seed=seed)(x)
    return keras.Model(pixels, _make_heads(x), name="mlp")


def build_cnn(
    seed: int,
    *,
    pretrained: bool = False,  # noqa: ARG001 - one signature
    augment: float = 1.0,
) -> keras.Model:
    """Build a small convolutional network with batch normalisation, on images of 96 by 96.

    Each of its last positions sees the whole image. A mean over positions that see less is a
    texture statistic, and misleads where texture does (docs/experiments.md). The evidence map comes
    from the layer ``local``, whose positions still see a part.
    """
    pixels, x = _make_input(96, seed, augment)
    x = _stack_normalized_views(x)
    x = _conv_block(x, 32, "conv1", stride=2)
    x = _conv_block(x, 64, "conv2")
    x = layers.MaxPooling2D()(x)
    x = _conv_block(x, 128, "conv3")
    x = layers.MaxPooling2D()(x)
    x = _conv_block(x, 128, "conv4")
    x = layers.MaxPooling2D(name="local")(x)
    x = _conv_block(x, 256, "conv5")
    x = _conv_block(x, 256, "conv6")
    return keras.Model(pixels, _make_heads(_pool_globally(x, seed)), name="cnn")


def build_vgg16(seed: int, *, pretrained: bool = False, augment: float = 1.0) -> keras.Model:
    """Build VGG16 (Simonyan and Zisserman 2015) with a pooled head, on images of 96 by 96.

    Args:
        seed: Seed of initial weights, augmentation and dropout.
        pretrained: Build the thirteen convolutions as published, so that
            ``trainer.model.pretrained`` can load them; the three views replace the three
            colours. Otherwise a batch normalisation follows each convolution, without which the
            network hardly learns.
        augment: Strength of the augmentation; 0 builds the network without it.
    """
    pixels, x = _make_input(96, seed, augment)
    x = _stack_normalized_views(x)
    convolution = _conv_relu if pretrained else _conv_block
    x = convolution(x, 64, "block1_conv1")
    x = convolution(x, 64, "block1_conv2")
    x = layers.MaxPooling2D(name="block1_pool")(x)
    x = convolution(x, 128, "block2_conv1")
    x = convolution(x, 128, "block2_conv2")
    x = layers.MaxPooling2D(name="block2_pool")(x)
    x = convolution(x, 256, "block3_conv1")
    x = convolution(x, 256, "block3_conv2")
    x = convolution(x, 256, "block3_conv3")
    x = layers.MaxPooling2D(name="block3_pool")(x)
    x = convolution(x, 512, "block4_conv1")
    x = convolution(x, 512, "block4_conv2")
    x = convolution(x, 512, "block4_conv3")
    x = layers.MaxPooling2D(name="block4_pool")(x)
    x = convolution(x, 512, "block5_conv1")
    x = convolution(x, 512, "block5_conv2")
    x = convolution(x, 512, "block5_conv3")
    return keras.Model(pixels, _make_heads(_pool_globally(x, seed)), name="vgg16")


BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "mlp": build_mlp,
    "cnn": build_cnn,
    "vgg16": build_vgg16,
}


def _make_input(  # noqa: PLR0913 - the settings that networks override
    size_px: int,
    seed: int,
    augment: float,
    *,
    turn: float = 0.2,
    shift: float = 0.1,
    zoom: float = 0.22,
    match_histograms: bool = True,
) -> tuple[Any, Any]:
    """Make the input and its downsampled version in 0..1, augmented if ``augment`` is above 0."""
    pixels = keras.Input((SIZE_PX, SIZE_PX, 1), dtype="uint8", name="pixels")
    x = layers.Rescaling(1 / 255, dtype="float32")(pixels)
    x = downsample(x, size_px)
    if augment:
        x = RandomAffine(seed, turn=turn * augment, shift=shift * augment, zoom=zoom * augment)(x)
        x = RandomHistogramMatching(seed + 2)(x) if match_histograms else x
        x = RandomIntensity(
            seed + 1,
            gamma=0.5 * augment,
            contrast=0.4 * augment,
            brightness=0.2 * augment,
            blur=min(1.0, 0.8 * augment),
            noise=0.04 * augment,
        )(x)
    return pixels, x


def _stack_normalized_views(x: Any) -> Any:
    """Stack the image and two versions without local brightness and contrast, on two scales.

    Brightness and contrast differ between machines; shapes do not.
    """
    side = x.shape[1]
    views = [layers.Rescaling(2.0, offset=-1.0, dtype="float32")(x)]
    for part in (4, 8):
        window = side // part | 1
        distance = x - _local_mean(x, window, f"mean{part}")
        spread = _local_mean(distance * distance, window, f"spread{part}")
        views.append(distance / ops.sqrt(spread + MIN_VARIANCE))
    return layers.Concatenate(dtype="float32")(views)


def _local_mean(x: Any, window: int, name: str) -> Any:
    """Compute the mean of a square window around each position, cropped at the edge.

    Uses matrix products: pooling over windows this large took as long as all convolutions.
    """
    positions = np.arange(x.shape[1])
    near = np.abs(positions[:, None] - positions) <= window // 2
    mean = near / near.sum(axis=1, keepdims=True)
    return ops.expand_dims(_filter_both_axes(x[..., 0], mean.T.astype(np.float32), name), -1)


def downsample(x: Any, size_px: int, name: str = "shrink") -> Any:
    """Downsample square images with the decoder's antialiased filter.

    Resizing an identity matrix with Pillow gives the filter's weights.
    """
    identity = Image.fromarray(np.eye(SIZE_PX, dtype=np.float32))
    filter_weights = np.asarray(identity.resize((SIZE_PX, size_px), RESIZE_FILTER)).T
    x = layers.Reshape((SIZE_PX, SIZE_PX), dtype="float32")(x)
    x = _filter_both_axes(x, filter_weights, name)
    return layers.Reshape((size_px, size_px, 1), dtype="float32")(x)


def _filter_both_axes(x: Any, weights: np.ndarray, name: str) -> Any:
    """Filter images (N, S, S) by a fixed matrix (S, T) along columns, then rows: (N, T, T).

    Uses two fixed matrix products, so that every backend and ONNX compute the same.
    """
    for axis in ("columns", "rows"):
        product = layers.Dense(
            weights.shape[1], use_bias=False, trainable=False, name=f"{name}_{axis}",
            dtype="float32",
        )  # fmt: skip
        x = product(x)
        product.set_weights([weights])
        x = layers.Permute((2, 1), dtype="float32")(x)
    return x


def _conv_block(x: Any, filters: int, name: str, stride: int = 1) -> Any:
    x = layers.Conv2D(
        filters,
        3,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    x = layers.BatchNormalization(momentum=0.95, name=f"{name}_norm")(x)
    return layers.ReLU()(x)


def _conv_relu(x: Any, filters: int, name: str) -> Any:
    return layers.Conv2D(
        filters, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=name
    )(x)


def _pool_globally(x: Any, seed: int) -> Any:
    x = layers.GlobalAveragePooling2D(name="pooled", dtype="float32")(x)
    return layers.Dropout(0.3, seed=seed)(x)


def _make_heads(x: Any) -> dict[str, Any]:
    return {
        question: layers.Dense(1, dtype="float32", name=question)(x)
        for question in ("pneumonia", "viral")
    }
