"""The network that is kept: a trained one, with everything that a model file has to answer.

- ``logit`` (N, 1): pneumonia against normal, not calibrated;
- ``viral`` (N, 1): viral against bacterial, a logit, for films with pneumonia;
- ``evidence`` (N, h, w): how much each place of the film speaks for pneumonia, in units of the
  logit; negative where it speaks against;
- ``atypicality`` (N, 1): see ``trainer.typicality``.

Evidence is written in forward operations only, because gradients have no ONNX mapping. Where the
head looks at a mean over places, the class activation map is exact: its mean plus the head's bias
is the logit. For dense layers it is the input times the gradient of the logit, summed over patches.

Source: Zhou et al. 2016 (class activation maps); Shrikumar et al. 2016 (gradient times input).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import layers, ops

from trainer.models import SIZE_PX

if TYPE_CHECKING:
    import numpy as np

    from trainer.typicality import Typical

_EXACT = "exact class activation map, times its weight in the logit"
EVIDENCE_METHODS = {
    "mlp": "input times gradient, summed over patches",
    "cnn": _EXACT,
    "vgg16": _EXACT,
}
PATCH = 4
"""Side of the patches over which the evidence of dense layers is summed."""


def answer(network: keras.Model, typical: Typical | None, *, both_ways: bool) -> keras.Model:
    """Join all that a model file answers into one network.

    Args:
        network: One of ``trainer.models``, built without augmentation, with its weights.
        typical: What training films look like; left out for networks that are only compared.
        both_ways: Judge every film as it is and mirrored, and give the mean of both answers.
    """
    explained = explain(network)
    pixels = keras.Input((SIZE_PX, SIZE_PX, 1), dtype="uint8", name="pixels")
    found = explained(pixels)
    if both_ways:
        mirrored = explained(ops.flip(pixels, axis=2))
        mirrored["evidence"] = ops.flip(mirrored["evidence"], axis=2)
        found = {name: (found[name] + mirrored[name]) / 2 for name in found}
    if typical is not None:
        found["atypicality"] = typical.judge(pixels)
    return keras.Model(pixels, found, name=network.name)


def explain(network: keras.Model) -> keras.Model:
    """A network that also says where its evidence lies."""
    kernel = network.get_layer("pneumonia").get_weights()[0]
    names = {layer.name for layer in network.layers}
    evidence = (
        _activation_map(network, kernel)
        if "pooled" in names
        else _input_times_gradient(network, kernel)
    )
    outputs = {
        "logit": network.output["pneumonia"],
        "viral": network.output["viral"],
        "evidence": evidence,
    }
    return keras.Model(network.input, outputs, name=f"{network.name}_explained")


def _activation_map(network: keras.Model, kernel: np.ndarray) -> Any:
    features = network.get_layer("pooled").input
    _, height, width, _ = features.shape
    return layers.Reshape((height, width), dtype="float32")(
        _fixed(kernel, "activation_map")(features)
    )


def _input_times_gradient(network: keras.Model, kernel: np.ndarray) -> Any:
    """The backward pass of dense layers with ReLU, as matrix products and masks."""
    hidden = [layer for layer in network.layers if layer.name.startswith("hidden")]
    last = hidden[-1]
    gradient = ops.cast(last.output > 0, "float32") * kernel[:, 0]
    for number, layer in reversed(list(enumerate(hidden))):
        backward = layer.get_weights()[0].T
        gradient = _fixed(backward, f"backward_{layer.name}")(gradient)
        if number:
            gradient = gradient * ops.cast(hidden[number - 1].output > 0, "float32")
    flat = network.get_layer("flat")
    height, width, views = flat.input.shape[1:]
    patches = (height // PATCH, PATCH, width // PATCH, PATCH, views)
    product = layers.Reshape(patches, dtype="float32")(gradient * flat.output)
    return ops.sum(product, axis=(2, 4, 5))


def _fixed(weights: np.ndarray, name: str) -> Any:
    """A matrix product that never learns."""
    product = layers.Dense(
        weights.shape[1], use_bias=False, trainable=False, name=name, dtype="float32"
    )
    product.build((None, weights.shape[0]))
    product.set_weights([weights])
    return product
