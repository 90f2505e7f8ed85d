"""The report as one HTML page that needs no other file, reaches no network and runs one script.

It is the page that becomes the PDF, with another style, and with a table of all rows that can be
sorted, filtered and opened. A film's name reaches it as escaped text, or inside JSON in which no
character can end a script. The policy in its head lets a browser run the one script, apply the one
style (each by its hash) and show embedded pictures and fonts; nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec
from markupsafe import Markup

from batch_scorer.errors import ReportError
from batch_scorer.report.content.metrics_table import describe_table
from batch_scorer.report.content.predictions import PREDICTIONS_CAP
from batch_scorer.report.content.typeface import data_uri, embedded_faces
from batch_scorer.report.formats.pdf import created_when
from batch_scorer.report.formats.templates import open_template
from batch_scorer.results import store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch_scorer.report.content.metrics_table import FilmTable
    from batch_scorer.report.formats.pdf import Material
    from batch_scorer.storage.output import Output

TEMPLATE = "page.html.j2"
_SVG = "image/svg+xml"
_PICTURE = re.compile(r'(<img [^>]*?)src="[a-z]+:([^"]+)"')
_HEADING = re.compile(r'<h2 id="([a-z-]+)"><span class="section-number">(\d+)</span> ([^<]+)</h2>')
_SVG_START = re.compile(rb"<svg [^>]*>")
_ESCAPES = str.maketrans(
    {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}
)


def write_page(output: Output, material: Material) -> str:
    """Write ``report.html`` next to the rows.

    Returns:
        Where it is.

    Raises:
        ReportError: The page names a picture that is not there.
        LedgerError: The output cannot be written.
    """
    name = store.REPORT_FILES["html"]
    output.write(name, render_page(material).encode())
    return f"{output.url}/{name}"


def render_page(material: Material) -> str:
    """Lay out the page; the same run gives the same text."""
    table = describe_table(material.rows, material.manifest, material.dates)
    script = _read("page.js")
    data = as_script_data(table)
    template = open_template(TEMPLATE)

    def lay_out(style: str) -> str:
        return template.render(
            facts=material.facts,
            pictures=material.pictures,
            created=created_when(material.facts),
            table=table,
            print_cap=PREDICTIONS_CAP,
            data=Markup(data),  # noqa: S704 - JSON without a character that HTML knows
            style=Markup(style),  # noqa: S704 - packaged text
            script=Markup(script),  # noqa: S704 - packaged text
            policy=content_policy(style, script),
            headings=find_headings,
        )

    style = _read("page.css")
    faces = _faces_for(lay_out(style), material.resources)
    return embed_pictures(lay_out(faces + style), material.resources, faces)


def as_script_data(table: FilmTable) -> str:
    """The table as JSON that may stand in a ``<script>``: nothing in it can end or open one."""
    return msgspec.json.encode(table).decode().translate(_ESCAPES)


def content_policy(style: str, script: str) -> str:
    """What a browser may do with the page: this style, this script, embedded pictures and fonts."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "img-src data:",
            "font-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def find_headings(html: str) -> list[tuple[str, str, Markup]]:
    """The numbered parts of a page: anchor, number and title of each."""
    return [
        (anchor, number, Markup(title))  # noqa: S704 - comes out of the page, so it is escaped
        for anchor, number, title in _HEADING.findall(html)
    ]


def embed_pictures(html: str, resources: Mapping[str, tuple[bytes, str]], faces: str = "") -> str:
    """Put every picture into the page in place of its name, which ``data-picture`` keeps.

    Args:
        html: A page whose pictures are addressed as for the PDF, such as ``film:NAME``.
        resources: Body and media type by name.
        faces: CSS of the typeface, for figures: as pictures they cannot see that of the page.

    Raises:
        ReportError: A picture is not there.
    """

    def embed(match: re.Match[str]) -> str:
        start, name = match.groups()
        if name not in resources:
            raise ReportError(
                f"The page shows a picture “{name}” that was not drawn.",
                "This is a defect of cxr-batch: please report it. The predictions are complete.",
            )
        body, kind = resources[name]
        if kind == _SVG:
            style = f"<style>{faces}</style>".encode()
            body = _SVG_START.sub(lambda found: found[0] + style, body, count=1)
        return f'{start}data-picture="{name}" src="{data_uri(body, kind)}"'

    return _PICTURE.sub(embed, html)


def _faces_for(html: str, resources: Mapping[str, tuple[bytes, str]]) -> str:
    """CSS of the typeface with the characters of a page and its figures."""
    texts = [html, *(body.decode() for body, kind in resources.values() if kind == _SVG)]
    return embedded_faces(frozenset().union(*texts))


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read(name: str) -> str:
    return (files("report_templates") / name).read_text(encoding="utf-8")
