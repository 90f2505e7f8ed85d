"""Worker processes: the same pixels, and whatever becomes of one, a row and no more."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from batch_scorer.errors import DecoderUnavailable, Interrupted, TooLarge
from batch_scorer.imaging import decode_pool as decoder_module
from batch_scorer.imaging.decode import read_image
from batch_scorer.imaging.decode_pool import Decoder, WorkerLimits
from batch_scorer.imaging.grayscale import MAX_PIXELS
from batch_scorer.imaging.limits import LARGE_IMAGE_PIXELS, reserve_pixels
from tests.batch_scorer.imaging.fake_workers import command_of
from tests.batch_scorer.imaging.pixel_table import GREY, ROWS, dicom
from tests.images import encode, make_film
from tests.paths import REPOSITORY
from tests.torture.dicoms import damaged

JPEG = encode(np.random.default_rng(5).integers(0, 255, (90, 90), np.uint8), "JPEG")
FATAL = dicom(GREY, PatientID="FATAL")
SLOW = dicom(GREY, PatientID="SLOW")
FATAL_ONCE = dicom(GREY, PatientID="ONCE")


def pids_of(decoder):
    return {worker._process.pid for worker in decoder._workers}


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def real():
    with Decoder() as decoder:
        yield decoder


@contextmanager
def faked(patch, **limits):
    with Decoder(WorkerLimits(**limits), command_of(patch)) as decoder:
        yield decoder


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_worker_gives_what_this_process_would(real, row):
    there, here = real.read(row.data, [48, 64], isolated=True), read_image(row.data, [48, 64])
    assert np.array_equal(there.pixels[48], here.pixels[48])
    assert np.array_equal(there.pixels[64], here.pixels[64])
    assert (there.width_px, there.height_px) == (here.width_px, here.height_px)
    assert there.error is None


@pytest.mark.parametrize("data", [*[data for data, _ in damaged().values()][:14], b"", b"letter"])
def test_a_worker_tells_the_same_problems(real, data):
    there, here = real.read(data, [48]).error, read_image(data, [48]).error
    assert type(there) is type(here)
    assert str(there) == str(here)


def test_identifiers_come_back_whole_whatever_is_in_them(real):
    hostile = dicom(GREY, PatientID="=1+1\n<b>\u202e" + "x" * 60_000, StudyInstanceUID="1.2.3")
    for data in (hostile, dicom(GREY, PatientID="7", ViewPosition="LL")):
        there, here = real.read(data, [48]), read_image(data, [48])
        assert (there.patient_id, there.study_uid) == (here.patient_id, here.study_uid)
        assert real.read(data, ()).patient_id == here.patient_id != ""


@pytest.mark.parametrize(("value", "burned_in"), [("YES", True), ("NO", False)])
def test_a_worker_tells_what_is_burned_in(real, value, burned_in):
    assert real.read(dicom(GREY, BurnedInAnnotation=value), [48]).burned_in is burned_in


def test_one_worker_is_used_again_and_only_where_it_is_needed():
    with Decoder() as decoder:
        for data in (JPEG, make_film(), encode(GREY, "BMP"), b"letter", encode(GREY, "TIFF")[:2]):
            decoder.read(data, [32])
        decoder.read(encode(GREY, "TIFF"), ())  # nothing to decode
        assert not pids_of(decoder)
        decoder.read(encode(GREY, "TIFF"), [32])
        first = pids_of(decoder)
        decoder.read(dicom(GREY), [32])
        decoder.read(JPEG, [32], isolated=True)
        assert pids_of(decoder) == first
        assert len(first) == 1
        assert decoder.peak_memory_bytes > 10_000_000
    assert not any(is_running(pid) for pid in first)


def test_large_images_do_not_fit_into_shared_memory_but_through_the_pipe(monkeypatch):
    monkeypatch.setattr(decoder_module, "CAPACITY_BYTES", 100)
    with Decoder() as decoder:
        found = decoder.read(dicom(GREY), [32])
    assert np.array_equal(found.pixels[32], read_image(dicom(GREY), [32]).pixels[32])


def test_an_image_that_kills_two_workers_is_a_problem_and_the_next_one_is_decoded():
    with faked("die_of_patients") as decoder:
        error = decoder.read(FATAL, [32]).error
        assert error.code == "decoder_killed"
        assert error.status == "failed"
        assert "more than 1.5 GB of memory or 60 seconds, or crashed the decoder" in str(error)
        assert decoder.read(dicom(GREY), [32]).error is None
        assert decoder.read(FATAL, ()).error.code == "decoder_killed"  # its header does it


def test_an_image_whose_worker_was_killed_once_is_tried_again():
    with Decoder() as decoder:
        decoder.read(dicom(GREY), [32])
        (pid,) = pids_of(decoder)
        os.kill(pid, signal.SIGKILL)
        assert decoder.read(dicom(GREY), [32]).error is None
        assert pid not in pids_of(decoder)


def test_any_kind_goes_to_a_worker_where_care_is_asked_for():
    with faked("die_of_everything") as decoder:
        assert decoder.read(JPEG, [32]).error is None
        assert decoder.read(JPEG, [32], isolated=True).error.code == "decoder_killed"


def test_an_image_that_takes_too_long_is_ended():
    with faked("sleep_at_patients", timeout_s=0.5) as decoder:
        assert decoder.read(SLOW, [32]).error.code == "decoder_killed"
        assert "0.5 seconds" in str(decoder.read(SLOW, [32]).error)


def test_memory_that_runs_out_in_a_worker_that_survives_is_said_plainly():
    with faked("fill_the_memory", memory_bytes=300_000_000) as decoder:
        error = decoder.read(dicom(GREY), [32]).error
        assert isinstance(error, TooLarge)
        assert "more memory than one image may use" in str(error)
        assert len(pids_of(decoder)) == 1


@pytest.mark.parametrize("patch", ["answer_noise", "answer_endlessly", "answer_other_sizes"])
def test_a_worker_that_answers_what_it_should_not_is_not_believed(patch):
    with faked(patch, timeout_s=20) as decoder:
        assert decoder.read(dicom(GREY), [32]).error.code == "decoder_killed"


def test_what_libraries_print_does_not_come_between(capfd):
    with faked("print_everywhere") as decoder:
        assert decoder.read(dicom(GREY), [32]).error is None
    assert capfd.readouterr() == ("", "")


def test_signals_that_a_terminal_sends_to_all_leave_the_decision_to_this_process():
    with Decoder() as decoder:
        decoder.read(dicom(GREY), [32])
        before = pids_of(decoder)
        for pid in before:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        assert decoder.read(dicom(GREY), [32]).error is None
        assert pids_of(decoder) == before


def test_large_images_in_workers_wait_for_each_other_too():
    done = threading.Event()
    with faked("ask_for_much_room") as decoder:

        def read():
            assert decoder.read(dicom(GREY), [32]).error is None
            done.set()

        with reserve_pixels(MAX_PIXELS - LARGE_IMAGE_PIXELS + 1):
            thread = threading.Thread(target=read)
            thread.start()
            wait_for(lambda: len(pids_of(decoder)) == 1)
            assert not done.wait(1)
        assert done.wait(60)
        thread.join()


def test_closing_ends_a_worker_with_an_image_in_hand():
    raised = []
    with faked("sleep_at_patients") as decoder:

        def read():
            with pytest.raises(Interrupted) as caught:
                decoder.read(SLOW, [32])
            raised.append(caught.value)

        thread = threading.Thread(target=read)
        thread.start()
        wait_for(lambda: decoder._workers)
        pids = pids_of(decoder)
        decoder.close()
        thread.join(60)
    assert raised
    assert not any(is_running(pid) for pid in pids)
    with pytest.raises(Interrupted):
        decoder.read(dicom(GREY), [32])


def test_a_decoder_that_is_forgotten_leaves_no_process():
    decoder = Decoder()
    decoder.read(dicom(GREY), [32])
    pids = pids_of(decoder)
    del decoder
    gc.collect()
    assert not any(is_running(pid) for pid in pids)


ORPHANED = """
import os, signal
from batch_scorer.imaging.decode_pool import Decoder
from tests.batch_scorer.imaging.pixel_table import GREY, dicom
decoder = Decoder()
decoder.read(dicom(GREY), [32])
print(*(worker._process.pid for worker in decoder._workers), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_ends_when_its_parent_is_killed():
    run = subprocess.run(
        [sys.executable, "-c", ORPHANED],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL
    (pid,) = map(int, run.stdout.split())
    wait_for(lambda: not is_running(pid) or "Z" in state_of(pid))


def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize(
    "command",
    [("/nowhere/python",), (sys.executable, "-c", "raise SystemExit('no decoders here')")],
)
def test_where_no_worker_can_start_the_run_fails_in_one_sentence(command):
    with (
        Decoder(command=command) as decoder,
        pytest.raises(DecoderUnavailable, match=r"No process can be started .*(No such|no decod)"),
    ):
        decoder.read(dicom(GREY), [32])


def test_a_copy_for_another_process_has_workers_of_its_own(real):
    real.read(dicom(GREY), [32])
    with pickle.loads(pickle.dumps(real)) as copy:
        assert not copy._workers
        assert copy._limits == real._limits
        assert copy.read(dicom(GREY), [32]).error is None
        assert not pids_of(copy) & pids_of(real)


def test_threads_share_the_workers_and_have_no_more_than_one_each():
    with Decoder() as decoder:
        threads = [
            threading.Thread(target=decoder.read, args=(dicom(GREY), [32])) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(pids_of(decoder)) <= 3
