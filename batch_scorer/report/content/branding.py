"""The branding of a report: a title, an organisation and a logo for page 1 and every footer.

A logo is reduced to a small image of plain pixels before it reaches a page. A PNG is decoded and
encoded again. resvg, which supports no scripts, no network and no ``foreignObject``, renders an SVG
in a process of its own, with a time limit. An SVG with external references or entity declarations
is refused before that.
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
from batch_scorer.report.content.text import sanitize_text
from batch_scorer.system.regular_file import FileTooLarge, read_regular_file

if TYPE_CHECKING:
    from os import PathLike

MAX_TEXT_CHARS = 70
MAX_LOGO_BYTES = 2_000_000
MAX_LOGO_PIXELS = 20_000_000
LOGO_SIZE_PX = (720, 240)
"""The largest width and height of a logo on the page."""
RENDER_TIMEOUT_S = 20
DEFAULT_TITLE = "Chest X-ray report"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LOGO_HINT = "Give a PNG or a self-contained SVG of at most 2 MB."
_RENDER_SCRIPT = (
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
    """The title, organisation and logo of a report. ``logo`` is a PNG, or None."""

    title: str = ""
    organisation: str = ""
    logo: bytes | None = None

    @property
    def is_custom(self) -> bool:
        """True if anything is set."""
        return self != NO_BRANDING


NO_BRANDING = Branding()


@dataclass(frozen=True)
class BrandFacts:
    """The branding as text. ``has_logo`` is true if there is a logo to show."""

    title: str
    kicker: str
    organisation: str
    footer: str
    has_logo: bool
    logo_alt: str


def describe_branding(branding: Branding) -> BrandFacts:
    """Turn the branding into text."""
    title = sanitize_text(branding.title, MAX_TEXT_CHARS)
    organisation = sanitize_text(branding.organisation, MAX_TEXT_CHARS)
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
    """Read and check the branding of a report.

    Args:
        title: Replaces "Chest X-ray report"; at most ``MAX_TEXT_CHARS`` characters.
        organisation: Who issues the report; at most ``MAX_TEXT_CHARS`` characters.
        logo: A PNG or SVG file.

    Raises:
        UsageError: A text is too long, or the logo cannot be used.
    """
    for name, text in (("title", title), ("organisation", organisation)):
        if len(text) > MAX_TEXT_CHARS:
            raise UsageError(
                f"Expected a --{name} of at most {MAX_TEXT_CHARS} characters, found {len(text)}.",
                "Shorten it: it is printed on page 1 and in every footer.",
            )
    return Branding(title.strip(), organisation.strip(), _read_logo(Path(logo)) if logo else None)


def _read_logo(path: Path) -> bytes:
    try:
        data = read_regular_file(path, MAX_LOGO_BYTES)
    except FileTooLarge as exc:
        raise UsageError(
            f"Expected a logo of at most 2 MB in {path}, found more.", _LOGO_HINT
        ) from exc
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise UsageError(f"The logo {path} cannot be read: {why}.") from exc
    return _normalize_png(
        data if data.startswith(_PNG_SIGNATURE) else _render_svg(data, path), path
    )


def _normalize_png(png: bytes, path: Path) -> bytes:
    """Re-encode a PNG on white, no larger than ``LOGO_SIZE_PX`` and without metadata."""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.width * image.height > MAX_LOGO_PIXELS:
                raise UsageError(
                    f"Expected a logo of at most 20 megapixels in {path}, found {image.width} by "
                    f"{image.height}.",
                    _LOGO_HINT,
                )
            colours = image.convert("RGBA")
    except _PILLOW_ERRORS as exc:
        raise UsageError(f"The logo {path} cannot be read: {exc}.", _LOGO_HINT) from exc
    colours.thumbnail(LOGO_SIZE_PX, Image.Resampling.LANCZOS)
    flat = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    buffer = io.BytesIO()
    flat.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _render_svg(data: bytes, path: Path) -> bytes:
    """Render a self-contained SVG as PNG."""
    from batch_scorer.report.content.typeface import find_font_files

    _check_self_contained(data, path)
    try:
        result = subprocess.run(  # noqa: S603 - this program's own interpreter and script
            [sys.executable, "-P", "-c", _RENDER_SCRIPT, *map(str, find_font_files())],
            input=data,
            capture_output=True,
            timeout=RENDER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise UsageError(
            f"Expected {path} to render within {RENDER_TIMEOUT_S} seconds, found a slower logo.",
            _LOGO_HINT,
        ) from exc
    if result.returncode:
        reason = result.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise UsageError(
            f"The logo {path} cannot be drawn: {sanitize_text(reason[-1], 160)}.", _LOGO_HINT
        )
    return result.stdout


def _check_self_contained(data: bytes, path: Path) -> None:
    """Refuse an SVG that declares entities or refers to anything outside itself."""

    def refuse(what: str) -> None:
        raise UsageError(f"Expected a self-contained logo in {path}, found {what}.", _LOGO_HINT)

    def check_element(_: str, attributes: dict[str, str]) -> None:
        for name, value in attributes.items():
            inside = value.strip().startswith(("#", "data:image/png", "data:image/jpeg"))
            if name.split(":")[-1] in ("href", "src") and not inside:
                refuse(f"a link to {sanitize_text(value, 60)}")

    parser = expat.ParserCreate("utf-8")
    parser.EntityDeclHandler = lambda *_: refuse("entity declarations")
    parser.StartElementHandler = check_element
    try:
        parser.Parse(data, True)  # noqa: FBT003 - expat's "this is all"
    except expat.ExpatError as exc:
        raise UsageError(
            f"Expected a PNG or SVG logo in {path}, found neither PNG nor SVG: {exc}.", _LOGO_HINT
        ) from exc
