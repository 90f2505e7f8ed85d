"""What every measuring script shares: an error is a sentence, never a traceback."""

from __future__ import annotations

from typing import Any

import click

from batch_scorer.errors import CxrError


class Measurement(click.Command):
    """A click command that tells this project's own errors in one line, with their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and tell an error."""
        try:
            return super().invoke(ctx)
        except CxrError as exc:
            click.echo(f"Error: {exc}", err=True)
            ctx.exit(exc.exit_code)
