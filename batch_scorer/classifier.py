"""One model, ready to judge: an ONNX Runtime session, its card, and a self-test that it passed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from batch_scorer.card import (
    CARD_KEY,
    SELF_TEST_RECIPE,
    output_names,
    read_card,
    self_test_pixels,
)
from batch_scorer.comparison import Comparison
from batch_scorer.errors import (
    CardVersionUnsupported,
    ModelFileError,
    ProviderUnavailable,
    SelfTestFailed,
    UsageError,
)
from batch_scorer.process import available_cores, has_tiles
from batch_scorer.tiles import raise_weights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from batch_scorer.card import ModelCard

BUNDLED = Path(__file__).parent / "models"
MANIFEST = "manifest.json"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TF32 would round a float32 model by more than its self-test allows, unasked; speed is what float16
# files are for. Every batch has one shape, so memory is asked for as it is needed.
_SETTINGS = {"cuda": {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}}
_ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,
)


class Manifest(msgspec.Struct, frozen=True):
    """What lies in a folder of models: each one's figures by name, the best on validation first.

    ``comparison`` is that of all of them, where they were exported together.
    """

    models: dict[str, dict[str, Any]]
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Answers:
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

    @classmethod
    def load(
        cls,
        model: str | Path,
        provider: str = "auto",
        threads: int | None = None,
        batch_size: int | None = None,
    ) -> Classifier:
        """Load a model file and replay its self-test.

        Args:
            model: The name of a bundled model, or a path.
            provider: "cpu", "cuda", or "auto" for CUDA where it really runs.
            threads: For one inference; by default every core this process may use.
            batch_size: Always infer so many films at once, fewer with blank ones added: memory
                stays flat, and a film's answers are the same to the last bit whatever its place and
                its neighbours. By default the films of each ``predict`` together.

        Raises:
            ModelFileError: The file, its card or its self-test is not right.
            ProviderUnavailable: The provider was asked for by name and cannot run here.
        """
        path = find_model(model)
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise ModelFileError(f"The model {path} cannot be read: {exc.strerror}.") from exc
        sha256 = hashlib.sha256(data).hexdigest()
        _check_bundled(path, sha256)
        session = _open_session(data, path, provider, threads or available_cores())
        metadata = session.get_modelmeta().custom_metadata_map
        card = read_card(metadata.get(CARD_KEY), str(path))
        _check_outputs(session, card, path)
        used = session.get_providers()[0]
        name = next(name for name, full in PROVIDERS.items() if full == used)
        classifier = cls(card, path, sha256, name, session, batch_size)
        classifier.self_test()
        return classifier

    def predict(self, pixels: NDArray[np.uint8]) -> Answers:
        """Everything that the model says of decoded films.

        Args:
            pixels: Shape (N, S, S, 1) uint8, as ``decode_radiograph`` makes them; N at least 1.

        Raises:
            ModelFileError: The session failed on this input.
        """
        size = self.batch_size or len(pixels)
        parts = [self._infer(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Answers(**found)

    def _infer(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """One inference of a whole batch; the answers of added blank films are cut off."""
        films, whole = len(pixels), self.batch_size or len(pixels)
        if films < whole:
            blank = np.zeros((whole - films, *pixels.shape[1:]), np.uint8)
            pixels = np.concatenate([pixels, blank])
        names = sorted(output_names(self.card))
        device = "cuda" if self.provider == "cuda" else "cpu"
        try:
            # Bound, so that nothing leaves the device before all of it is there.
            binding = self.session.io_binding()
            binding.bind_cpu_input("pixels", np.ascontiguousarray(pixels))
            for name in names:
                binding.bind_output(name, device)
            self.session.run_with_iobinding(binding)
            found = binding.copy_outputs_to_cpu()
        except _ORT_ERRORS as exc:
            raise ModelFileError(f"The model {self.path} failed: {exc}.") from exc
        return {name: part[:films] for name, part in zip(names, found, strict=True)}

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
        found = self.predict(self_test_pixels(self.card.size_px)).probability
        worst = float(np.abs(found - np.asarray(test.probabilities)).max())
        if not worst <= test.tolerance:
            raise SelfTestFailed(
                f"The self-test of {self.path} is off by {worst:.4f} "
                f"(at most {test.tolerance} expected).",
                "File or runtime is damaged: install again, or use --provider cpu.",
            )
        return worst


def bundled_names() -> list[str]:
    """Names of the models that come with the package, as its manifest lists them."""
    return list(bundled_manifest().models)


def expand_names(models: Iterable[str]) -> tuple[str, ...]:
    """Names and paths of models, "all" as the names of the bundled ones, each once."""
    names = [name for model in models for name in (bundled_names() if model == "all" else [model])]
    return tuple(dict.fromkeys(names))


def bundled_manifest() -> Manifest:
    """What the manifest says of the bundled models."""
    return msgspec.json.decode((BUNDLED / MANIFEST).read_bytes(), type=Manifest)


def find_model(model: str | Path) -> Path:
    """The path of a bundled model's name, or the path itself.

    Raises:
        UsageError: Neither a bundled model nor a file.
    """
    if isinstance(model, str) and model in bundled_names():
        return BUNDLED / f"{model}.onnx"
    if not Path(model).is_file():
        raise UsageError(
            f"Expected a model file or one of {', '.join(bundled_names())}, found {model}.",
            "See `cxr models`.",
        )
    return Path(model)


def available_providers() -> list[str]:
    """Short names of the providers that this ONNX Runtime was built with."""
    built = ort.get_available_providers()
    return [name for name, full in PROVIDERS.items() if full in built]


def _check_bundled(path: Path, sha256: str) -> None:
    if path.parent != BUNDLED:
        return
    expected = bundled_manifest().models[path.stem]["sha256"]
    if sha256 != expected:
        raise ModelFileError(
            f"The bundled model {path.name} is damaged: expected sha256 {expected[:12]}, "
            f"found {sha256[:12]}.",
            "Install cxr-batch again.",
        )


def _check_outputs(session: Any, card: ModelCard, path: Path) -> None:
    missing = output_names(card) - {output.name for output in session.get_outputs()}
    if missing:
        raise ModelFileError(
            f"Expected {path} to answer {sorted(output_names(card))}, as its card says; it lacks "
            f"{sorted(missing)}.",
            "Use a model that `cxr export` made.",
        )


def _open_session(data: bytes, path: Path, provider: str, threads: int) -> Any:
    available = available_providers()
    if provider == "cuda" and "cuda" not in available:
        raise ProviderUnavailable(
            "The CUDA provider was asked for, but this ONNX Runtime has none.",
            'Install it with: pip install "cxr-batch[gpu]", or use --provider cpu.',
        )
    wanted = (
        ["cuda", "cpu"]
        if provider == "cuda" or (provider == "auto" and "cuda" in available)
        else ["cpu"]
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that spins while it waits takes its core from one that decodes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors reach the user through exceptions, once
    if wanted == ["cpu"] and has_tiles():
        data = raise_weights(data)
    try:
        session = ort.InferenceSession(
            data, options, providers=[(PROVIDERS[name], _SETTINGS.get(name, {})) for name in wanted]
        )
    except _ORT_ERRORS as exc:
        raise ModelFileError(
            f"{path} is no ONNX model that can be run: {str(exc).splitlines()[0][:200]}",
            "Use a model that `cxr export` made.",
        ) from exc
    if provider == "cuda" and session.get_providers()[0] != PROVIDERS["cuda"]:
        raise ProviderUnavailable(
            "The CUDA provider was asked for, but it did not start on this machine.",
            "`cxr doctor` says what is missing; --provider cpu runs without it.",
        )
    return session
