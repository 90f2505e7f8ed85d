"""ONNX Runtime without telemetry. Every module imports it from here; lint enforces that.

Since 1.29, importing ONNX Runtime writes a device identifier below ``~/.cache/Microsoft``, and ten
seconds later the process looks up a host of the vendor. The variable that forbids both is read only
during that import; ``disable_telemetry_events()`` comes too late. So this module always sets it,
whether a command, a user's program or a Ray worker imports it first.

Source: ONNX Runtime's docs/Privacy.md; the rest by experiment with 1.32.0.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"
os.environ[TELEMETRY_VARIABLE] = "1"

import onnxruntime as ort  # noqa: E402, TID251 - the only import
from onnxruntime.capi import (  # noqa: E402, TID251
    onnxruntime_pybind11_state as ort_errors,
)

__all__ = ["TELEMETRY_VARIABLE", "import_submodule", "ort", "ort_errors"]


def import_submodule(name: str) -> Any:
    """Import a submodule that ``import onnxruntime`` omits, such as ``quantization``."""
    return importlib.import_module(f"onnxruntime.{name}")
