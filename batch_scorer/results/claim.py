"""Make an output this program's own, or refuse it, before anything is written.

An output with a record (see `output`) is the program's. One without is taken where nothing lies
under the names of a run, or where a version that kept no record left a run there: what that run can
be shown to have written goes into the record with its content, the rest by its name alone, so that
it is kept below ``earlier/`` when it is replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batch_scorer.errors import OutputError
from batch_scorer.results import checkpoint, store
from batch_scorer.storage.output import MAX_TABLE_READ_BYTES, sha256_hex

if TYPE_CHECKING:
    from batch_scorer.storage.output import Output, OwnershipRecord


def claim_run(output: Output, old: OwnershipRecord | None = None) -> None:
    """Claim the output of a run.

    Args:
        output: Where the run goes.
        old: What `check_run` gave, where it was asked before.

    Raises:
        ForeignFile: Something under a run's names was not written by this program, or a link leads
            elsewhere. Nothing was written.
        LedgerError: The output cannot be read or written.
    """
    old = check_claimable(output) if old is None else old
    output.prepare()
    if not output.has_record:
        output.add_to_record(old)


def check_claimable(output: Output) -> OwnershipRecord:
    """Make sure that a run could claim an output, and write nothing.

    Returns:
        What a version that kept no record left there.

    Raises:
        ForeignFile: It could not.
        LedgerError: The output cannot be read.
    """
    output.refuse_links(store.IMAGES_FOLDER, checkpoint.CHECKPOINT_FOLDER)
    claimed = output.has_record
    old = None if claimed else _find_unrecorded_run(output)
    if not claimed and old is None:
        output.refuse_foreign_folders(store.IMAGES_FOLDER, checkpoint.CHECKPOINT_FOLDER)
    output.refuse_foreign_files(store.RUN_FILES, old or {})
    return old or {}


def _find_unrecorded_run(output: Output) -> OwnershipRecord | None:
    """What a version that kept no record left in an output: a finished run, or a journal."""
    try:
        manifest = store.read_manifest(output)
    except OutputError:
        manifest = None
    if manifest is None:
        return {} if checkpoint.find_checkpoint_files(output) else None
    contents = {name: output.read(name, MAX_TABLE_READ_BYTES) for name in store.RUN_FILES}
    found: OwnershipRecord = {name: [] for name, data in contents.items() if data is not None}
    stated = {
        store.CSV_FILE: manifest.rows_sha256,
        store.PARQUET_FILE: manifest.parquet_sha256,
        store.RUN_FILE: sha256_hex(contents[store.RUN_FILE] or b""),
    }
    found |= {name: [sha256] for name, sha256 in stated.items()}
    return found | _find_report_images(output)


def _find_report_images(output: Output) -> OwnershipRecord:
    """The pictures that are named after a film of the run."""
    try:
        rows = store.read_run(output).rows
    except OutputError:
        return {}
    stems = {store.thumbnail_stem(row) for row in rows}
    names = [name for name in store.find_report_images(output) if Path(name).stem[:16] in stems]
    return {name: [sha256_hex(output.read(name) or b"")] for name in names}
