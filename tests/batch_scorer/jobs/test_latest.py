"""``latest/`` always holds the newest run, in whole files, with its marker last."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager

import msgspec
import pytest

from batch_scorer.errors import AlreadyRunning
from batch_scorer.jobs.latest import (
    publish,
    read_newest_manifest,
    read_published_date,
    update_latest,
)
from batch_scorer.results import store
from batch_scorer.storage.output import Output, open_output
from tests.factories import make_manifest, make_models
from tests.servers import AZURE, S3, found_here

MONDAY, TUESDAY, WEDNESDAY = ("20261123-020000", "20261124-020000", "20261125-020000")
NUMBERS = {MONDAY: 1, TUESDAY: 2, WEDNESDAY: 3}
A_FILM, B_FILM = "films/aaaaaaaaaaaaaaaa.jpg", "films/bbbbbbbbbbbbbbbb.jpg"
STOPS = 60
"""More operations than a publisher performs."""


@pytest.fixture
def output(tmp_path):
    return open_output(tmp_path / "out")


def make_image_name(night):
    """Return the name of an image that only this run has."""
    return f"films/{night.replace('-', '0'):0>16}.jpg"


def write_run(output, name, *files):
    """Write a finished run whose files contain its date."""
    night = output.subfolder(f"nights/{name}")
    names = (*files, store.CSV_FILE, store.PARQUET_FILE)
    manifest = make_manifest([], make_models("mlp"), run_date=name)
    contents = {file: f"{file} of {name}".encode() for file in names}
    contents[store.RUN_FILE] = msgspec.json.encode(manifest)
    for file, data in contents.items():  # bypasses the output: a bucket would be slow
        path = f"{night.root}/{file}"
        night.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        night.filesystem.pipe_file(path, data)
    return night


def publish_run(output, name, guard=lambda: None):
    return publish(output, NUMBERS[name], name, guard)


def in_latest(output):
    """Read the files of ``latest/``, and the run date of its run.json."""
    names = [name.removeprefix("latest/") for name in output.list_files("latest")]
    found = {name: output.read(f"latest/{name}").decode() for name in names}
    if store.RUN_FILE in found:
        found[store.RUN_FILE] = msgspec.json.decode(found[store.RUN_FILE])["run_date"]
    return found


def files_of_run(name, *files):
    tables = (store.CSV_FILE, store.PARQUET_FILE)
    return {file: f"{file} of {name}" for file in (*files, *tables)} | {store.RUN_FILE: name}


def test_a_run_replaces_all_files_of_the_run_before(output):
    write_run(output, MONDAY, "report.pdf", "report.html", A_FILM)
    publish_run(output, MONDAY)
    assert in_latest(output) == files_of_run(MONDAY, "report.pdf", "report.html", A_FILM)
    write_run(output, TUESDAY, "report.pdf", B_FILM)
    assert publish_run(output, TUESDAY) == f"{output.url}/latest"
    assert in_latest(output) == files_of_run(TUESDAY, "report.pdf", B_FILM)


def test_the_mark_is_written_last_and_old_files_go_after_it(output, monkeypatch):
    write_run(output, MONDAY, A_FILM)
    publish_run(output, MONDAY)
    write_run(output, TUESDAY, B_FILM, "report.pdf")
    told = []
    for name in ("_put", "_unlink"):
        real = getattr(Output, name)

        def noted(self, file, *args, real=real, name=name):
            if self.url.endswith("/latest") and not file.startswith("."):
                told.append((name, file))
            return real(self, file, *args)

        monkeypatch.setattr(Output, name, noted)
    publish_run(output, TUESDAY)
    writes = [file for name, file in told if name == "_put"]
    assert writes[-1] == store.RUN_FILE
    assert told[len(writes) :] == [("_unlink", A_FILM)]


def test_a_task_that_lost_its_lease_publishes_nothing(output):
    write_run(output, MONDAY)
    publish_run(output, MONDAY)
    write_run(output, TUESDAY)

    def guard():
        raise AlreadyRunning("Another task took over finish.")

    with pytest.raises(AlreadyRunning):
        publish_run(output, TUESDAY, guard)
    assert read_published_date(output) == MONDAY
    assert in_latest(output) == files_of_run(MONDAY)


def test_an_older_run_never_comes_back(output):
    for name in (TUESDAY, MONDAY):
        write_run(output, name, make_image_name(name))
        publish_run(output, name)
    assert read_published_date(output) == TUESDAY
    assert in_latest(output) == files_of_run(TUESDAY, make_image_name(TUESDAY))


def test_latest_of_a_version_without_published_is_carried_on(output):
    write_run(output, MONDAY)
    publish_run(output, MONDAY)
    for path in sorted(output.filesystem.find(f"{output.root}/published")):
        output.filesystem.rm_file(path)
    assert read_published_date(output) == MONDAY
    assert read_newest_manifest(output).run_date == MONDAY
    write_run(output, TUESDAY)
    publish_run(output, TUESDAY)
    assert in_latest(output) == files_of_run(TUESDAY)


def test_a_run_whose_own_folder_is_gone_stays_in_latest(output):
    night = write_run(output, MONDAY)
    publish_run(output, MONDAY)
    output.filesystem.rm(night.root, recursive=True)
    update_latest(output)
    assert in_latest(output) == files_of_run(MONDAY)
    assert read_newest_manifest(output).run_date == MONDAY


class Killed(BaseException):
    """An exception that the publisher never catches."""


@contextmanager
def stopping(number, act):
    """Call ``act`` in the publisher's thread before its n-th change of the storage."""
    publisher = threading.current_thread()
    count = 0

    def wrap(real):
        def stopped(self, *args, **options):
            nonlocal count
            if threading.current_thread() is publisher:
                count += 1
                if count == number:
                    act()
            return real(self, *args, **options)

        return stopped

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_put", "_create", "_unlink"):
            patch.setattr(Output, name, wrap(getattr(Output, name)))
        yield lambda: count


def run_elsewhere(work):
    """Do some work in another thread, like another task, and wait for it."""
    errors = []

    def run():
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


@pytest.fixture(params=["disk", S3, AZURE])
def storage(request, tmp_path, clouds):
    """A folder for outputs on disk, or in a bucket of a real server."""
    if request.param == "disk":
        yield str(tmp_path)
        return
    cloud = clouds[request.param]
    bucket = f"latest-{request.node.name.partition('[')[0].replace('_', '')[-20:]}"
    with ExitStack() as stack:
        stack.enter_context(found_here(cloud))
        cloud.filesystem().mkdir(bucket)
        yield f"{cloud.protocol}://{bucket}"


def make_two_run_dates(stop):
    """Return two run dates that no other stop uses."""
    return [f"2026{1 + stop // 28:02d}{1 + stop % 28:02d}-0{hour}0000" for hour in (1, 2)]


def write_two_runs(output, stop):
    """Write two finished runs after all published ones; return their dates and numbers."""
    names = make_two_run_dates(stop)
    for name in names:
        write_run(output, name, "report.pdf", make_image_name(name))
    return names, [2 * stop, 2 * stop + 1]


def is_right(output, name):
    return in_latest(output) == files_of_run(name, "report.pdf", make_image_name(name))


def stop_everywhere(storage, act):
    """Overtake a publisher before each of its operations, then do ``act``."""
    output = open_output(f"{storage}/out")
    if output.local:
        output.prepare()
    for stop in range(1, STOPS):
        (first, second), (number, next_number) = write_two_runs(output, stop)

        def overtake(second=second, next_number=next_number):
            run_elsewhere(lambda: publish(output, next_number, second, lambda: None))
            assert is_right(output, second)
            act()

        with stopping(stop, overtake) as operations:
            try:
                publish(output, number, first, lambda: None)
            except Killed:
                update_latest(output)  # as a run without new images does
        stopped = operations() >= stop
        assert read_published_date(output) == (second if stopped else first)
        assert is_right(output, read_published_date(output)), f"stopped before operation {stop}"
        if not stopped:
            return stop
    return pytest.fail("there were more operations than stops")


def test_a_publisher_that_was_paused_anywhere_reverts_nothing(storage):
    assert stop_everywhere(storage, lambda: None) > 10


def test_the_next_run_repairs_what_a_killed_publisher_left(storage):
    def die():
        raise Killed

    assert stop_everywhere(storage, die) > 10
