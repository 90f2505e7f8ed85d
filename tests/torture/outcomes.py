"""What a row may say, and a film to break."""

from __future__ import annotations

import numpy as np

SCORED = ("scored", "")
UNSUPPORTED = ("rejected", "unsupported")
TOO_LARGE = ("rejected", "too_large")
TOO_SMALL = ("rejected", "too_small")
NO_FILM = ("rejected", "not_radiograph")
UNREADABLE = ("failed", "unreadable")
TRUNCATED = ("failed", "truncated")

Expected = tuple[str, str]
Files = dict[str | bytes, tuple[bytes, Expected]]


def noise(height: int = 200, width: int = 200) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width), np.uint8)


def tenths(name: str, data: bytes, expected: Expected) -> Files:
    return {
        f"{name} cut at {tenth} tenths": (data[: len(data) * tenth // 10], expected)
        for tenth in range(1, 10)
    }
