"""Ways to change a report that was drawn."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
import pikepdf

from batch_scorer.report.content.statements import Statements
from batch_scorer.results.schema import RunManifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BIG = 40
"""Only the big numbers of page 1 are set larger, in CSS pixels."""


def attach(pdf: pikepdf.Pdf, name: str, data: bytes) -> None:
    """Put other bytes in the place of an attached file."""
    pdf.attachments[name].get_file()  # it is there
    pdf.attachments[name] = pikepdf.AttachedFileSpec(pdf, data, filename=name)


def read(pdf: pikepdf.Pdf, name: str) -> bytes:
    return pdf.attachments[name].get_file().read_bytes()


def change_manifest(pdf: pikepdf.Pdf, **changes: object) -> None:
    manifest = msgspec.json.decode(read(pdf, "run.json"), type=RunManifest)
    attach(pdf, "run.json", msgspec.json.encode(msgspec.structs.replace(manifest, **changes)))


def change_statements(pdf: pikepdf.Pdf, **changes: object) -> None:
    statements = msgspec.json.decode(read(pdf, "statements.json"), type=Statements)
    changed = msgspec.structs.replace(statements, **changes)
    attach(pdf, "statements.json", msgspec.json.encode(changed))


def clear_a_flag(pdf: pikepdf.Pdf) -> None:
    """Say of a flagged image in the rows that it was not flagged."""
    table = read(pdf, "predictions.csv").decode()
    changed, number = re.subn(r",PNEUMONIA,(?=0\.)", ",NORMAL,", table, count=1)
    assert number == 1
    attach(pdf, "predictions.csv", changed.encode())


def swap_big_numbers(pdf: pikepdf.Pdf) -> None:
    """Print the number of clear films where the flagged ones stand, and the other way round."""
    program = pikepdf.parse_content_stream(pdf.pages[0])
    places = [
        index + 1
        for index, (operands, operator) in enumerate(program)
        if str(operator) == "Tf" and Decimal(operands[1]) > BIG
    ]
    assert len(places) == 3
    first, second = (program[place] for place in places[:2])
    program[places[0]], program[places[1]] = second, first
    pdf.pages[0].Contents = pdf.make_stream(pikepdf.unparse_content_stream(program))


def tampered(report: Path, tmp_path: Path, *changes: Callable[[pikepdf.Pdf], object]) -> str:
    with pikepdf.open(report) as pdf:
        for change in changes:
            change(pdf)
        pdf.save(tmp_path / "tampered.pdf")
    return str(tmp_path / "tampered.pdf")
