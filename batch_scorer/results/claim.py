"""Claims of an output for a run, made before anything is written.

An output with a record (see `output`) belongs to the program. One without a record can be claimed
if it holds no file with the name of a run's file, or holds a run of a version without records.
Files that provably belong to that run enter the record with their content. The others enter it by
name alone, so that they are kept below ``earlier/`` when they are replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batch_scorer.errors import OutputError
from batch_scorer.results import checkpoint, store
from batch_scorer.storage.output import MAX_TABLE_READ_BYTES, sha256_hex

if TYPE_CHECKING:
    from batch_scorer.storage.output import Output, OwnershipRecord


def claim_run(output: Output, unrecorded: OwnershipRecord | None = None) -> None:
    """Claim the output of a run.

    Args:
        output: The output of the run.
        unrecorded: The result of `check_claimable`, if the caller has it.

    Raises:
        ForeignFile: A file with the name of a run's file is not the program's, or a folder is a
            link. Nothing was written.
        OutputError: The output cannot be read or written.
    """
    unrecorded = check_claimable(output) if unrecorded is None else unrecorded
    output.prepare()
    if not output.has_record:
        output.add_to_record(unrecorded)


def check_claimable(output: Output) -> OwnershipRecord:
    """Check that a run can claim an output; write nothing.

    Returns:
        The files of a run by a version without records.

    Raises:
        ForeignFile: It cannot.
        OutputError: The output cannot be read.
    """
    output.refuse_links(store.IMAGES_FOLDER, checkpoint.CHECKPOINT_FOLDER)
    claimed = output.has_record
    old = None if claimed else _find_unrecorded_run(output)
    if not claimed and old is None:
        output.refuse_foreign_folders(store.IMAGES_FOLDER, checkpoint.CHECKPOINT_FOLDER)
    output.refuse_foreign_files(store.RUN_FILES, old or {})
    return old or {}


def _find_unrecorded_run(output: Output) -> OwnershipRecord | None:
    """Find the files of a run without a record: none for checkpoints alone, None for no run."""
    try:
        manifest = store.read_manifest(output)
    except OutputError:
        manifest = None
    if manifest is None:
        return {} if checkpoint.find_checkpoint_files(output) else None
    contents = {name: output.read(name, MAX_TABLE_READ_BYTES) for name in store.RUN_FILES}
    found: OwnershipRecord = {name: [] for name, data in contents.items() if data is not None}
    known_hashes = {
        store.CSV_FILE: manifest.rows_sha256,
        store.PARQUET_FILE: manifest.parquet_sha256,
        store.RUN_FILE: sha256_hex(contents[store.RUN_FILE] or b""),
    }
    found |= {name: [sha256] for name, sha256 in known_hashes.items()}
    return found | _find_report_images(output)


def _find_report_images(output: Output) -> OwnershipRecord:
    """Find the report images that are named after an image of the run."""
    try:
        rows = store.read_run(output).rows
    except OutputError:
        return {}
    stems = {store.thumbnail_stem(row) for row in rows}
    names = [name for name in store.find_report_images(output) if Path(name).stem[:16] in stems]
    return {name: [sha256_hex(output.read(name) or b"")] for name in names}
