"""The report as one self-contained HTML page with one script and no network access.

It is the page that becomes the PDF, with another style and a table of all rows that can be sorted,
filtered and opened. An image name enters it as escaped text, or inside JSON in which no character
can end a script. The content security policy allows the one script and the one style (each by its
hash), embedded images and embedded fonts; nothing else.
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
from batch_scorer.report.content.predictions import MAX_PREDICTION_ROWS
from batch_scorer.report.content.predictions_table import build_table
from batch_scorer.report.content.typeface import make_data_uri, make_font_css
from batch_scorer.report.formats.pdf import format_created
from batch_scorer.report.formats.templates import load_template
from batch_scorer.results import store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch_scorer.report.content.predictions_table import PredictionTable
    from batch_scorer.report.formats.pdf import ReportBundle
    from batch_scorer.storage.output import Output

TEMPLATE = "page.html.j2"
_SVG_TYPE = "image/svg+xml"
_IMAGE_TAG = re.compile(r'(<img [^>]*?)src="[a-z]+:([^"]+)"')
_HEADING = re.compile(r'<h2 id="([a-z-]+)"><span class="section-number">(\d+)</span> ([^<]+)</h2>')
_SVG_TAG = re.compile(rb"<svg [^>]*>")
_JSON_ESCAPES = str.maketrans(
    {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}
)


def write_html(output: Output, bundle: ReportBundle) -> str:
    """Write ``report.html`` next to the rows.

    Returns:
        Its path or URL.

    Raises:
        ReportError: The page names an image that does not exist.
        OutputError: The output cannot be written.
    """
    name = store.REPORT_FILES["html"]
    output.write(name, render_html(bundle).encode())
    return f"{output.url}/{name}"


def render_html(bundle: ReportBundle) -> str:
    """Render the page; the same run gives the same text."""
    table = build_table(bundle.view)
    script = _read_template("page.js")
    data = encode_script_json(table)
    template = load_template(TEMPLATE)

    def render(style: str) -> str:
        return template.render(
            facts=bundle.facts,
            pictures=bundle.image_names,
            created=format_created(bundle.facts),
            table=table,
            print_cap=MAX_PREDICTION_ROWS,
            data=Markup(data),  # noqa: S704 - JSON without a character that HTML knows
            style=Markup(style),  # noqa: S704 - packaged text
            script=Markup(script),  # noqa: S704 - packaged text
            policy=make_content_security_policy(style, script),
            headings=find_headings,
        )

    style = _read_template("page.css")
    font_css = _make_page_font_css(render(style), bundle.resources)
    return embed_images(render(font_css + style), bundle.resources, font_css)


def encode_script_json(table: PredictionTable) -> str:
    """Encode the table as JSON for a ``<script>``: nothing in it can end or open one."""
    return msgspec.json.encode(table).decode().translate(_JSON_ESCAPES)


def make_content_security_policy(style: str, script: str) -> str:
    """Make the policy of the page: this style, this script, embedded images and fonts."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_make_csp_hash(script)}'",
            f"style-src '{_make_csp_hash(style)}'",
            "img-src data:",
            "font-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def find_headings(html: str) -> list[tuple[str, str, Markup]]:
    """Return anchor, number and title of each numbered section of a page."""
    return [
        (anchor, number, Markup(title))  # noqa: S704 - comes out of the page, so it is escaped
        for anchor, number, title in _HEADING.findall(html)
    ]


def embed_images(html: str, resources: Mapping[str, tuple[bytes, str]], font_css: str = "") -> str:
    """Embed every image in the page; ``data-picture`` keeps its name.

    Args:
        html: A page that addresses its images as for the PDF, such as ``film:NAME``.
        resources: Body and media type by name.
        font_css: CSS of the typeface for figures, which cannot use the font of the page.

    Raises:
        ReportError: An image does not exist.
    """

    def embed(match: re.Match[str]) -> str:
        start, name = match.groups()
        if name not in resources:
            raise ReportError(
                f"The page shows an image “{name}” that was not drawn.",
                "This is a defect of cxr-batch: please report it. The predictions are complete.",
            )
        body, media_type = resources[name]
        if media_type == _SVG_TYPE:
            style = f"<style>{font_css}</style>".encode()
            body = _SVG_TAG.sub(lambda found: found[0] + style, body, count=1)
        return f'{start}data-picture="{name}" src="{make_data_uri(body, media_type)}"'

    return _IMAGE_TAG.sub(embed, html)


def _make_page_font_css(html: str, resources: Mapping[str, tuple[bytes, str]]) -> str:
    """Make CSS of the typeface with the characters of a page and its figures."""
    texts = [
        html,
        *(body.decode() for body, media_type in resources.values() if media_type == _SVG_TYPE),
    ]
    return make_font_css(frozenset().union(*texts))


def _make_csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read_template(name: str) -> str:
    return (files("report_templates") / name).read_text(encoding="utf-8")
