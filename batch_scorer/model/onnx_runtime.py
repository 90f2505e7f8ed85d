"""ONNX Runtime without telemetry. Every module imports it from here; lint enforces that.

Since 1.29, importing ONNX Runtime writes a device identifier below ``~/.cache/Microsoft``, and ten
seconds later the process looks up a host of the vendor. The variable that forbids both is read only
during that import; ``disable_telemetry_events()`` comes too late. So this module sets it while it
imports, whether a command, a user's program or a Ray worker imports it first.

Source: ONNX Runtime's docs/Privacy.md; the rest by experiment with 1.32.0.
"""

from __future__ import annotations

import importlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Set the variable for the time of the import, and restore the caller's environment."""
    before = os.environ.get(TELEMETRY_VARIABLE)
    os.environ[TELEMETRY_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[TELEMETRY_VARIABLE]
        else:
            os.environ[TELEMETRY_VARIABLE] = before


with _without_telemetry():
    import onnxruntime as ort  # noqa: TID251 - the one place
    from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors  # noqa: TID251

__all__ = ["TELEMETRY_VARIABLE", "import_submodule", "ort", "ort_errors"]


def import_submodule(name: str) -> Any:
    """Import a submodule that ``import onnxruntime`` omits, such as ``quantization``."""
    return importlib.import_module(f"onnxruntime.{name}")
