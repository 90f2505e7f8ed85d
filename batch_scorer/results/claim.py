"""Make an output this program's own, or refuse it, before anything is written.

An output with a record (see `output`) is the program's. One without is taken where nothing lies
under the names of a run, or where a version that kept no record left a run there: what that run can
be shown to have written goes into the record with its content, the rest by its name alone, so that
it is kept below ``earlier/`` when it is replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batch_scorer.errors import LedgerError
from batch_scorer.results import checkpoint, store
from batch_scorer.storage.output import MOST_TABLE_BYTES, digest

if TYPE_CHECKING:
    from batch_scorer.storage.output import Output, Record


def claim_run(output: Output, old: Record | None = None) -> None:
    """Claim the output of a run.

    Args:
        output: Where the run goes.
        old: What `check_run` gave, where it was asked before.

    Raises:
        ForeignFile: Something under a run's names was not written by this program, or a link leads
            elsewhere. Nothing was written.
        LedgerError: The output cannot be read or written.
    """
    old = check_run(output) if old is None else old
    output.prepare()
    if not output.claimed:
        output.enter(old)


def check_run(output: Output) -> Record:
    """Make sure that a run could claim an output, and write nothing.

    Returns:
        What a version that kept no record left there.

    Raises:
        ForeignFile: It could not.
        LedgerError: The output cannot be read.
    """
    output.refuse_links(store.FILMS_FOLDER, checkpoint.FOLDER)
    claimed = output.claimed
    old = None if claimed else _find_unrecorded_run(output)
    if not claimed and old is None:
        output.refuse_foreign_folders(store.FILMS_FOLDER, checkpoint.FOLDER)
    output.refuse_foreign_files(store.RUN_FILES, old or {})
    return old or {}


def _find_unrecorded_run(output: Output) -> Record | None:
    """What a version that kept no record left in an output: a finished run, or a journal."""
    try:
        manifest = store.read_manifest(output)
    except LedgerError:
        manifest = None
    if manifest is None:
        return {} if checkpoint.find_own(output) else None
    contents = {name: output.read(name, MOST_TABLE_BYTES) for name in store.RUN_FILES}
    found: Record = {name: [] for name, data in contents.items() if data is not None}
    stated = {
        store.CSV_FILE: manifest.rows_sha256,
        store.PARQUET_FILE: manifest.parquet_sha256,
        store.RUN_FILE: digest(contents[store.RUN_FILE] or b""),
    }
    found |= {name: [sha256] for name, sha256 in stated.items()}
    return found | _find_pictures(output)


def _find_pictures(output: Output) -> Record:
    """The pictures that are named after a film of the run."""
    try:
        rows = store.read_run(output).rows
    except LedgerError:
        return {}
    stems = {store.thumbnail_stem(row) for row in rows}
    names = [name for name in store.find_pictures(output) if Path(name).stem[:16] in stems]
    return {name: [digest(output.read(name) or b"")] for name in names}
