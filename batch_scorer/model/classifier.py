"""Classifier: a loaded model with its ONNX Runtime session, model card and passed self-test."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from batch_scorer.errors import (
    CardVersionUnsupported,
    ModelFileError,
    ProviderUnavailable,
    SelfTestFailed,
    UsageError,
)
from batch_scorer.model.amx import shift_zero_points
from batch_scorer.model.card import (
    CARD_KEY,
    SELF_TEST_RECIPE,
    decode_card,
    draw_self_test_images,
    output_shapes,
)
from batch_scorer.model.card_sections import ModelComparison
from batch_scorer.model.onnx_runtime import ort
from batch_scorer.model.session import (
    EXPORT_HINT,
    cancel_opening,
    make_session_options,
    open_session,
    run_session,
)
from batch_scorer.system.deadline import run_with_timeout
from batch_scorer.system.process import available_cores, has_amx
from batch_scorer.system.regular_file import read_regular_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from batch_scorer.model.card import ModelCard

BUNDLED_FOLDER = Path(__file__).parents[1] / "models"
MANIFEST_NAME = "manifest.json"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# By default, TF32 rounds a float32 model by more than its self-test allows; float16 files are the
# fast choice. All batches have one shape, so the arena grows only as needed.
_PROVIDER_OPTIONS = {"cuda": {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}}
SELF_TEST_TIMEOUT_S = {"cpu": 15.0, "cuda": 100.0}
"""Time limit of the self-test, per 64 images of a batch, with the start of CUDA. A self-test takes
about a second, but a malicious graph may never end."""
SESSION_OPEN_TIMEOUT_S = 5.0
"""Additional time to open a session, in which ONNX Runtime folds constants."""
MAX_MODEL_BYTES = 2_000_000_000
"""The limit of ONNX itself. Larger models keep weights in other files, which are not read."""
INFERENCE_TIMEOUT_S = 600.0
"""Time limit of one batch of any size on a slow machine."""
_FLOAT32_TENSOR = "tensor(float)"


class ModelEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model's entry in a manifest: its file, its origin, and metrics by split and name.

    ``card_sha256`` is the hash of NAME.md beside the model; empty in manifests of older versions.
    """

    precision: str
    sha256: str
    size_bytes: int
    commit: str
    command: str
    seed: int
    threshold: float
    metrics: dict[str, dict[str, float | None]]
    card_sha256: str = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of a folder of models, by name; the best on validation comes first.

    ``comparison`` covers all of them, if one export made them.
    """

    models: dict[str, ModelEntry]
    comparison: ModelComparison | None = None


@dataclass(frozen=True)
class Predictions:
    """A model's float32 outputs for N images; None for outputs that it does not have.

    ``probability`` (N,) is P(pneumonia). ``viral`` (N,) is P(viral | pneumonia). ``atypicality``
    (N,) grows with the difference from the training images. ``evidence`` is (N, height, width), in
    units of the logit.
    """

    probability: NDArray[np.float32]
    viral: NDArray[np.float32] | None = None
    atypicality: NDArray[np.float32] | None = None
    evidence: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Classifier:
    """A loaded model, safe for use by several threads. ``Classifier.load`` makes one."""

    card: ModelCard
    path: Path
    sha256: str
    provider: str
    session: Any
    batch_size: int | None = None
    timeout_s: float = INFERENCE_TIMEOUT_S
    """Time limit of one inference in seconds."""

    @classmethod
    def load(
        cls,
        model: str | Path,
        provider: str = "auto",
        threads: int | None = None,
        batch_size: int | None = None,
        sha256: str | None = None,
    ) -> Classifier:
        """Load a model file and run its self-test.

        Args:
            model: The name of a bundled model, or a path.
            provider: "cpu", "cuda", or "auto" for CUDA if it works, else the CPU.
            threads: Threads per inference; default: every core that this process may use.
            batch_size: Number of images per inference; smaller batches are padded with blanks.
                Memory stays flat, and an image's scores are bit-identical in any batch. Default:
                all images of a ``predict`` call at once.
            sha256: The expected SHA-256 of the file; default: any.

        Raises:
            UsageError: ``model`` is neither a bundled model nor a file.
            ModelFileError: The file or its card is not valid, or the self-test failed.
            ProviderUnavailable: The provider "cuda" cannot run here.
        """
        path = find_model_file(model)
        data = read_model_file(path)
        if sha256:
            _check_sha256(path, hashlib.sha256(data).hexdigest(), sha256)
        return cls._open(path, data, provider, threads, batch_size)

    @classmethod
    def _open(
        cls,
        path: Path,
        data: bytes,
        provider: str,
        threads: int | None,
        batch_size: int | None = None,
    ) -> Classifier:
        """Open a session on the content of a model file and run its self-test."""
        sha256 = hashlib.sha256(data).hexdigest()
        _check_bundled(path, sha256)
        providers = _choose_providers(provider)
        timeout_s = SELF_TEST_TIMEOUT_S[providers[0]] * max(1.0, (batch_size or 0) / 64)
        options = make_session_options(threads or available_cores())

        def open_and_test() -> Classifier:
            use_amx = providers == ["cpu"] and has_amx()
            provider_options = [
                (PROVIDERS[name], _PROVIDER_OPTIONS.get(name, {})) for name in providers
            ]
            session = open_session(
                shift_zero_points(data) if use_amx else data, str(path), options, provider_options
            )
            used = _active_provider(session, provider)
            card = _read_card(session, path)
            tested = cls(card, path, sha256, used, session, batch_size, timeout_s)
            tested.self_test()
            return replace(tested, timeout_s=INFERENCE_TIMEOUT_S)

        try:
            return run_with_timeout(
                timeout_s + SESSION_OPEN_TIMEOUT_S, open_and_test, partial(cancel_opening, options)
            )
        except TimeoutError as exc:
            limit_s = timeout_s + SESSION_OPEN_TIMEOUT_S
            raise ModelFileError(
                f"Expected {path} to load in {limit_s:g} seconds, found it not ready.", EXPORT_HINT
            ) from exc

    def predict(self, pixels: NDArray[np.uint8]) -> Predictions:
        """Compute all outputs of the model for decoded images.

        Args:
            pixels: Shape (N, S, S, 1) uint8 from ``decode_radiograph``; N at least 1.

        Raises:
            ModelFileError: The session failed or exceeded ``timeout_s``.
        """
        size = self.batch_size or len(pixels)
        parts = [
            self._predict_batch(pixels[start : start + size])
            for start in range(0, len(pixels), size)
        ]
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Predictions(**outputs)

    def _predict_batch(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Run one inference, padded with blank images whose outputs are dropped."""
        images, batch_size = len(pixels), self.batch_size or len(pixels)
        if images < batch_size:
            blank = np.zeros((batch_size - images, *pixels.shape[1:]), np.uint8)
            pixels = np.concatenate([pixels, blank])
        shapes = output_shapes(self.card, len(pixels))
        device = "cuda" if self.provider == "cuda" else "cpu"
        outputs = run_session(self.session, pixels, shapes, device, self.timeout_s, str(self.path))
        return {name: part[:images] for name, part in outputs.items()}

    def self_test(self) -> float:
        """Compare the probabilities of the card's fixed inputs with the expected ones.

        Returns:
            The largest difference in probability.

        Raises:
            CardVersionUnsupported: The card has no self-test, or one of an unknown recipe.
            SelfTestFailed: The difference exceeds the card's tolerance.
        """
        test = self.card.self_test
        if test is None or test.recipe != SELF_TEST_RECIPE:
            raise CardVersionUnsupported(f"{self.path} has no self-test that this release can run.")
        found = self.predict(draw_self_test_images(self.card.size_px)).probability
        worst = float(np.abs(found - np.asarray(test.probabilities)).max())
        if not worst <= test.tolerance:
            raise SelfTestFailed(
                f"Expected a self-test of {self.path} with a difference of at most "
                f"{test.tolerance}, found {worst:.4f}.",
                "The file or ONNX Runtime is damaged. Install it again, or use --provider cpu.",
            )
        return worst


def list_bundled_models() -> list[str]:
    """List the names of the bundled models in the order of the manifest."""
    return list(read_bundled_manifest().models)


def expand_model_names(models: Iterable[str]) -> tuple[str, ...]:
    """Replace "all" by the names of the bundled models, and remove duplicates."""
    names = [
        name for model in models for name in (list_bundled_models() if model == "all" else [model])
    ]
    return tuple(dict.fromkeys(names))


def read_bundled_manifest() -> Manifest:
    """Read the manifest of the bundled models."""
    return msgspec.json.decode((BUNDLED_FOLDER / MANIFEST_NAME).read_bytes(), type=Manifest)


def find_model_file(model: str | Path) -> Path:
    """Return the path of a bundled model, or the given path if it is a file.

    Raises:
        UsageError: ``model`` is neither a bundled model nor a file.
    """
    if isinstance(model, str) and model in list_bundled_models():
        return BUNDLED_FOLDER / f"{model}.onnx"
    if not os.path.isfile(model):  # noqa: PTH113 - Path.is_file raises where a name is too long
        raise UsageError(
            f"Expected a model file or one of {', '.join(list_bundled_models())}, found {model}.",
            "See `cxr models`.",
        )
    return Path(model)


def read_model_file(path: Path) -> bytes:
    """Read a model file.

    Raises:
        ModelFileError: The file cannot be read, is not a regular file, or is too large.
    """
    try:
        return read_regular_file(path, MAX_MODEL_BYTES)
    except OSError as exc:
        raise ModelFileError(
            f"The model {path} cannot be read: {exc.strerror}.",
            "Give an ONNX file that `cxr export` made, or a name that `cxr models` lists.",
        ) from exc


def hash_model_file(path: Path) -> str:
    """Compute the SHA-256 of a model file.

    Raises:
        ModelFileError: The file cannot be read.
    """
    return hashlib.sha256(read_model_file(path)).hexdigest()


def load_if_unchanged(
    model: str | Path, provider: str, threads: int | None, sha256: str
) -> Classifier | None:
    """Load a model if its file is the one that a run used.

    Returns:
        The model; None if its file was deleted or replaced.

    Raises:
        ModelFileError: The file is the same but cannot be used.
        ProviderUnavailable: The provider "cuda" cannot run here.
    """
    try:
        path = find_model_file(model)
        data = read_model_file(path)
    except (UsageError, ModelFileError):  # the file is gone or cannot be read
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    return Classifier._open(path, data, provider, threads)  # noqa: SLF001 - same module


def list_providers() -> list[str]:
    """List the short names of the providers in this build of ONNX Runtime."""
    built = ort.get_available_providers()
    return [name for name, full in PROVIDERS.items() if full in built]


def _check_sha256(path: Path, found: str, expected: str) -> None:
    """Refuse a file other than the one that the run recorded."""
    if found != expected:
        raise ModelFileError(
            f"Expected {path} with sha256 {expected[:12]} on {platform.node()}, found "
            f"{found[:12]}. It was replaced meanwhile, or differs between machines.",
            "Run the same command again. On several machines, install the same version of "
            "cxr-batch, or keep the file in a shared folder.",
        )


def _check_bundled(path: Path, sha256: str) -> None:
    if path.parent != BUNDLED_FOLDER:
        return
    expected = read_bundled_manifest().models[path.stem].sha256
    if sha256 != expected:
        raise ModelFileError(
            f"The bundled model {path.name} is damaged: expected sha256 {expected[:12]}, "
            f"found {sha256[:12]}.",
            "Install cxr-batch again.",
        )


def _choose_providers(provider: str) -> list[str]:
    """Return the short names of the providers to try, the preferred one first.

    Raises:
        ProviderUnavailable: CUDA was requested, but this ONNX Runtime does not include it.
    """
    available = list_providers()
    if provider == "cuda" and "cuda" not in available:
        raise ProviderUnavailable(
            "Expected the CUDA provider, found an ONNX Runtime without it.",
            'Install it with: pip install "cxr-batch[gpu]", or use --provider cpu.',
        )
    return ["cuda", "cpu"] if provider != "cpu" and "cuda" in available else ["cpu"]


def _active_provider(session: Any, asked: str) -> str:
    """Return the short name of the provider that a session uses.

    Raises:
        ProviderUnavailable: CUDA was requested, but the session uses another provider.
    """
    used = session.get_providers()[0]
    if asked == "cuda" and used != PROVIDERS["cuda"]:
        raise ProviderUnavailable(
            "Expected the CUDA provider, but it did not start on this machine.",
            "Run `cxr doctor` to see what is missing, or use --provider cpu.",
        )
    return next(name for name, full in PROVIDERS.items() if full == used)


def _read_card(session: Any, path: Path) -> ModelCard:
    """Read the card of an open model and check that its outputs match the card.

    Raises:
        ModelFileError: The card is missing or broken, or the outputs differ from it.
    """
    try:
        text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        found = {output.name: (output.type, output.shape) for output in session.get_outputs()}
    except UnicodeDecodeError as exc:
        raise ModelFileError(
            f"Expected UTF-8 in the names and metadata of {path}, found other bytes.", EXPORT_HINT
        ) from exc
    card = decode_card(text, str(path))
    promised = output_shapes(card, 1)
    if missing := sorted(promised.keys() - found):
        raise ModelFileError(
            f"Expected the outputs {sorted(promised)} of its card in {path}, found no {missing}.",
            EXPORT_HINT,
        )
    for name, shape in promised.items():
        kind, dimensions = found[name]
        # ONNX Runtime may not know the dimensions; the self-test checks them.
        if kind != _FLOAT32_TENSOR or (
            dimensions and not _is_compatible(dimensions[1:], shape[1:])
        ):
            raise ModelFileError(
                f"Expected the output {name} of {path} as {_FLOAT32_TENSOR} with the shape "
                f"{['N', *shape[1:]]}, found {kind} with {dimensions}.",
                EXPORT_HINT,
            )
    return card


def _is_compatible(dimensions: list[int | str | None], shape: tuple[int, ...]) -> bool:
    """Return whether dimensions, of which only numbers are fixed, match a shape."""
    return len(dimensions) == len(shape) and all(
        found == size or not isinstance(found, int)
        for found, size in zip(dimensions, shape, strict=True)
    )
