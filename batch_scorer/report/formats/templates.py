"""The one way in which templates are opened: every text escaped, and printable in the typeface."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from batch_scorer.report.content.typeface import replace_unsupported

if TYPE_CHECKING:
    from jinja2 import Template

_MARKUP = re.compile(r"[\\`*<>|]|\](?=[(\[:])|(?<!\w)_|_(?!\w)")
"""Characters that Markdown reads as markup: a bracket only before an address, no underscore inside
a word."""


def load_template(name: str) -> Template:
    """Open a packaged template. What it is given and does not have is an error, not a blank."""
    environment = Environment(
        loader=PackageLoader("report_templates", ""),
        autoescape=select_autoescape(disabled_extensions=["md.j2"], default=True),
        undefined=StrictUndefined,
        finalize=_finalize_markdown if name.endswith(".md.j2") else _finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _finalize(value: Any) -> Any:
    """Every text that a template prints, in characters that the typeface has."""
    return replace_unsupported(value) if _is_plain_text(value) else value


def _finalize_markdown(value: Any) -> Any:
    """Replace what the typeface lacks, and escape what Markdown would take for markup."""
    return _MARKUP.sub(r"\\\g<0>", _finalize(value)) if _is_plain_text(value) else value


def _is_plain_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Markup)
