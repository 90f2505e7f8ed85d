"""``latest/``: the newest finished night, under a name that does not change.

Every file of it is replaced whole, and run.json last; nothing of the older night is removed before
the newer one stands. Between the first file and the last, files of two nights lie side by side: the
report is consistent at every moment, since it carries its rows and its run; who reads the rows and
run.json together compares the hash, as `ledger.read_run` does, or reads the night's own folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch_scorer import ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch_scorer.output import Output
    from batch_scorer.records import RunManifest, Score

FOLDER = "latest"


def read_latest(output: Output) -> RunManifest | None:
    """What run.json of the newest finished night says; None where none has finished yet.

    Raises:
        LedgerError: It cannot be read.
    """
    return ledger.read_manifest(output.below(FOLDER))


def read_earlier(output: Output, nights_folder: str) -> tuple[RunManifest, list[Score]] | None:
    """The newest finished night with its rows, from its own folder while that is there.

    Raises:
        LedgerError: It cannot be read.
    """
    newest = read_latest(output)
    if newest is None:
        return None
    own = output.below(f"{nights_folder}/{newest.night}")
    return ledger.read_run(own if ledger.read_manifest(own) else output.below(FOLDER))


def publish(output: Output, night: Output, guard: Callable[[], None]) -> str:
    """Put a finished night into ``latest/``.

    Args:
        output: The place of all nights.
        night: The night's own place.
        guard: Called before the first and before the last file; raises where this process may not
            write them.

    Returns:
        Where it is.

    Raises:
        LedgerError: A file cannot be read or written.
    """
    place = output.below(FOLDER)
    pictures = night.names(ledger.FILMS_FOLDER)
    guard()
    absent = {
        name for name in pictures + list(ledger.RUN_FILES[:-1]) if not _copy(night, place, name)
    }
    guard()
    _copy(night, place, ledger.RUN_FILE)
    place.remove(*absent, *sorted(set(place.names(ledger.FILMS_FOLDER)) - set(pictures)))
    return place.url


def _copy(night: Output, place: Output, name: str) -> bool:
    """Copy a file where it is there; say whether it is."""
    data = night.read(name)
    if data is not None:
        place.write(name, data)
    return data is not None
