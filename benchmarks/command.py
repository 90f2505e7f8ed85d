"""What measuring scripts share: an error is a sentence."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from batch_scorer.errors import CxrError, MissingPackage

if TYPE_CHECKING:
    from collections.abc import Iterator


class BenchmarkCommand(click.Command):
    """A click command that tells this project's own errors in one line, with their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and tell an error."""
        try:
            return super().invoke(ctx)
        except CxrError as exc:
            click.echo(f"Error: {exc}", err=True)
            ctx.exit(exc.exit_code)


@contextmanager
def require_packages() -> Iterator[None]:
    """Import what scoring does not need in here: without it, a sentence ends the measurement."""
    try:
        yield
    except ModuleNotFoundError as exc:
        missing = MissingPackage(
            f"This measurement needs the package {exc.name}, which is not installed.",
            "Install what measurements need with: make dev",
        )
        click.echo(f"Error: {missing}", err=True)
        sys.exit(missing.exit_code)
