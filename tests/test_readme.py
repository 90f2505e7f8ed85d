"""README and manual are true: help blocks and figures are the program's own, links lead somewhere.

``pytest tests/test_readme.py --update-golden`` writes them anew.
"""

from __future__ import annotations

import re

import click
import pytest

from batch_scorer.cli.main import cxr as commands
from batch_scorer.model.classifier import Classifier, list_bundled_models
from batch_scorer.report.content.slides import PUBLISHED_RESULTS
from tests.paths import REPOSITORY

README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"```console\n.*?```|`[^`\n]+`", re.DOTALL)
MAKE = re.compile(r"\bmake\s+([a-z][a-z-]*)")
HELP = re.compile(r"<!-- help: (cxr[ a-z]*) -->\n```text\n(.*?)```", re.DOTALL)
METRICS = re.compile(r"<!-- metrics:start -->\n(.*?)<!-- metrics:end -->", re.DOTALL)
SHOWN = ("accuracy", "precision", "recall", "specificity", "f1", "auc")


def find_command(words: str) -> tuple[click.Command, click.Context]:
    """A command by its words after ``cxr``, and its context."""
    command: click.Command = commands
    shown = {**commands.context_settings, "terminal_width": 100, "max_content_width": 100}
    context = click.Context(commands, info_name="cxr", **shown)
    for word in words.split():
        assert isinstance(command, click.Group)
        command = command.get_command(context, word)
        context = command.context_class(command, parent=context, info_name=word, terminal_width=100)
    return command, context


def help_text(words: str) -> str:
    command, context = find_command(words)
    command._help_option = None  # Click keeps it as another test may have first called for it
    return command.get_help(context) + "\n"


def metrics_table() -> str:
    cards = [Classifier.load(name, "cpu").card for name in list_bundled_models()]
    lines = [
        "| model | accuracy | precision | recall (sensitivity) | specificity | F1 | AUC |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in cards:
        found = card.references["test"].metrics
        cells = [
            f"{found[name].value:.3f} [{found[name].low:.3f}, {found[name].high:.3f}]"
            for name in SHOWN
        ]
        lines.append(f"| {card.title} (`{card.name}`) | " + " | ".join(cells) + " |")
    for name, published in PUBLISHED_RESULTS.items():
        cells = [published.get(column, "") for column in SHOWN]
        lines.append(f"| *{name}* | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def refreshed(text: str) -> str:
    text = HELP.sub(lambda m: f"<!-- help: {m[1]} -->\n```text\n{help_text(m[1][3:])}```", text)
    return METRICS.sub(
        lambda _: f"<!-- metrics:start -->\n{metrics_table()}<!-- metrics:end -->", text
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_help_blocks_and_figures_are_the_program_s_own(page, update_golden):
    text = page.read_text(encoding="utf-8")
    if update_golden:
        page.write_text(refreshed(text), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == refreshed(text), "run pytest --update-golden"


def test_every_command_has_its_help_block_and_the_readme_its_figures():
    shown = {words for page in PAGES for words, _ in HELP.findall(page.read_text(encoding="utf-8"))}
    assert {"cxr", "cxr score", "cxr report", "cxr merge", "cxr train", "cxr export"} <= shown
    assert METRICS.search(README.read_text(encoding="utf-8"))


def anchors_of(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize(
    "words",
    [
        *("score", "merge", "report", "bench", "train", "export", "audit"),
        *("job run", "job finish", "job status"),
    ],
)
def test_every_option_stands_in_the_manual(words):
    command, _ = find_command(words)
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    options = [
        max(param.opts, key=len) for param in command.params if isinstance(param, click.Option)
    ]
    assert options
    assert [option for option in options if option not in text] == []


def test_every_target_that_make_help_lists_stands_in_the_manual_and_no_other():
    makefile = (REPOSITORY / "Makefile").read_text()
    listed = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    pages = [*PAGES, *sorted((REPOSITORY / "deploy").rglob("*.md"))]
    code = [text for page in pages for text in CODE.findall(page.read_text(encoding="utf-8"))]
    named = {name for text in code for name in MAKE.findall(text)}
    assert {"demo", "test", "lint", "models", "clean"} <= listed
    assert sorted(listed - named) == [], "targets that no page names"
    assert sorted(named - listed) == [], "named on a page, and not in make help"
