"""Nothing is lost or done twice after kills, restarts, new images, new models and full disks."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from batch_scorer.engine.run_plan import config_hash
from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import Interrupted, OutputError
from batch_scorer.imaging import decode_pool
from batch_scorer.results import store, thumbnails
from batch_scorer.results.checkpoint import CHECKPOINT_FOLDER, Checkpoint
from batch_scorer.results.thumbnails import THUMBNAIL_SIZE_PX
from batch_scorer.storage.output import open_output
from tests.batch_scorer.imaging.fake_workers import options_of
from tests.batch_scorer.imaging.pixel_table import GREY, dicom
from tests.images import make_film
from tests.paths import REPOSITORY
from tests.tiny_model import save_tiny_model

KILLS = 30


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """240 images with copies, and files that fail or are rejected, among them."""
    root = tmp_path_factory.mktemp("films") / "xrays"
    root.mkdir()
    for index in range(240):
        data = make_film(40 + index * 7 % 170, seed=index % 220)
        if index % 29 == 3:
            data = data[: len(data) // 2]
        if index % 31 == 5:
            data = f"letter {index}".encode()
        (root / f"film_{index:03d}.png").write_bytes(data)
    return root


@pytest.fixture
def decoded(monkeypatch):
    """The content of every image that was decoded for scoring, not for a thumbnail."""
    contents = []
    read = decode_pool.read_image

    def watch(data, sizes_px):
        if sizes_px and THUMBNAIL_SIZE_PX not in sizes_px:
            contents.append(data)
        return read(data, sizes_px)

    monkeypatch.setattr(decode_pool, "read_image", watch)
    monkeypatch.setattr(
        thumbnails, "MOST_KEPT", 0
    )  # thumbnails are decoded separately, as in a large run
    return contents


def job_of(images, output, model, **options):
    return ScoreJob(str(images), str(output), (str(model),), **options)


def csv_of(output):
    return (Path(output) / store.CSV_FILE).read_bytes()


def states(output):
    """Map every file below to its time, which a run without work leaves unchanged."""
    return {path: path.stat().st_mtime_ns for path in Path(output).rglob("*") if path.is_file()}


def run_job(job):
    run_score_job(job)


@pytest.mark.slow
def test_killed_at_thirty_random_moments_the_rows_are_those_of_one_run(films, tmp_path, tiny_model):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    whole = job_of(films, tmp_path / "whole", tiny_model, batch_size=4)
    seconds = []
    for _ in range(2):  # the first one also starts the fork server
        shutil.rmtree(tmp_path / "whole", ignore_errors=True)
        since = time.perf_counter()
        process = context.Process(target=run_job, args=(whole,))
        process.start()
        process.join()
        assert process.exitcode == 0
        seconds.append(time.perf_counter() - since)
    chance = random.Random(20261124)
    kills = finished = 0
    while kills < KILLS:
        job = replace(whole, output=str(tmp_path / f"killed_{finished}"))
        process = context.Process(target=run_job, args=(job,))
        process.start()
        process.join(chance.uniform(0, 0.6) * seconds[-1])
        process.kill()
        process.join()
        kills += process.exitcode != 0
        journal = Checkpoint(open_output(job.output), config_hash(job))
        kept = [row.image for row in journal.read() if row.status != "failed"]
        assert len(kept) == len(set(kept))  # only failures were repeated
        finished += process.exitcode == 0
    run_score_job(job)
    for number in range(finished):
        assert csv_of(tmp_path / f"killed_{number}") == csv_of(tmp_path / "whole")
    assert csv_of(job.output) == csv_of(tmp_path / "whole")
    assert not (Path(job.output) / CHECKPOINT_FOLDER).exists()


def test_a_second_start_of_a_finished_run_does_nothing(films, tmp_path, tiny_model, decoded):
    root = tmp_path / "xrays"
    root.mkdir()
    for path in sorted(films.iterdir())[:20:4]:
        shutil.copy(path, root)
    job = job_of(root, tmp_path / "out", tiny_model)
    first = run_score_job(job)
    before = states(job.output)
    decoded.clear()
    assert run_score_job(job) == first
    assert decoded == []
    assert states(job.output) == before


def test_failed_images_are_retried_and_changed_images_are_read_again(
    folder, tmp_path, tiny_model, decoded
):
    cut = folder / "cut.png"
    cut.write_bytes(make_film(seed=50)[:900])
    job = job_of(folder, tmp_path / "out", tiny_model)
    assert run_score_job(job).failed == 1
    decoded.clear()
    assert run_score_job(job).failed == 1
    assert len(decoded) == 1
    cut.write_bytes(make_film(200, seed=51))
    (folder / "NORMAL" / "film_0.png").write_bytes(make_film(200, seed=52))
    decoded.clear()
    manifest = run_score_job(job)
    assert len(decoded) == 2
    assert (manifest.scored, manifest.flagged, manifest.reused) == (7, 5, 5)
    run_score_job(replace(job, output=str(tmp_path / "again")))
    assert csv_of(job.output) == csv_of(tmp_path / "again")


def test_a_moved_image_keeps_its_scores(folder, tmp_path, tiny_model, decoded):
    job = job_of(folder, tmp_path / "out", tiny_model, labels="none")
    run_score_job(job)
    (folder / "NORMAL" / "film_0.png").rename(folder / "zz_moved.png")
    decoded.clear()
    run_score_job(job)
    assert decoded == []
    rows = {row.image: row for row in store.read_run(open_output(job.output)).rows}
    assert rows["zz_moved.png"].status == "scored"
    assert "NORMAL/film_0.png" not in rows
    kept = list((tmp_path / "out" / "earlier").glob("*/predictions.csv"))
    assert len(kept) == 1  # the run with a row under the old name
    assert b"NORMAL/film_0.png" in kept[0].read_bytes()


def test_images_that_arrive_later_are_scored_by_the_next_run(folder, tmp_path, tiny_model, decoded):
    job = job_of(folder, tmp_path / "out", tiny_model, batch_size=2)

    def arrive(done, found):
        (folder / "NORMAL" / "late.png").write_bytes(make_film(70, seed=77))

    assert run_score_job(job, arrive).found == 6
    decoded.clear()
    manifest = run_score_job(job)
    assert (manifest.found, manifest.reused, len(decoded)) == (7, 6, 1)
    assert not (tmp_path / "out" / "earlier").exists()


def test_an_image_that_is_removed_before_it_is_read_gets_a_row(folder, tmp_path, tiny_model):
    gone = folder / "PNEUMONIA" / "film_5.png"

    def remove(done, found):
        gone.unlink(missing_ok=True)

    job = job_of(folder, tmp_path / "out", tiny_model, batch_size=1, threads=1)
    for index in range(20):  # more than are read ahead
        (folder / "PNEUMONIA" / f"film_1{index}.png").write_bytes(make_film(180, seed=100 + index))
    manifest = run_score_job(job, remove)
    row = store.read_run(open_output(job.output)).rows[-1]
    assert (row.image, row.status, row.reason) == ("PNEUMONIA/film_5.png", "failed", "unreadable")
    assert manifest.found == 26 == manifest.scored + manifest.failed


def test_a_new_model_makes_a_new_run_and_the_old_rows_are_kept(folder, tmp_path, tiny_model):
    first = run_score_job(job_of(folder, tmp_path / "out", tiny_model))
    rows = csv_of(tmp_path / "out")
    other = save_tiny_model(tmp_path / "other.onnx", "other", slope=-8.0)
    second = run_score_job(job_of(folder, tmp_path / "out", other))
    assert (second.reused, second.flagged) == (0, 3)
    assert csv_of(tmp_path / "out" / "earlier" / first.run_id) == rows
    kept = store.read_run(open_output(tmp_path / "out" / "earlier" / first.run_id)).manifest
    assert kept == first


def test_other_labels_are_put_on_without_scoring_again(folder, tmp_path, tiny_model, decoded):
    job = job_of(folder, tmp_path / "out", tiny_model, labels="none")
    assert run_score_job(job).metrics == []
    decoded.clear()
    manifest = run_score_job(replace(job, labels="folders"))
    assert decoded == []
    assert manifest.metrics[0].images == 6


def test_a_stopped_run_resumes_where_it_stopped(films, tmp_path, tiny_model, decoded):
    job = job_of(films, tmp_path / "out", tiny_model, batch_size=8)
    with pytest.raises(Interrupted, match="8 of 240 images are done"):
        run_score_job(job, stop=lambda: True)
    assert not (tmp_path / "out" / store.RUN_FILE).exists()
    asked = iter([False, False, True])  # the first call comes before the first batch
    with pytest.raises(Interrupted, match="images are done"):
        run_score_job(job, stop=lambda: next(asked))
    manifest = run_score_job(job)
    assert manifest.found == 240
    assert manifest.reused >= 20  # three batches without the failures


def test_a_damaged_checkpoint_file_is_named_and_its_images_are_scored_again(
    films, tmp_path, tiny_model, caplog
):
    job = job_of(films, tmp_path / "out", tiny_model, batch_size=8)
    with pytest.raises(Interrupted):
        run_score_job(job, stop=lambda: True)
    (part,) = (tmp_path / "out" / CHECKPOINT_FOLDER).iterdir()
    part.write_bytes(part.read_bytes()[:-30])
    with caplog.at_level(logging.WARNING):
        manifest = run_score_job(job)
    assert f"{CHECKPOINT_FOLDER}/{part.name} is damaged" in caplog.text
    assert (manifest.found, manifest.reused) == (240, 0)


def test_rows_that_were_changed_by_hand_are_written_again(folder, tmp_path, tiny_model):
    job = job_of(folder, tmp_path / "out", tiny_model)
    run_score_job(job)
    right = csv_of(job.output)
    (tmp_path / "out" / store.CSV_FILE).write_bytes(right.replace(b"PNEUMONIA", b"NORMAL"))
    assert run_score_job(job).reused == 6
    assert csv_of(job.output) == right


def test_an_output_that_is_not_a_folder_is_refused(folder, tmp_path, tiny_model):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Not a directory"):
        run_score_job(job_of(folder, tmp_path / "file", tiny_model))


DISK = """
import os, subprocess, sys, time
from pathlib import Path

kind, films, model, place, kept = sys.argv[1:]

def mount(options, *names):
    return subprocess.run(["mount", "-o", options, *names], capture_output=True).returncode

def score():
    return subprocess.Popen(
        [sys.executable, "-m", "batch_scorer", "score", films, "-o", place + "/out", "--model",
         model, "--batch-size", "1", "--no-report"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

assert mount("size=" + ("300k" if kind == "full" else "64m"), "-t", "tmpfs", "tmpfs", place) == 0
run = score()
if kind == "read-only":
    while not list(Path(place).glob("out/journal/*")) and run.poll() is None:
        os.sched_yield()
    while mount("remount,ro", place) and run.poll() is None:
        os.sched_yield()
print(run.communicate()[1].strip())
print("exit", run.returncode, "rows in place", Path(place, "out/predictions.csv").exists())
assert mount("remount,rw,size=64m", place) == 0
run = score()
run.communicate()
print("exit", run.returncode)
Path(kept).write_bytes(Path(place, "out/predictions.csv").read_bytes())
"""


@pytest.mark.needs("mount")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("full", "No space left on device"), ("read-only", "Read-only file system")],
)
def test_a_full_or_read_only_disk_ends_the_run_and_the_next_one_resumes(
    films, tmp_path, tiny_model, kind, reason
):
    place = tmp_path / "disk"
    place.mkdir()
    arguments = [kind, films, tiny_model, place, tmp_path / "kept.csv"]
    run = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", DISK, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert run.stderr == ""
    error, first, second = run.stdout.splitlines()
    assert reason in error
    assert "then run the same command again" in error
    assert first == "exit 1 rows in place False"
    assert second == "exit 3"
    run_score_job(job_of(films, tmp_path / "whole", tiny_model))
    assert (tmp_path / "kept.csv").read_bytes() == csv_of(tmp_path / "whole")


KILLER = """
import os, signal
from batch_scorer.imaging import decode_pool as decoder
from batch_scorer.cli.main import main

real = decoder.read_image

def read_image(data, *arguments):
    if data == open(os.environ["KILLER"], "rb").read():
        os.kill(os.getpid(), signal.SIGKILL)  # as a system without memory does
    return real(data, *arguments)

decoder.read_image = read_image
main()
"""


def test_an_image_that_killed_a_run_meets_the_next_one_in_a_process_of_its_own(
    films, tmp_path, tiny_model
):
    killer = films / "film_100.png"
    command = ("score", films, "-o", tmp_path / "out", "--model", tiny_model, "--no-report")
    codes = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", KILLER, *map(str, command), "--batch-size", "4"],
            check=False,
            capture_output=True,
            env={**os.environ, "KILLER": str(killer)},
        )
        codes.append(run.returncode)
    assert codes == [-9, 3], run.stderr
    rows = {row.image: row for row in store.read_run(open_output(tmp_path / "out")).rows}
    assert rows[killer.name].status == "scored"


def test_an_image_that_killed_its_decoder_is_not_tried_again_until_it_changes(
    tmp_path, tiny_model, monkeypatch
):
    films, output = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    (films / "fatal").write_bytes(dicom(GREY, PatientID="FATAL"))
    (films / "sound").write_bytes(make_film())
    (films / "cut.png").write_bytes(make_film(seed=3)[:300])
    job = job_of(films, output, tiny_model)
    reasons = {"fatal": "decoder_killed", "sound": "", "cut.png": "truncated"}
    with monkeypatch.context() as patched:
        patched.setattr(decode_pool, "_COMMAND", options_of("die_of_patients"))
        run_score_job(job)
    assert reasons_in(output) == reasons

    (films / "new").write_bytes(make_film(seed=1))
    run_score_job(job)  # today's decoders would read it
    assert reasons_in(output) == reasons | {"new": ""}

    night = replace(job, output=str(tmp_path / "night"), earlier_outputs=(open_output(output),))
    run_score_job(night)
    assert reasons_in(night.output) == reasons | {"new": ""}

    os.utime(films / "fatal", (1, 1))
    run_score_job(job)
    assert reasons_in(output) == reasons | {"new": "", "fatal": ""}


def reasons_in(output):
    return {row.image: row.reason for row in store.read_run(open_output(output)).rows}


def test_where_images_cannot_be_decoded_the_run_fails_in_one_sentence(cxr, tmp_path, tiny_model):
    films = tmp_path / "films"
    films.mkdir()
    (films / "film").write_bytes(dicom(GREY))
    (tmp_path / "no_workers").mkdir()
    (tmp_path / "no_workers" / "sitecustomize.py").write_text(
        "import subprocess\n"
        "def refuse(*_, **__):\n    raise PermissionError(1, 'Operation not permitted')\n"
        "subprocess.Popen = refuse\n"
    )
    path = os.pathsep.join([str(tmp_path / "no_workers"), os.environ.get("PYTHONPATH", "")])
    run = cxr("score", films, "-o", tmp_path / "out", "--model", tiny_model, PYTHONPATH=path)
    assert run.returncode == 1
    assert run.stderr.count("No process can be started to decode images") == 1
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out" / store.CSV_FILE).exists()
