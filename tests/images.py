"""Images that tests draw, one by one and as labelled folders."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """A film as file content."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def make_film(
    brightness: int = 120, seed: int | Sequence[int] = 0, shape: tuple[int, int] = (96, 128)
) -> bytes:
    """A noisy grey film; the tiny model calls it pneumonia when it is bright."""
    noise = np.random.default_rng(seed).integers(-20, 20, shape)
    return encode(np.clip(brightness + noise, 0, 255).astype(np.uint8))


def make_labelled_folder(root: Path, normal: int = 40, pneumonia: int = 60, start: int = 0) -> Path:
    """Dark normal and bright pneumonia images, with patient numbers from ``start`` on."""
    for label, count in (("NORMAL", normal), ("PNEUMONIA", pneumonia)):
        bright = label == "PNEUMONIA"
        (root / label).mkdir(parents=True)
        for index in range(count):
            name = (
                f"person{start + index // 3}_{'virus' if index % 2 else 'bacteria'}_{index}"
                if bright
                else f"IM-{start + index // 2:04d}-{index:04d}"
            )
            film = make_film(160 if bright else 80, seed=(start, index, bright))
            (root / label / f"{name}.png").write_bytes(film)
    return root
