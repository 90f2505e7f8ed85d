"""Load Jinja2 templates: every text is escaped and printable in the typeface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from batch_scorer.report.content.typeface import replace_unsupported

if TYPE_CHECKING:
    from jinja2 import Template


def load_template(name: str) -> Template:
    """Load a packaged template. A missing variable is an error, not a blank."""
    environment = Environment(
        loader=PackageLoader("report_templates", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _finalize(value: Any) -> Any:
    """Replace what the typeface lacks in every text that a template prints."""
    return (
        replace_unsupported(value)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )
