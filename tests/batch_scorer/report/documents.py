"""Read back what a report says: the texts of its facts, its figures and its PDF."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import page
import pikepdf
import pypdfium2

if TYPE_CHECKING:
    from pathlib import Path

PROFILES = {
    "pdf/a-3a": page.ValidationProfile.PDF_A_3A,
    "pdf/ua-1": page.ValidationProfile.PDF_UA_1,
}


def every_text(value: Any) -> str:
    """All texts in the facts, one below the other."""
    if isinstance(value, str):
        return value
    if dataclasses.is_dataclass(value):
        return "\n".join(every_text(getattr(value, f.name)) for f in dataclasses.fields(value))
    return "\n".join(every_text(part) for part in value) if isinstance(value, tuple) else ""


def texts(svg: str) -> str:
    return " ".join("".join(node.itertext()) for node in ET.fromstring(svg).iter())


def read_text(path: Path | str) -> str:
    """The text of a PDF as a reader extracts it, page breaks as form feeds, lines joined."""
    with pypdfium2.PdfDocument(path) as pdf:
        pages = [sheet.get_textpage().get_text_bounded() for sheet in pdf]
    return "\f".join(re.sub(r"\s+", " ", text) for text in pages)


def tags(pdf: pikepdf.Pdf) -> list[Any]:
    """Every structure element."""
    found, waiting = [], [pdf.Root.StructTreeRoot.K]
    while waiting:
        node = waiting.pop()
        if isinstance(node, pikepdf.Array):
            waiting.extend(node)
        elif isinstance(node, pikepdf.Dictionary):
            if "/S" in node:
                found.append(node)
            if "/K" in node:
                waiting.append(node.K)
    return found
