"""Pages, help texts and docstrings use none of a short list of stilted phrases.

docs/article.md and the report's own sentences come from report_templates, which are not held to
this list yet.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import click
import pytest

from batch_scorer.cli.main import cxr
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

BANNED = re.compile(
    r"""\b(
    (?<!there\ )is\ no\ (?!longer|more|less)
    | stands?\ in | what\ stands
    | anew | elsewhere | so\ many | other\ ones | all\ the\ same | at\ hand
    | by\ its\ name | that\ it\ is(?=[.,;:)])
    | go(es|ing)?\ on\ with | tak(e|es|en|ing)\ over | settled
    | told(?!\ apart)
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)
OPENING = re.compile(r"\W*(What|Which|Where|How|Whose|Whether|So|Of)\b")
"""A help text or docstring starts with a verb or a noun instead."""
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
"""Output and code; the help blocks are checked where the program has them."""
PAGES = [
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "docs").glob("*.md"),
    *(REPOSITORY / "deploy").rglob("*.md"),
]
GENERATED = REPOSITORY / "docs" / "article.md"
HISTORY = REPOSITORY / "CHANGELOG.md"
PACKAGES = ("batch_scorer", "trainer", "exporter", "report_templates")


def find_banned(text: str) -> list[str]:
    """Return each banned phrase with the words around it, line breaks as spaces."""
    text = " ".join(text.split())
    return [text[max(0, m.start() - 30) : m.end() + 20] for m in BANNED.finditer(text)]


def iter_help(command: click.Command) -> Iterator[str]:
    """Yield every help text of a command and of the commands below it."""
    yield from filter(None, (command.help, command.short_help, command.epilog))
    yield from (option.help for option in command.params if getattr(option, "help", None))
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from iter_help(command.get_command(context, name))


def iter_docstrings(package: str) -> Iterator[tuple[str, str]]:
    """Yield place and text of every docstring, those of attributes too."""
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Expr(ast.Constant(str(text))):
                    yield f"{path.relative_to(REPOSITORY)}:{node.lineno}", text


@pytest.mark.parametrize(
    "page",
    sorted({*PAGES} - {GENERATED, HISTORY}),
    ids=lambda page: str(page.relative_to(REPOSITORY)),
)
def test_pages_use_no_banned_phrase(page):
    assert find_banned(FENCE.sub("", page.read_text(encoding="utf-8"))) == []


def test_help_texts_use_no_banned_phrase():
    texts = list(iter_help(cxr))
    assert len(texts) > 100
    assert [found for text in texts for found in find_banned(text)] == []
    assert [text for text in texts if OPENING.match(text)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_use_no_banned_phrase(package):
    docstrings = list(iter_docstrings(package))
    assert docstrings
    assert [(place, found) for place, text in docstrings for found in find_banned(text)] == []
    assert [(place, text[:40]) for place, text in docstrings if OPENING.match(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "A name that is no UTF-8.",
        "It goes on with the same command.",
        "See what stands on standard error.",
        "Rows are taken\nover.",
        "TOLD in words.",
    ],
)
def test_a_banned_phrase_is_found(text):
    assert len(find_banned(text)) == 1


@pytest.mark.parametrize(
    "text", ["There is no row.", "It is no longer there.", "They cannot be told apart."]
)
def test_a_plain_phrase_is_not(text):
    assert find_banned(text) == []
