"""cxr audit: click options -> audit_dataset -> page and JSON."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from batch_scorer.cli.options import FolderPath
from batch_scorer.errors import EXIT_OK, MissingPackage
from batch_scorer.system.redact import redact_secrets

log = logging.getLogger(__name__)


@click.command(epilog="Example: cxr audit chest_xray -o out/audit")
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o",
    "--output",
    required=True,
    type=FolderPath(),
    help="Output folder for audit.html and audit.json.",
)
@click.option(
    "--test/--no-test",
    "open_test",
    default=True,
    show_default=True,
    help="Also use the labels of the official test images.",
)
def audit(data: Path, output: Path, *, open_test: bool) -> int:
    """Find leakage, duplicates and shortcuts in a labelled data set.

    DATA holds the folders NORMAL and PNEUMONIA, or train, val and test with these folders inside.
    The audit changes nothing in DATA, and lists files that it cannot read.
    """
    try:
        from trainer.audit.audit import audit_dataset
        from trainer.audit.findings import NO_FINDINGS, list_findings
        from trainer.audit.html import N_WORST, check_writable, write_audit
    except ModuleNotFoundError as exc:
        raise MissingPackage(
            f"Expected the package {exc.name} for the audit, found none.",
            'Install it with: pip install "cxr-batch[audit]"',
        ) from exc

    check_writable(output)
    log.info("1 read      %s", data)
    report = audit_dataset(data, open_test=open_test)
    log.info("2 write     %s", output)
    page = write_audit(report, output)
    findings = list_findings(report)
    click.echo(redact_secrets(f"Page      {page}"))
    click.echo(f"Images    {report.images:,}, and {len(report.unusable):,} unusable files")
    for number, finding in enumerate(findings[:N_WORST], 1):
        click.echo(f"Worst {number}   {finding.title}. {finding.text}")
    if not findings:
        click.echo(NO_FINDINGS)
    return EXIT_OK
