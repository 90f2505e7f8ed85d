"""The command class of the benchmark scripts: errors print as one sentence."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from batch_scorer.errors import CxrError, MissingPackage

if TYPE_CHECKING:
    from collections.abc import Iterator


class BenchmarkCommand(click.Command):
    """A click command that prints this project's errors in one line and exits with their code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; print an error of this project."""
        try:
            return super().invoke(ctx)
        except CxrError as exc:
            click.echo(f"Error: {exc}", err=True)
            ctx.exit(exc.exit_code)


@contextmanager
def require_packages() -> Iterator[None]:
    """Import packages that scoring does not need; print an error and exit if one is missing."""
    try:
        yield
    except ModuleNotFoundError as exc:
        missing = MissingPackage(
            f"This measurement needs the package {exc.name}, which is not installed.",
            "Install what measurements need with: make dev",
        )
        click.echo(f"Error: {missing}", err=True)
        sys.exit(missing.exit_code)
