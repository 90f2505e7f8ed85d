"""``latest/``: whole files, the mark last, and nothing withdrawn before the newer night stands."""

from __future__ import annotations

import pytest

from batch_scorer import ledger
from batch_scorer.errors import Occupied
from batch_scorer.job.latest import publish
from batch_scorer.output import open_output


@pytest.fixture
def output(tmp_path):
    return open_output(tmp_path / "out")


def write_night(output, name, *files):
    night = output.below(f"nights/{name}")
    for file in (*files, ledger.CSV_FILE, ledger.RUN_FILE):
        night.write(file, f"{file} of {name}".encode())
    return night


def in_latest(output):
    names = [name.removeprefix("latest/") for name in output.names("latest")]
    return {name: output.read(f"latest/{name}").decode() for name in names}


def test_a_night_replaces_all_files_of_the_one_before(output):
    first = write_night(output, "monday", "report.pdf", "report.html", "films/a.jpg")
    publish(output, first, lambda: None)
    assert in_latest(output)["report.html"] == "report.html of monday"
    second = write_night(output, "tuesday", "report.pdf", "films/b.jpg")
    assert publish(output, second, lambda: None) == f"{output.url}/latest"
    assert in_latest(output) == {
        name: f"{name} of tuesday"
        for name in ("report.pdf", "films/b.jpg", ledger.CSV_FILE, ledger.RUN_FILE)
    }


def test_the_mark_is_written_last_and_old_files_go_after_it(output, monkeypatch):
    publish(output, write_night(output, "monday", "films/a.jpg"), lambda: None)
    told = []
    for name in ("write", "remove"):
        real = getattr(type(output), name)

        def noted(self, *args, real=real, name=name):
            told.append((name, args[0] if args else ""))
            return real(self, *args)

        monkeypatch.setattr(type(output), name, noted)
    night = write_night(output, "tuesday", "films/b.jpg", "report.pdf")
    told.clear()
    publish(output, night, lambda: None)
    writes = [file for name, file in told if name == "write"]
    assert writes[-1] == ledger.RUN_FILE
    assert told[-1][0] == "remove"
    assert [name for name, _ in told].index("remove") == len(writes)


def test_who_lost_the_lease_writes_no_mark(output):
    publish(output, write_night(output, "monday"), lambda: None)
    checks = iter([None, Occupied("Another task took over finish.")])

    def guard():
        if error := next(checks):
            raise error

    with pytest.raises(Occupied):
        publish(output, write_night(output, "tuesday"), guard)
    assert in_latest(output)[ledger.RUN_FILE] == f"{ledger.RUN_FILE} of monday"
