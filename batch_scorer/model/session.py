"""ONNX Runtime sessions with limits on the files they read and the time they run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from batch_scorer.errors import ModelFileError
from batch_scorer.model.external_data import has_external_data
from batch_scorer.model.onnx_runtime import ort, ort_errors
from batch_scorer.system.deadline import Watchdog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

EXPORT_HINT = "Use a model that `cxr export` made."
ORT_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(ort_errors).values() if Exception in getattr(kind, "__bases__", ())),
    MemoryError,
    RuntimeError,
    ValueError,  # a string of the file is not UTF-8
)
_MAX_REASON_CHARS = 200
_WATCHDOG = Watchdog()
_NO_EXTERNAL_FOLDER = "/dev/null/outside"
"""The folder for external data of a model: no file can exist below a device."""


def make_session_options(threads: int) -> Any:
    """Make the options of a session with this number of threads per inference."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that spins while it waits takes a core from the decoders.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", _NO_EXTERNAL_FOLDER
    )
    options.log_severity_level = 4  # errors reach the user through exceptions, once
    return options


def cancel_opening(options: Any) -> None:
    """Cancel the opening of a session with these options."""
    options.set_load_cancellation_flag(True)


def open_session(data: bytes, where: str, options: Any, providers: list[Any]) -> Any:
    """Open a session on an ONNX file.

    Args:
        data: The whole file.
        where: The path, for error messages.
        options: The return value of ``make_session_options``.
        providers: Execution providers in the form that ONNX Runtime expects.

    Raises:
        ModelFileError: The file is not ONNX, cannot be run, or keeps data in another file.
    """
    if has_external_data(data):
        raise ModelFileError(
            f"Expected the whole model in {where}, found weights in another file, "
            "which its SHA-256 does not cover.",
            "Save it as one file: onnx.save(onnx.load(OLD), NEW).",
        )
    try:
        return ort.InferenceSession(data, options, providers=providers)
    except ORT_ERRORS as exc:
        raise ModelFileError(
            f"ONNX Runtime cannot run {where}: {format_ort_error(exc)}.", EXPORT_HINT
        ) from exc


def run_session(
    session: Any,
    pixels: NDArray[np.uint8],
    shapes: Mapping[str, tuple[int, ...]],
    device: str,
    timeout_s: float,
    where: str,
) -> dict[str, NDArray[np.float32]]:
    """Run one inference.

    Args:
        session: A session with the input ``pixels``.
        pixels: Shape (N, S, S, 1) uint8.
        shapes: The outputs to compute, by name, and the expected shape of each.
        device: The device that holds the outputs until all are computed, "cpu" or "cuda".
        timeout_s: Seconds after which the inference stops, between two of its operations.
        where: The model's path, for error messages.

    Returns:
        The outputs by name.

    Raises:
        ModelFileError: The session failed, took too long, or an output has another shape.
    """
    options = ort.RunOptions()
    options.log_severity_level = 4  # errors reach the user through exceptions, once
    with _WATCHDOG.timeout(timeout_s, partial(setattr, options, "terminate", True)):  # noqa: FBT003
        try:
            # With a binding, no output leaves the device before all are computed.
            binding = session.io_binding()
            binding.bind_cpu_input("pixels", np.ascontiguousarray(pixels))
            for name in shapes:
                binding.bind_output(name, device)
            session.run_with_iobinding(binding, options)
            _check_shapes(binding.get_outputs(), shapes, where)  # before a huge output is copied
            outputs = binding.copy_outputs_to_cpu()
        except ORT_ERRORS as exc:
            if options.terminate:
                raise ModelFileError(
                    f"Expected the model {where} to finish in {timeout_s:g} seconds, "
                    "found it still running.",
                    EXPORT_HINT,
                ) from exc
            raise ModelFileError(f"The model {where} failed: {format_ort_error(exc)}.") from exc
    return dict(zip(shapes, outputs, strict=True))


def format_ort_error(error: BaseException) -> str:
    """Return the beginning of an ONNX Runtime error, whose text may fill pages."""
    line = (str(error).splitlines() or [""])[0].strip().rstrip(".")
    return line[:_MAX_REASON_CHARS] or type(error).__name__


def _check_shapes(outputs: list[Any], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    for (name, shape), output in zip(shapes.items(), outputs, strict=True):
        found = tuple(output.shape())
        if found != shape:
            raise ModelFileError(
                f"Expected the output {name} of {where} to have the shape {shape}, found {found}.",
                EXPORT_HINT,
            )
