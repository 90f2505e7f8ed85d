"""The inference network: a trained network with all outputs of a model file.

- ``logit`` (N, 1): pneumonia against normal, not calibrated;
- ``viral`` (N, 1): logit of viral against bacterial, for images with pneumonia;
- ``evidence`` (N, h, w): how strongly each region of the image supports pneumonia, in units of the
  logit; negative values speak against it;
- ``atypicality`` (N, 1): see ``trainer.model.ood``.

Evidence uses forward operations only, because gradients have no ONNX mapping. A head on a global
mean has an exact class activation map: the map's mean plus the head's bias is the logit. That map
means little if each position sees the whole image, as in the CNN. There, the map comes from an
earlier layer whose positions see a part of the image, multiplied by the gradient of the logit. For
dense layers, the map is the input times the gradient of the logit, summed over patches.

Source: Zhou et al. 2016 (class activation maps); Shrikumar et al. 2016 (gradient times input).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers, ops

from trainer.model.networks import SIZE_PX

if TYPE_CHECKING:
    from trainer.model.ood import OodDetector

_EXACT_CAM = "exact class activation map, times its weight in the logit"
EVIDENCE_METHODS = {
    "mlp": "input times gradient, summed over patches",
    "cnn": "activation times gradient, where each place sees a part of the film",
    "vgg16": _EXACT_CAM,
}
PATCH_SIDE = 4
"""Side of the patches over which the evidence of dense layers is summed."""


def build_inference_model(
    network: keras.Model, ood_detector: OodDetector | None, *, flip_tta: bool
) -> keras.Model:
    """Join all outputs of a model file into one network.

    Args:
        network: One of ``trainer.model.networks``, built without augmentation, with its
            weights.
        ood_detector: Fitted to the training images; None omits the output ``atypicality``.
        flip_tta: Average the logits of each image and its mirror image. The evidence is that of
            the original image: a second map would cost as much again.
    """
    with_evidence = add_evidence(network)
    pixels = keras.Input((SIZE_PX, SIZE_PX, 1), dtype="uint8", name="pixels")
    outputs = with_evidence(pixels)
    if flip_tta:
        mirrored = with_evidence(ops.flip(pixels, axis=2))
        outputs |= {name: (outputs[name] + mirrored[name]) / 2 for name in ("logit", "viral")}
    if ood_detector is not None:
        outputs["atypicality"] = ood_detector.build_atypicality(pixels)
    return keras.Model(pixels, outputs, name=network.name)


def add_evidence(network: keras.Model) -> keras.Model:
    """Add an evidence map to the outputs of a network."""
    kernel = network.get_layer("pneumonia").get_weights()[0]
    names = {layer.name for layer in network.layers}
    if "local" in names:
        evidence = _build_activation_times_gradient(network, kernel)
    elif "pooled" in names:
        evidence = _build_activation_map(network, kernel)
    else:
        evidence = _build_input_times_gradient(network, kernel)
    outputs = {
        "logit": network.output["pneumonia"],
        "viral": network.output["viral"],
        "evidence": evidence,
    }
    return keras.Model(network.input, outputs, name=f"{network.name}_explained")


def _build_activation_map(network: keras.Model, kernel: np.ndarray) -> Any:
    features = network.get_layer("pooled").input
    _, height, width, _ = features.shape
    return layers.Reshape((height, width), dtype="float32")(
        _make_fixed_dense(kernel, "activation_map")(features)
    )


def _build_activation_times_gradient(network: keras.Model, kernel: np.ndarray) -> Any:
    """Build the backward pass from the mean to the layer ``local``, as convolutions and masks.

    The result is multiplied by the number of positions. Its mean is then comparable with the logit,
    as in a class activation map.
    """
    chain = [layer.name for layer in network.layers]
    above = network.layers[chain.index("local") + 1 : chain.index("pooled")]
    blocks = list(zip(above[::3], above[1::3], above[2::3], strict=True))
    slopes = [_compute_norm_scale(norm) for _, norm, _ in blocks]
    slopes[-1] = slopes[-1] * kernel[:, 0]
    passed = ops.cast(above[-1].output > 0, "float32")
    for number in reversed(range(len(blocks))):
        gradient = _make_backward_convolution(blocks[number][0], slopes[number])(passed)
        below = blocks[number - 1][2].output > 0 if number else network.get_layer("local").output
        passed = gradient * ops.cast(below, "float32")
    return ops.sum(passed, axis=3)


def _compute_norm_scale(norm: keras.layers.BatchNormalization) -> np.ndarray:
    """Compute the factor by which a trained batch normalisation multiplies each channel."""
    spread = np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    slope: np.ndarray = np.asarray(norm.gamma) / spread
    return slope


def _make_backward_convolution(
    convolution: keras.layers.Conv2D, slope: np.ndarray
) -> keras.layers.Conv2D:
    """Make the convolution that propagates gradients back through one of stride 1 and same padding.

    Args:
        convolution: The forward convolution.
        slope: Shape (channels,): the factor applied to its output.
    """
    kernel = (np.asarray(convolution.kernel) * slope)[::-1, ::-1].transpose(0, 1, 3, 2)
    backward = layers.Conv2D(
        kernel.shape[3], kernel.shape[:2], padding="same", use_bias=False, trainable=False,
        name=f"backward_{convolution.name}", dtype="float32",
    )  # fmt: skip
    backward.build((None, None, None, kernel.shape[2]))
    backward.set_weights([kernel])
    return backward


def _build_input_times_gradient(network: keras.Model, kernel: np.ndarray) -> Any:
    """Build the backward pass of dense layers with ReLU, as matrix products and masks."""
    hidden = [layer for layer in network.layers if layer.name.startswith("hidden")]
    last = hidden[-1]
    gradient = ops.cast(last.output > 0, "float32") * kernel[:, 0]
    for number, layer in reversed(list(enumerate(hidden))):
        backward = layer.get_weights()[0].T
        gradient = _make_fixed_dense(backward, f"backward_{layer.name}")(gradient)
        if number:
            gradient = gradient * ops.cast(hidden[number - 1].output > 0, "float32")
    flat = network.get_layer("flat")
    height, width, views = flat.input.shape[1:]
    patches = (height // PATCH_SIDE, PATCH_SIDE, width // PATCH_SIDE, PATCH_SIDE, views)
    product = layers.Reshape(patches, dtype="float32")(gradient * flat.output)
    return ops.sum(product, axis=(2, 4, 5))


def _make_fixed_dense(weights: np.ndarray, name: str) -> Any:
    """Make a matrix product that is never trained."""
    product = layers.Dense(
        weights.shape[1], use_bias=False, trainable=False, name=name, dtype="float32"
    )
    product.build((None, weights.shape[0]))
    product.set_weights([weights])
    return product
