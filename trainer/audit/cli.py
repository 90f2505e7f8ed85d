"""The command ``cxr audit``: click options -> audit_dataset -> page and JSON."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from batch_scorer.cli.options import FolderPath
from batch_scorer.errors import EXIT_OK, MissingPackage
from batch_scorer.system.redact import redact_secrets

log = logging.getLogger("cxr")


@click.command(epilog="Example: cxr audit chest_xray -o out/audit")
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o",
    "--output",
    required=True,
    type=FolderPath(),
    help="Folder for audit.html and audit.json.",
)
@click.option(
    "--test/--no-test",
    "open_test",
    default=True,
    show_default=True,
    help="Look at the labels of the official test films too.",
)
def audit(data: Path, output: Path, *, open_test: bool) -> int:
    """Say what is wrong with the labelled films in DATA: leakage, copies, shortcuts.

    DATA has the folders NORMAL and PNEUMONIA, or train, val and test that have them. Nothing in
    it is changed, and a film that cannot be read is listed.
    """
    try:
        from trainer.audit.audit import audit_dataset
        from trainer.audit.findings import NO_FINDINGS, list_findings
        from trainer.audit.html import N_WORST, check_writable, write_audit
    except ModuleNotFoundError as exc:
        raise MissingPackage(
            f"The audit needs the package {exc.name}, which is not installed.",
            'Install it with: pip install "cxr-batch[audit]"',
        ) from exc

    check_writable(output)
    log.info("1 read      %s", data)
    found = audit_dataset(data, open_test=open_test)
    log.info("2 write     %s", output)
    page = write_audit(found, output)
    findings = list_findings(found)
    click.echo(redact_secrets(f"Page      {page}"))
    click.echo(f"Images    {found.images:,}, and {len(found.unusable):,} files that cannot be used")
    for number, finding in enumerate(findings[:N_WORST], 1):
        click.echo(f"Worst {number}   {finding.title}. {finding.text}")
    if not findings:
        click.echo(NO_FINDINGS)
    return EXIT_OK
