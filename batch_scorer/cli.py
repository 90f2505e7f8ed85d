"""The command ``cxr`` itself: its commands, and every error as one line and an exit code.

``cxr`` finds its commands through the entry-point group ``cxr.commands`` and imports a command's
work only when it is called, so that ``cxr --help`` loads nothing heavy.
"""

from __future__ import annotations

import logging
import signal
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

import click

from batch_scorer import __version__
from batch_scorer.errors import (
    EXIT_OK,
    EXIT_RETRY,
    CxrError,
    Interrupted,
)
from batch_scorer.faults import scrub

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger("cxr")


class Commands(click.Group):
    """Commands by entry point, each loaded when it is asked for, each with --debug."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of all commands, without importing them."""
        return sorted(entry_points(group="cxr.commands").names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command, or None if there is none of that name."""
        for entry in entry_points(group="cxr.commands", name=cmd_name):
            return _load(entry)
        return None


def _load(entry: EntryPoint) -> click.Command:
    return _with_debug(entry.load())


def _with_debug(command: click.Command) -> click.Command:
    """Give a command, and every command below it, the option --debug."""
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _with_debug(below)
    if not any(param.name == "debug" for param in command.params):
        show = click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_set_debug,
            help="Show the whole traceback of an error.",
        )
        command.params.append(show)
    return command


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001
    if value:
        log.setLevel(logging.DEBUG)


@click.command(
    cls=Commands,
    context_settings={"auto_envvar_prefix": "CXR", "help_option_names": ["-h", "--help"]},
    epilog="Example: cxr score my-xrays -o out --model all",
)
@click.version_option(__version__, prog_name="cxr-batch")
def cxr() -> None:
    """Read a folder of chest X-rays for pneumonia, and report on it.

    For research and screening studies. Not a medical device.
    """


def main() -> None:
    """Run ``cxr``; turn every expected error into one line and an exit code."""
    sys.excepthook = _unexpected
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way to say Ctrl-C
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        code = cxr.main(standalone_mode=False)
    except CxrError as exc:
        if _debugging():
            raise
        start = "" if isinstance(exc, Interrupted) else "Error: "
        click.echo(f"{start}{scrub(str(exc))}", err=True)
        code = exc.exit_code
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except click.Abort:
        click.echo("Interrupted. Run the same command again.", err=True)
        code = EXIT_RETRY
    sys.exit(code or EXIT_OK)


def _debugging() -> bool:
    return log.isEnabledFor(logging.DEBUG)


def _unexpected(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """What nobody foresaw is a defect: two lines and exit 1; the traceback with --debug."""
    if _debugging():
        sys.__excepthook__(kind, exc, trace)
        return
    text = scrub((str(exc).splitlines() or [""])[0])
    sys.stderr.write(
        f"Error: an unexpected {kind.__name__}: {text}\n"
        "This is a defect of cxr-batch. Run again with --debug and report what it prints.\n"
    )
