"""The three networks, each spelled out straight down the page.

Every network takes ``pixels`` uint8 (N, 224, 224, 1) and answers two questions, each with a logit
(N, 1): ``pneumonia`` (or normal), and ``viral`` (or bacterial), which only films with pneumonia
teach. Shrinking and normalisation are layers of the network, so that the scorer needs no code per
model; augmentation is built in for training and left out of the network that is kept.

Each network names the layer that its heads look at ``pooled`` (a mean over places, so that evidence
for every place can be read off) or ``hidden`` (dense layers, where it has to be worked out).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers, ops
from PIL import Image

from batch_scorer.decoding import FILTER
from batch_scorer.errors import DatasetError
from trainer.augmentation import RandomTone, RandomView

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE_PX = 224
LEAST_VARIANCE = 0.003
"""Of 1: below it a place is flat, and its noise is not blown up."""
# Published by Keras for vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 (MD5).
IMAGENET_MD5 = "6d6bbae143d832006294945121d1f1fc"


def build_mlp(
    seed: int,
    *,
    pretrained: bool = False,  # noqa: ARG001 - one signature
    augment: float = 1.0,
) -> keras.Model:
    """The seed's multilayer perceptron, 32-32-64-128, on a film of 64 by 64."""
    pixels, x = _entrance(64, seed, augment, turn=0.1, shift=0.05, zoom=0.1)
    x = _three_views(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dropout(0.1, seed=seed)(x)
    for number, units in enumerate((32, 32, 64, 128), start=1):
        x = layers.Dense(
            units, activation="relu", kernel_initializer="he_normal", name=f"hidden{number}"
        )(x)
    x = layers.Dropout(0.3, seed=seed)(x)
    return keras.Model(pixels, _heads(x), name="mlp")


def build_cnn(
    seed: int,
    *,
    pretrained: bool = False,  # noqa: ARG001 - one signature
    augment: float = 1.0,
) -> keras.Model:
    """A small convolutional network with batch normalisation, on a film of 96 by 96."""
    pixels, x = _entrance(96, seed, augment)
    x = _three_views(x)
    x = _convolution(x, 32, "conv1", stride=2)
    x = _convolution(x, 64, "conv2")
    x = layers.MaxPooling2D()(x)
    x = _convolution(x, 128, "conv3")
    x = layers.MaxPooling2D()(x)
    x = _convolution(x, 128, "conv4")
    x = _convolution(x, 256, "conv5")
    return keras.Model(pixels, _heads(_pool(x, seed)), name="cnn")


def build_vgg16(seed: int, *, pretrained: bool = False, augment: float = 1.0) -> keras.Model:
    """VGG16 (Simonyan and Zisserman 2015) with a pooled classification head, on 80 by 80.

    Args:
        seed: Of initial weights, augmentation and dropout.
        pretrained: Scale the input as the published weights expect it; they are loaded apart, by
            ``load_vgg16_convolutions``. A network from scratch has batch normalisation after each
            convolution, without which the thirteen of them hardly learn.
        augment: Build for training, with this much of the usual augmentation; 0 builds the
            network that is kept.
    """
    pixels, x = _entrance(80, seed, augment)
    if pretrained:  # ImageNet's range and channel means
        x = layers.Concatenate(dtype="float32")([x, x, x])
        x = layers.Rescaling(255.0, offset=[-103.939, -116.779, -123.68], dtype="float32")(x)
    else:
        x = _three_views(x)
    convolution = _same if pretrained else _convolution
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
    return keras.Model(pixels, _heads(_pool(x, seed)), name="vgg16")


BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "mlp": build_mlp,
    "cnn": build_cnn,
    "vgg16": build_vgg16,
}


def load_vgg16_convolutions(
    model: keras.Model, weights: str, expected_md5: str = IMAGENET_MD5
) -> None:
    """Copy the published VGG16 convolutions into ``model``, layer by layer, by name.

    Args:
        model: From ``build_vgg16``.
        weights: "imagenet" for Keras's own download, or the path of that file.
        expected_md5: What the file's MD5 must be.

    Raises:
        DatasetError: The weights cannot be had, or the file is another one.
    """
    if weights != "imagenet":
        check_weights_file(Path(weights), expected_md5)
    try:
        published = keras.applications.VGG16(include_top=False, weights=weights)
    except (OSError, ValueError) as exc:
        first_line = str(exc).splitlines()[0]
        raise DatasetError(
            f"The VGG16 weights cannot be loaded: {first_line}",
            "Give the file with --vgg16-weights FILE, or train from scratch with "
            "--vgg16-weights none.",
        ) from exc
    for layer in published.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())


def check_weights_file(path: Path, expected_md5: str) -> None:
    """Refuse a weights file that is missing or is not the published one."""
    if not path.is_file():
        raise DatasetError(f"The VGG16 weights file {path} is not there.")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected_md5:
        raise DatasetError(
            f"Expected VGG16 weights with MD5 {expected_md5}, found {found} in {path}.",
            "Use Keras's vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5.",
        )


def _entrance(
    size_px: int,
    seed: int,
    strength: float,
    *,
    turn: float = 0.2,
    shift: float = 0.1,
    zoom: float = 0.22,
) -> tuple[Any, Any]:
    """Pixels in; shrunk, and augmented where there is a strength, in 0..1, out."""
    pixels = keras.Input((SIZE_PX, SIZE_PX, 1), dtype="uint8", name="pixels")
    x = layers.Rescaling(1 / 255, dtype="float32")(pixels)
    x = shrink(x, size_px)
    if strength:
        x = RandomView(seed, turn=turn * strength, shift=shift * strength, zoom=zoom * strength)(x)
        x = RandomTone(
            seed + 1,
            gamma=0.5 * strength,
            contrast=0.4 * strength,
            brightness=0.2 * strength,
            blur=min(1.0, 0.8 * strength),
            noise=0.04 * strength,
        )(x)
    return pixels, x


def _three_views(x: Any) -> Any:
    """The film as it is, and with its local brightness and contrast taken out on two scales.

    What one machine makes brighter or flatter, another does not; the shapes stay.
    """
    side = x.shape[1]
    views = [layers.Rescaling(2.0, offset=-1.0, dtype="float32")(x)]
    for part in (4, 8):
        distance = x - _mean_around(x, side // part | 1)
        spread = ops.sqrt(_mean_around(distance * distance, side // part | 1) + LEAST_VARIANCE)
        views.append(distance / spread)
    return layers.Concatenate(dtype="float32")(views)


def _mean_around(x: Any, window: int) -> Any:
    """The mean of a square around each place: over columns, then over rows."""
    x = ops.average_pool(x, (1, window), strides=1, padding="same")
    return ops.average_pool(x, (window, 1), strides=1, padding="same")


def shrink(x: Any, size_px: int, name: str = "shrink") -> Any:
    """Shrink square images with the decoder's own antialiased filter.

    Two fixed matrix products, so that every backend and ONNX compute the same. Shrinking the
    identity matrix by Pillow gives the filter's weights.
    """
    identity = Image.fromarray(np.eye(SIZE_PX, dtype=np.float32))
    filter_weights = np.asarray(identity.resize((SIZE_PX, size_px), FILTER)).T
    x = layers.Reshape((SIZE_PX, SIZE_PX), dtype="float32")(x)
    for axis in ("columns", "rows"):
        product = layers.Dense(
            size_px, use_bias=False, trainable=False, name=f"{name}_{axis}", dtype="float32"
        )
        x = product(x)
        product.set_weights([filter_weights])
        x = layers.Permute((2, 1), dtype="float32")(x)
    return layers.Reshape((size_px, size_px, 1), dtype="float32")(x)


def _convolution(x: Any, filters: int, name: str, stride: int = 1) -> Any:
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


def _same(x: Any, filters: int, name: str) -> Any:
    return layers.Conv2D(
        filters, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=name
    )(x)


def _pool(x: Any, seed: int) -> Any:
    x = layers.GlobalAveragePooling2D(name="pooled", dtype="float32")(x)
    return layers.Dropout(0.3, seed=seed)(x)


def _heads(x: Any) -> dict[str, Any]:
    return {
        question: layers.Dense(1, dtype="float32", name=question)(x)
        for question in ("pneumonia", "viral")
    }
