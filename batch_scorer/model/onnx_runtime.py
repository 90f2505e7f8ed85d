"""ONNX Runtime without its telemetry. Every module takes it from here, and lint holds that.

From 1.29 on, its import writes a device identifier below ``~/.cache/Microsoft``, and some ten
seconds later the process looks up its vendor's host. The variable that forbids both is read during
that import and never again; ``disable_telemetry_events()`` comes too late. So this module sets it,
whatever stood there, and whoever imports it first: a command, a user's program, a worker of Ray.

Source: ONNX Runtime's docs/Privacy.md; the rest by experiment with 1.32.0.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"
os.environ[TELEMETRY_VARIABLE] = "1"

import onnxruntime as ort  # noqa: E402, TID251 - the one place
from onnxruntime.capi import (  # noqa: E402, TID251
    onnxruntime_pybind11_state as ort_errors,
)

__all__ = ["TELEMETRY_VARIABLE", "import_submodule", "ort", "ort_errors"]


def import_submodule(name: str) -> Any:
    """Import a part of ONNX Runtime that its package leaves out, such as ``quantization``."""
    return importlib.import_module(f"onnxruntime.{name}")
