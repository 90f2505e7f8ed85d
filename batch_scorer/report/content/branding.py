"""Whose report it is: a title, an organisation and a logo, for page 1 and every footer.

A logo becomes a small picture of plain pixels before it comes near a page. A PNG is decoded and
written anew. An SVG is drawn by resvg, which knows no script, no network and no ``foreignObject``,
in a process of its own that is ended after some seconds; what in it points outside itself, or
declares entities, is refused before that.
"""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers import expat

from PIL import Image

from batch_scorer.errors import UsageError
from batch_scorer.report.content.text import show_name
from batch_scorer.system.regular_file import FileTooLarge, read_regular_file

if TYPE_CHECKING:
    from os import PathLike

LONGEST_TEXT = 70
MAX_LOGO_BYTES = 2_000_000
MAX_LOGO_PIXELS = 20_000_000
LOGO_SIZE_PX = (720, 240)
"""A logo is drawn to fit into this, whatever size it says it has."""
DRAWING_TIMEOUT_S = 20
DEFAULT_TITLE = "Chest X-ray report"
_PNG = b"\x89PNG\r\n\x1a\n"
_WHAT_TO_GIVE = "Give a PNG, or an SVG that holds all it shows, of at most 2 MB."
_DRAW = (
    "import sys, resvg_py\n"
    "sys.stdout.buffer.write(resvg_py.svg_to_bytes(svg_string=sys.stdin.buffer.read().decode(), "
    f"width={LOGO_SIZE_PX[0]}, height={LOGO_SIZE_PX[1]}, font_files=sys.argv[1:], "
    "skip_system_fonts=True))\n"
)
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class Branding:
    """What the report carries beside its facts. ``logo`` is a PNG; None where there is none."""

    title: str = ""
    organisation: str = ""
    logo: bytes | None = None

    @property
    def given(self) -> bool:
        """Whether there is anything."""
        return self != PLAIN


PLAIN = Branding()


@dataclass(frozen=True)
class BrandFacts:
    """The branding as a reader sees it; ``has_logo`` says whether there is a picture."""

    title: str
    kicker: str
    organisation: str
    footer: str
    has_logo: bool
    logo_alt: str


def describe_brand(branding: Branding) -> BrandFacts:
    """The branding in plain text."""
    title = show_name(branding.title, LONGEST_TEXT)
    organisation = show_name(branding.organisation, LONGEST_TEXT)
    return BrandFacts(
        title=title or DEFAULT_TITLE,
        kicker=title or f"{DEFAULT_TITLE} · pneumonia",
        organisation=organisation,
        footer=" · ".join(text for text in (organisation, title) if text),
        has_logo=branding.logo is not None,
        logo_alt=f"Logo of {organisation}." if organisation else "Logo.",
    )


def read_branding(
    title: str = "", organisation: str = "", logo: str | PathLike[str] | None = None
) -> Branding:
    """Check what is to stand on the report.

    Args:
        title: Instead of "Chest X-ray report"; at most ``LONGEST_TEXT`` characters.
        organisation: Who hands the report over; as long.
        logo: A PNG or SVG file.

    Raises:
        UsageError: A text is too long, or the logo cannot be used.
    """
    for name, text in (("title", title), ("organisation", organisation)):
        if len(text) > LONGEST_TEXT:
            raise UsageError(
                f"Expected a --{name} of at most {LONGEST_TEXT} characters, found {len(text)}.",
                "Shorten it: it stands on page 1 and in every footer.",
            )
    return Branding(title.strip(), organisation.strip(), _read_logo(Path(logo)) if logo else None)


def _read_logo(path: Path) -> bytes:
    try:
        data = read_regular_file(path, MAX_LOGO_BYTES)
    except FileTooLarge as exc:
        raise UsageError(
            f"Expected a logo of at most 2 MB in {path}, found more.", _WHAT_TO_GIVE
        ) from exc
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise UsageError(f"The logo {path} cannot be read: {why}.") from exc
    return _redraw(data if data.startswith(_PNG) else _rasterise(data, path), path)


def _redraw(png: bytes, path: Path) -> bytes:
    """The same picture on white, no larger than needed, with nothing else in the file."""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.width * image.height > MAX_LOGO_PIXELS:
                raise UsageError(
                    f"Expected a logo of at most 20 megapixels in {path}, found {image.width} by "
                    f"{image.height}.",
                    _WHAT_TO_GIVE,
                )
            colours = image.convert("RGBA")
    except _PILLOW_ERRORS as exc:
        raise UsageError(f"The logo {path} cannot be read: {exc}.", _WHAT_TO_GIVE) from exc
    colours.thumbnail(LOGO_SIZE_PX, Image.Resampling.LANCZOS)
    flat = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    buffer = io.BytesIO()
    flat.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _rasterise(data: bytes, path: Path) -> bytes:
    """Draw an SVG that holds all it shows."""
    from batch_scorer.report.content.typeface import font_paths

    _check_closed(data, path)
    try:
        drawn = subprocess.run(  # noqa: S603 - this program's own interpreter and script
            [sys.executable, "-P", "-c", _DRAW, *map(str, font_paths())],
            input=data,
            capture_output=True,
            timeout=DRAWING_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise UsageError(
            f"The logo {path} takes more than {DRAWING_TIMEOUT_S} seconds to draw.", _WHAT_TO_GIVE
        ) from exc
    if drawn.returncode:
        reason = drawn.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise UsageError(
            f"The logo {path} cannot be drawn: {show_name(reason[-1], 160)}.", _WHAT_TO_GIVE
        )
    return drawn.stdout


def _check_closed(data: bytes, path: Path) -> None:
    """Refuse an SVG that declares entities or shows what lies outside it."""

    def refuse(what: str) -> None:
        raise UsageError(
            f"Expected a logo that holds all it shows in {path}, found {what}.", _WHAT_TO_GIVE
        )

    def check_element(_: str, attributes: dict[str, str]) -> None:
        for name, value in attributes.items():
            inside = value.strip().startswith(("#", "data:image/png", "data:image/jpeg"))
            if name.split(":")[-1] in ("href", "src") and not inside:
                refuse(f"a link to {show_name(value, 60)}")

    parser = expat.ParserCreate("utf-8")
    parser.EntityDeclHandler = lambda *_: refuse("entity declarations")
    parser.StartElementHandler = check_element
    try:
        parser.Parse(data, True)  # noqa: FBT003 - expat's "this is all"
    except expat.ExpatError as exc:
        raise UsageError(f"The logo {path} is neither PNG nor SVG: {exc}.", _WHAT_TO_GIVE) from exc
