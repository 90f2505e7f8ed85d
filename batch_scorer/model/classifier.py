"""One model, ready to judge: an ONNX Runtime session, its card, and a self-test that it passed."""

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
# TF32 would round a float32 model by more than its self-test allows, unasked; speed is what float16
# files are for. Every batch has one shape, so memory is asked for as it is needed.
_PROVIDER_OPTIONS = {"cuda": {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}}
SELF_TEST_TIMEOUT_S = {"cpu": 15.0, "cuda": 100.0}
"""For a self-test in a batch of up to 64, which takes a second, and CUDA has to start: a graph may
never end."""
SESSION_OPEN_TIMEOUT_S = 5.0
"""What opening a session may add to that: ONNX Runtime then computes whatever is constant."""
MAX_MODEL_BYTES = 2_000_000_000
"""ONNX's own limit: a larger model keeps its weights in other files, which are not read."""
INFERENCE_TIMEOUT_S = 600.0
"""For one batch of any size on a slow machine."""
_FLOAT32_TENSOR = "tensor(float)"


class ModelEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a manifest says of a model: its file, how it was made, and figures by split and name.

    ``card_sha256`` is that of NAME.md beside it; empty where an older version wrote none.
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
    """What lies in a folder of models: each one's figures by name, the best on validation first.

    ``comparison`` is that of all of them, where they were exported together.
    """

    models: dict[str, ModelEntry]
    comparison: ModelComparison | None = None


@dataclass(frozen=True)
class Predictions:
    """What a model says of N films, float32; None what it does not answer.

    ``probability`` is P(pneumonia), (N,). ``viral`` is P(viral | pneumonia), (N,). ``atypicality``
    (N,) grows with the distance from the training films. ``evidence`` is (N, height, width).
    """

    probability: NDArray[np.float32]
    viral: NDArray[np.float32] | None = None
    atypicality: NDArray[np.float32] | None = None
    evidence: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Classifier:
    """A loaded model. Make one with ``Classifier.load``; several threads may use it at once."""

    card: ModelCard
    path: Path
    sha256: str
    provider: str
    session: Any
    batch_size: int | None = None
    timeout_s: float = INFERENCE_TIMEOUT_S
    """Seconds that one inference may take."""

    @classmethod
    def load(
        cls,
        model: str | Path,
        provider: str = "auto",
        threads: int | None = None,
        batch_size: int | None = None,
        sha256: str | None = None,
    ) -> Classifier:
        """Load a model file and replay its self-test.

        Args:
            model: The name of a bundled model, or a path.
            provider: "cpu", "cuda", or "auto" for CUDA where it really runs.
            threads: For one inference; by default every core this process may use.
            batch_size: Always infer so many films at once, fewer with blank ones added: memory
                stays flat, and a film's answers are the same to the last bit whatever its place and
                its neighbours. By default the films of each ``predict`` together.
            sha256: The SHA-256 that the file must have, where it was read before.

        Raises:
            ModelFileError: The file, its card or its self-test is not right.
            ProviderUnavailable: The provider was asked for by name and cannot run here.
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
        """Open the content of a model file, and replay its self-test."""
        found = hashlib.sha256(data).hexdigest()
        _check_bundled(path, found)
        providers = _choose_providers(provider)
        limit_s = SELF_TEST_TIMEOUT_S[providers[0]] * max(1.0, (batch_size or 0) / 64)
        options = make_session_options(threads or available_cores())

        def open_and_test() -> Classifier:
            tiles = providers == ["cpu"] and has_amx()
            named = [(PROVIDERS[name], _PROVIDER_OPTIONS.get(name, {})) for name in providers]
            session = open_session(
                shift_zero_points(data) if tiles else data, str(path), options, named
            )
            used = _active_provider(session, provider)
            card = _read_card(session, path)
            tested = cls(card, path, found, used, session, batch_size, limit_s)
            tested.self_test()
            return replace(tested, timeout_s=INFERENCE_TIMEOUT_S)

        try:
            return run_with_timeout(
                limit_s + SESSION_OPEN_TIMEOUT_S, open_and_test, partial(cancel_opening, options)
            )
        except TimeoutError as exc:
            raise ModelFileError(
                f"Expected {path} to load in {limit_s + SESSION_OPEN_TIMEOUT_S:g} seconds, found it not ready.",
                EXPORT_HINT,
            ) from exc

    def predict(self, pixels: NDArray[np.uint8]) -> Predictions:
        """Everything that the model says of decoded films.

        Args:
            pixels: Shape (N, S, S, 1) uint8, as ``decode_radiograph`` makes them; N at least 1.

        Raises:
            ModelFileError: The session failed on this input.
        """
        size = self.batch_size or len(pixels)
        parts = [
            self._predict_batch(pixels[start : start + size])
            for start in range(0, len(pixels), size)
        ]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Predictions(**found)

    def _predict_batch(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """One inference of a whole batch; the answers of added blank films are cut off."""
        films, whole = len(pixels), self.batch_size or len(pixels)
        if films < whole:
            blank = np.zeros((whole - films, *pixels.shape[1:]), np.uint8)
            pixels = np.concatenate([pixels, blank])
        shapes = output_shapes(self.card, len(pixels))
        device = "cuda" if self.provider == "cuda" else "cpu"
        found = run_session(self.session, pixels, shapes, device, self.timeout_s, str(self.path))
        return {name: part[:films] for name, part in found.items()}

    def self_test(self) -> float:
        """Replay the card's fixed inputs.

        Returns:
            The largest difference in probability.

        Raises:
            SelfTestFailed: It is above the card's tolerance.
        """
        test = self.card.self_test
        if test is None or test.recipe != SELF_TEST_RECIPE:
            raise CardVersionUnsupported(f"{self.path} has no self-test that can be replayed.")
        found = self.predict(draw_self_test_images(self.card.size_px)).probability
        worst = float(np.abs(found - np.asarray(test.probabilities)).max())
        if not worst <= test.tolerance:
            raise SelfTestFailed(
                f"The self-test of {self.path} is off by {worst:.4f} "
                f"(at most {test.tolerance} expected).",
                "File or runtime is damaged: install again, or use --provider cpu.",
            )
        return worst


def list_bundled_models() -> list[str]:
    """Names of the models that come with the package, as its manifest lists them."""
    return list(read_bundled_manifest().models)


def expand_model_names(models: Iterable[str]) -> tuple[str, ...]:
    """Names and paths of models, "all" as the names of the bundled ones, each once."""
    names = [
        name for model in models for name in (list_bundled_models() if model == "all" else [model])
    ]
    return tuple(dict.fromkeys(names))


def read_bundled_manifest() -> Manifest:
    """What the manifest says of the bundled models."""
    return msgspec.json.decode((BUNDLED_FOLDER / MANIFEST_NAME).read_bytes(), type=Manifest)


def find_model_file(model: str | Path) -> Path:
    """The path of a bundled model's name, or the path itself.

    Raises:
        UsageError: Neither a bundled model nor a file.
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
    """Read a model's file.

    Raises:
        ModelFileError: It cannot be read, waits for content, or is larger than any model.
    """
    try:
        return read_regular_file(path, MAX_MODEL_BYTES)
    except OSError as exc:
        raise ModelFileError(
            f"The model {path} cannot be read: {exc.strerror}.",
            "Give an ONNX file that `cxr export` made, or a name that `cxr models` lists.",
        ) from exc


def hash_model_file(path: Path) -> str:
    """The SHA-256 of a model's file.

    Raises:
        ModelFileError: As of `read_model`.
    """
    return hashlib.sha256(read_model_file(path)).hexdigest()


def load_if_unchanged(
    model: str | Path, provider: str, threads: int | None, sha256: str
) -> Classifier | None:
    """Load a model with the very file that a run used.

    Returns:
        The model; None where its file is gone, or is another one by now.

    Raises:
        ModelFileError: It is the same file, and cannot be used.
        ProviderUnavailable: As of ``Classifier.load``.
    """
    try:
        path = find_model_file(model)
        data = read_model_file(path)
    except (UsageError, ModelFileError):  # no file any more, or none that can be read
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    return Classifier._open(path, data, provider, threads)  # noqa: SLF001 - of this module


def list_providers() -> list[str]:
    """Short names of the providers that this ONNX Runtime was built with."""
    built = ort.get_available_providers()
    return [name for name, full in PROVIDERS.items() if full in built]


def _check_sha256(path: Path, found: str, expected: str) -> None:
    """Refuse a file that is not the one which the run names."""
    if found != expected:
        raise ModelFileError(
            f"Expected {path} with sha256 {expected[:12]} on {platform.node()}, found "
            f"{found[:12]}: it was replaced meanwhile, or is another file on that machine.",
            "Run the same command again. Of several machines, each needs the same version of "
            "cxr-batch, or the file in a folder that all share.",
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
    """Short names of the providers to try, the best one first.

    Raises:
        ProviderUnavailable: CUDA was asked for by name, and this ONNX Runtime has none.
    """
    available = list_providers()
    if provider == "cuda" and "cuda" not in available:
        raise ProviderUnavailable(
            "The CUDA provider was asked for, but this ONNX Runtime has none.",
            'Install it with: pip install "cxr-batch[gpu]", or use --provider cpu.',
        )
    return ["cuda", "cpu"] if provider != "cpu" and "cuda" in available else ["cpu"]


def _active_provider(session: Any, asked: str) -> str:
    """The short name of the provider that a session really runs on.

    Raises:
        ProviderUnavailable: CUDA was asked for by name, and it is another one.
    """
    used = session.get_providers()[0]
    if asked == "cuda" and used != PROVIDERS["cuda"]:
        raise ProviderUnavailable(
            "The CUDA provider was asked for, but it did not start on this machine.",
            "`cxr doctor` says what is missing; --provider cpu runs without it.",
        )
    return next(name for name, full in PROVIDERS.items() if full == used)


def _read_card(session: Any, path: Path) -> ModelCard:
    """The card of an open model, once its outputs can be those that the card describes."""
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
            f"Expected {path} to answer {sorted(promised)}, as its card says; it lacks {missing}.",
            EXPORT_HINT,
        )
    for name, shape in promised.items():
        kind, dimensions = found[name]
        # ONNX Runtime gives no dimensions where it knows none; the self-test finds them.
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
    """Whether dimensions, of which only numbers are fixed, can become a shape."""
    return len(dimensions) == len(shape) and all(
        found == size or not isinstance(found, int)
        for found, size in zip(dimensions, shape, strict=True)
    )
