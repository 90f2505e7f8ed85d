"""The command ``cxr``: its lazily loaded subcommands, and errors as one line and an exit code.

Commands come from the entry-point group ``cxr.commands`` and import their work only when called, so
that ``cxr --help`` loads nothing heavy.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from importlib.metadata import EntryPoint, entry_points
from traceback import format_exception
from typing import TYPE_CHECKING

import click
import cloup

from batch_scorer import __version__
from batch_scorer.errors import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_RETRY,
    AlreadyRunning,
    CxrError,
    Interrupted,
    UsageError,
)
from batch_scorer.system.deadline import exit_process, lock_exit_code
from batch_scorer.system.log import (
    FORMAT_OPTION,
    FORMAT_VARIABLE,
    JSON,
    TEXT,
    find_log_format,
    log_event,
    logs_json,
    redact_for_log,
    set_log_format,
    set_log_level,
)
from batch_scorer.system.process import STOP_SIGNALS
from batch_scorer.system.process_setup import configure_process
from batch_scorer.system.redact import redact_secrets, register_secrets

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger(__name__)
_ENV_PREFIX = "CXR"
_INTERRUPTED = Interrupted("Interrupted.", "Run the same command again.")
_DEFECT_HINT = "This is a defect of cxr-batch. Run again with --debug and report its output."
_PARENTHESES = re.compile(r" \(.*\)", re.DOTALL)
"""Text in which click quotes arguments, which may be image names."""


class _UnexpectedError(CxrError):
    """An error that no code translates: a defect."""

    code = "unexpected"


class LazyGroup(click.Group):
    """Commands from entry points, each loaded when called, with --debug and --log-format."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """List the names of all commands without importing them."""
        return sorted(entry_points(group="cxr.commands").names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command; None if no command has the name."""
        for entry in entry_points(group="cxr.commands", name=cmd_name):
            return _load_command(entry)
        return None


def _load_command(entry: EntryPoint) -> click.Command:
    return _add_common_options(entry.load())


def _add_common_options(command: click.Command) -> click.Command:
    """Add the options --log-format and --debug to a command and all its subcommands."""
    for subcommand in command.commands.values() if isinstance(command, click.Group) else ():
        _add_common_options(subcommand)
    if not any(param.name == "debug" for param in command.params):
        common = [
            click.Option(
                [FORMAT_OPTION],
                type=click.Choice([TEXT, JSON]),
                default=TEXT,
                show_default=True,
                envvar=FORMAT_VARIABLE,
                allow_from_autoenv=False,
                expose_value=False,
                is_eager=True,
                callback=_set_format,
                help="Log format on stderr: text, or one JSON object per line.",
            ),
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_set_debug,
                help="Show the full traceback of an error.",
            ),
        ]
        command.params += common
        if isinstance(command, cloup.Command):
            command.ungrouped_options += common  # cloup copies params when the command is created
    return command


def _set_format(ctx: click.Context, param: click.Parameter, value: str) -> None:  # noqa: ARG001
    set_log_format(value)


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001
    if value:
        set_log_level(logging.DEBUG)


@click.command(
    cls=LazyGroup,
    context_settings={"auto_envvar_prefix": _ENV_PREFIX, "help_option_names": ["-h", "--help"]},
    epilog="Example: cxr score my-xrays -o out --model all",
)
@click.version_option(__version__, prog_name="cxr-batch")
def cxr() -> None:
    """Score chest X-rays for pneumonia, and report on them.

    For research and screening studies. Not a medical device.
    """


def main() -> None:
    """Run ``cxr``; turn every expected error into one line and an exit code."""
    sys.excepthook = _handle_unexpected
    try:
        exit_process(_run())
    except KeyboardInterrupt:  # during the final output
        exit_process(EXIT_RETRY)


def _run() -> int:
    """Run the requested command, and return its exit code."""
    settings = [value for name, value in os.environ.items() if name.startswith(f"{_ENV_PREFIX}_")]
    register_secrets([*sys.argv[1:], *settings])
    set_log_format(find_log_format(sys.argv[1:], os.environ))
    set_log_level(logging.INFO)
    configure_process()
    try:
        STOP_SIGNALS.install()
        with STOP_SIGNALS.raise_if_received():
            code = cxr.main(standalone_mode=False) or EXIT_OK
    except CxrError as exc:
        prefix = "" if isinstance(exc, Interrupted) else "Error: "
        trace = "".join(format_exception(exc)) if _is_debug() else ""
        _print_error(f"{trace}{prefix}{exc}", exc, trace)
        code = exc.exit_code
    except click.ClickException as exc:
        exc.show(text := io.StringIO())
        _print_error(
            text.getvalue().rstrip(), UsageError(_PARENTHESES.sub("", exc.format_message()))
        )
        code = exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        _print_error(str(_INTERRUPTED), _INTERRUPTED)
        code = EXIT_RETRY
    log_event("exit", exit_code=code)
    return int(code)


def _print_error(text: str, error: CxrError, trace: str = "") -> None:
    """Print an error as text or as one JSON line; only JSON carries the traceback separately."""
    if not logs_json():
        click.echo(redact_secrets(text), err=True)
        return
    level = logging.WARNING if isinstance(error, (Interrupted, AlreadyRunning)) else logging.ERROR
    sentence, hint = (redact_for_log(part, error.private) for part in (error.sentence, error.hint))
    log_event("error", level, code=error.code, sentence=sentence, hint=hint, traceback=trace)


def _is_debug() -> bool:
    return log.isEnabledFor(logging.DEBUG)


def _handle_unexpected(
    kind: type[BaseException], exc: BaseException, trace: TracebackType | None
) -> None:
    """Report a defect in two lines and exit with 1; print the traceback with --debug."""
    if logs_json():  # only --debug logs its text, which may quote anything
        text = "".join(format_exception(kind, exc, trace)) if _is_debug() else ""
        defect = _UnexpectedError(f"An unexpected {kind.__name__}.", _DEFECT_HINT)
        _print_error("", defect, text)
        log_event("exit", exit_code=EXIT_FAILED)
    elif _is_debug():
        sys.stderr.write(redact_secrets("".join(format_exception(kind, exc, trace))))
    else:
        text = redact_secrets((str(exc).splitlines() or [""])[0])
        sys.stderr.write(f"Error: an unexpected {kind.__name__}: {text}\n{_DEFECT_HINT}\n")
    lock_exit_code(EXIT_FAILED)
