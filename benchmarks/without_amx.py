"""Run a command as on a processor without AMX, which makes int8 files several times as fast.

Linux grants a process AMX on request. A system call filter refuses it to the command and its
children, so one machine can measure both speeds. Needs x86-64 Linux with libseccomp.

Source: Linux's documentation, "Using XSTATE features in user space applications".
"""

from __future__ import annotations

import errno
import os

import click

from batch_scorer.system.process import ARCH_REQ_XCOMP_PERM
from benchmarks.command import BenchmarkCommand, require_packages

with require_packages():
    import pyseccomp as seccomp


@click.command(
    cls=BenchmarkCommand,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: python benchmarks/without_amx.py python benchmarks/end_to_end.py originals",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(command: tuple[str, ...]) -> None:
    """Run COMMAND without AMX and exit with its exit code."""
    disable_amx()
    try:
        os.execvp(command[0], command)  # noqa: S606 - the user's own command
    except OSError as exc:
        raise click.UsageError(f"Expected a command, found {command[0]}: {exc.strerror}.") from exc


def disable_amx() -> None:
    """Disable AMX for this process and all its children."""
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    refused = seccomp.Arg(0, seccomp.EQ, ARCH_REQ_XCOMP_PERM)
    rules.add_rule(seccomp.ERRNO(errno.EPERM), "arch_prctl", refused)
    rules.load()


if __name__ == "__main__":
    main()
