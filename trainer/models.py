"""The three networks, each spelled out straight down the page.

Every network takes ``pixels`` uint8 (N, 224, 224, 1) and gives a ``logit`` (N, 1); calibration and
the sigmoid are added on export. Shrinking, augmentation and normalisation are layers of the
network, so that the scorer needs no code per model. Augmentation layers act in training only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers
from PIL import Image

from batch_scorer.decoding import FILTER
from batch_scorer.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE_PX = 224
# Published by Keras for vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 (MD5).
IMAGENET_MD5 = "6d6bbae143d832006294945121d1f1fc"


def build_mlp(seed: int, *, pretrained: bool = False) -> keras.Model:  # noqa: ARG001 - one signature
    """The seed's multilayer perceptron, 32-32-64-128, on a film of 64 by 64."""
    pixels, x = _entrance(64, seed, shift=0.05, turn=0.015, zoom=0.1)
    x = layers.Flatten()(x)
    x = layers.Dropout(0.1, seed=seed)(x)
    x = layers.Dense(32, activation="relu", kernel_initializer="he_normal")(x)
    x = layers.Dense(32, activation="relu", kernel_initializer="he_normal")(x)
    x = layers.Dense(64, activation="relu", kernel_initializer="he_normal")(x)
    x = layers.Dense(128, activation="relu", kernel_initializer="he_normal")(x)
    x = layers.Dropout(0.3, seed=seed)(x)
    return keras.Model(pixels, _logit(x), name="mlp")


def build_cnn(seed: int, *, pretrained: bool = False) -> keras.Model:  # noqa: ARG001 - one signature
    """A small convolutional network with batch normalisation, on a film of 160 by 160."""
    pixels, x = _entrance(160, seed)
    x = _convolution(x, 32, stride=2)
    x = _convolution(x, 64)
    x = layers.MaxPooling2D()(x)
    x = _convolution(x, 128)
    x = layers.MaxPooling2D()(x)
    x = _convolution(x, 128)
    x = layers.MaxPooling2D()(x)
    x = _convolution(x, 256)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.3, seed=seed)(x)
    return keras.Model(pixels, _logit(x), name="cnn")


def build_vgg16(seed: int, *, pretrained: bool = False) -> keras.Model:
    """VGG16 (Simonyan and Zisserman 2015) with a pooled classification head, on 96 by 96.

    Args:
        seed: Of initial weights, augmentation and dropout.
        pretrained: Scale the input as the published weights expect it; they are loaded apart, by
            ``load_vgg16_convolutions``.
    """
    pixels, x = _entrance(96, seed)
    x = layers.Concatenate()([x, x, x])
    if pretrained:  # ImageNet's range and channel means
        x = layers.Rescaling(127.5, offset=[23.561, 10.721, 3.82])(x)
    x = _same(x, 64, "block1_conv1")
    x = _same(x, 64, "block1_conv2")
    x = layers.MaxPooling2D(name="block1_pool")(x)
    x = _same(x, 128, "block2_conv1")
    x = _same(x, 128, "block2_conv2")
    x = layers.MaxPooling2D(name="block2_pool")(x)
    x = _same(x, 256, "block3_conv1")
    x = _same(x, 256, "block3_conv2")
    x = _same(x, 256, "block3_conv3")
    x = layers.MaxPooling2D(name="block3_pool")(x)
    x = _same(x, 512, "block4_conv1")
    x = _same(x, 512, "block4_conv2")
    x = _same(x, 512, "block4_conv3")
    x = layers.MaxPooling2D(name="block4_pool")(x)
    x = _same(x, 512, "block5_conv1")
    x = _same(x, 512, "block5_conv2")
    x = _same(x, 512, "block5_conv3")
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.3, seed=seed)(x)
    return keras.Model(pixels, _logit(x), name="vgg16")


BUILDERS: dict[str, Callable[..., keras.Model]] = {
    "mlp": build_mlp,
    "cnn": build_cnn,
    "vgg16": build_vgg16,
}


def read_both_ways(network: keras.Model) -> keras.Model:
    """A network that judges every film as it is and mirrored, and gives the mean of both logits."""
    pixels = keras.Input((SIZE_PX, SIZE_PX, 1), dtype="uint8", name="pixels")
    logits = [network(pixels), network(keras.ops.flip(pixels, axis=2))]
    return keras.Model(pixels, layers.Average(dtype="float32")(logits), name=network.name)


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
    size_px: int, seed: int, *, shift: float = 0.08, turn: float = 0.03, zoom: float = 0.15
) -> tuple[Any, Any]:
    """Pixels in; shrunk, augmented (in training) and normalised to -1..1, out.

    What a shift or turn uncovers is filled from the film's edge: black borders would tell the
    network that it is in training, and on whole films every logit would come out too low.
    """
    pixels = keras.Input((SIZE_PX, SIZE_PX, 1), dtype="uint8", name="pixels")
    x = layers.Rescaling(1 / 255, dtype="float32")(pixels)
    x = _shrink(x, size_px)
    for augment in (
        layers.RandomFlip("horizontal", seed=seed, dtype="float32"),
        layers.RandomRotation(turn, fill_mode="nearest", seed=seed + 1, dtype="float32"),
        layers.RandomTranslation(shift, shift, fill_mode="nearest", seed=seed + 2, dtype="float32"),
        layers.RandomZoom(zoom, zoom, fill_mode="nearest", seed=seed + 3, dtype="float32"),
        layers.RandomBrightness(0.2, value_range=(0, 1), seed=seed + 4, dtype="float32"),
        layers.RandomContrast(0.3, value_range=(0, 1), seed=seed + 5, dtype="float32"),
    ):
        x = augment(x)
    return pixels, layers.Rescaling(2.0, offset=-1.0, dtype="float32")(x)


def _shrink(x: Any, size_px: int) -> Any:
    """Shrink square images with the decoder's own antialiased filter.

    Two fixed matrix products, so that every backend and ONNX compute the same. Shrinking the
    identity matrix by Pillow gives the filter's weights.
    """
    identity = Image.fromarray(np.eye(SIZE_PX, dtype=np.float32))
    filter_weights = np.asarray(identity.resize((SIZE_PX, size_px), FILTER)).T
    x = layers.Reshape((SIZE_PX, SIZE_PX), dtype="float32")(x)
    for axis in ("columns", "rows"):
        product = layers.Dense(
            size_px, use_bias=False, trainable=False, name=f"shrink_{axis}", dtype="float32"
        )
        x = product(x)
        product.set_weights([filter_weights])
        x = layers.Permute((2, 1), dtype="float32")(x)
    return layers.Reshape((size_px, size_px, 1), dtype="float32")(x)


def _convolution(x: Any, filters: int, stride: int = 1) -> Any:
    x = layers.Conv2D(
        filters, 3, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal"
    )(x)
    x = layers.BatchNormalization(momentum=0.95)(x)
    return layers.ReLU()(x)


def _same(x: Any, filters: int, name: str) -> Any:
    return layers.Conv2D(
        filters, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=name
    )(x)


def _logit(x: Any) -> Any:
    return layers.Dense(1, dtype="float32", name="logit")(x)
