"""score_with_ray on a real cluster gives the rows of one machine, even if a node dies."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from batch_scorer.engine.local import EngineJob, score_locally
from batch_scorer.engine.ray import score_with_ray
from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import MissingPackage, ModelFileError, TransientError, UsageError
from batch_scorer.model.classifier import Classifier
from batch_scorer.results import store
from batch_scorer.storage.source import Source, open_source
from batch_scorer.system.process import available_cores
from tests.images import make_film

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),  # Ray's
]
NODES = 2


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs, and two nodes of one CPU each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(NODES):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def many(tmp_path) -> Path:
    """Images that take a while, with copies, a bad file and an unusual name among them."""
    root = tmp_path / "many"
    root.mkdir()
    for index in range(60):
        (root / f"film_{index:02}.png").write_bytes(make_film(3 * index, index, (500, 600)))
    for index in range(0, 60, 20):
        (root / f"copy_{index}.png").write_bytes((root / f"film_{index:02}.png").read_bytes())
    (root / b"letter-\xff\n.txt".decode("utf-8", "surrogateescape")).write_text("Dear doctor")
    (root / "cut.png").write_bytes(make_film(50)[:900])
    return root


def run(folder, output, model, engine, **options):
    job = ScoreJob(str(folder), str(output), (str(model),), engine=engine, batch_size=2)
    return run_score_job(job, **options), (Path(output) / store.CSV_FILE).read_bytes()


def make_engine_job(folder, model, **changes) -> EngineJob:
    source = open_source(str(folder))
    classifier = Classifier.load(model, "cpu", 1, 2)
    engine_job = EngineJob(source, source.refs, {}, [classifier], {}, 1, 2, keep_atypical=False)
    return replace(engine_job, **changes)


def test_a_ray_run_and_a_local_run_write_the_same_rows(cluster, many, tmp_path, tiny_model):
    seen = []
    manifest, rows = run(
        many, tmp_path / "ray", tiny_model, "ray", progress=lambda *counts: seen.append(counts)
    )
    local, expected = run(many, tmp_path / "local", tiny_model, "local")
    assert rows == expected
    assert (manifest.engine, local.engine) == ("ray", "local")
    assert manifest.threads == 1
    assert (manifest.found, manifest.scored, manifest.duplicates) == (65, 63, 3)
    assert manifest.reasons == local.reasons == {"truncated": 1, "unsupported": 1}
    assert seen[0][0] == 4  # two batches, so that each worker gets eight blocks
    assert seen[-1] == (65, 65)
    assert manifest.bytes_read == local.bytes_read > 0
    assert all(seconds > 0 for seconds in manifest.worker_seconds.values())
    assert manifest.peak_memory_bytes > 20e6
    spent_s = sum(manifest.seconds.values()) - manifest.seconds["record"]
    record_s = available_cores() * manifest.seconds["record"]
    assert manifest.core_seconds == pytest.approx(NODES * spent_s + record_s, abs=0.01)


def test_a_node_that_dies_during_a_run_costs_no_row(cluster, many, tmp_path, tiny_model):
    killed = []

    def kill(done: int, found: int) -> None:
        if done >= 12 and not killed:
            assert ray.available_resources().get("CPU", 0) == 0  # each node has a worker
            killed.append(done)
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    manifest, rows = run(many, tmp_path / "ray", tiny_model, "ray", progress=kill)
    assert killed
    assert killed[0] < 50
    assert len(cluster.worker_nodes) == NODES - 1
    assert rows == run(many, tmp_path / "local", tiny_model, "local")[1]
    assert manifest.found == 65


def test_known_images_are_not_computed_again(cluster, folder, tiny_model):
    engine_job = make_engine_job(folder, tiny_model)
    rows = {row.image: row for batch in score_locally(engine_job) for row in batch}
    first = rows["NORMAL/film_0.png"]
    content = (folder / first.image).read_bytes()
    assert first.sha256 == hashlib.sha256(content).hexdigest()
    marked = type(first)(image="elsewhere.png", status="scored", probabilities=(0.123,))
    known = {first.sha256: marked}
    found = {
        row.image: row
        for batch in score_with_ray(replace(engine_job, known=known))
        for row in batch
    }
    assert found.keys() == rows.keys()
    assert found.pop(first.image).probabilities == (0.123,)
    assert all(row == rows[image] for image, row in found.items())


def test_another_file_under_a_model_s_name_ends_the_run(cluster, folder, tiny_model):
    engine_job = make_engine_job(folder, tiny_model)
    other = replace(engine_job.classifiers[0], sha256="0" * 64)
    with pytest.raises(ModelFileError, match=r"Expected .*tiny.onnx with sha256 000000000000 on"):
        list(score_with_ray(replace(engine_job, classifiers=[other])))


class BrokenSource(Source):
    """A source with an unexpected defect."""

    def read(self, ref):
        return {"film": b""}[ref.key]


def test_an_unexpected_error_ends_the_run_as_on_one_machine(cluster, folder, tiny_model):
    source = open_source(str(folder))
    broken = BrokenSource(**{name: getattr(source, name) for name in source.__dataclass_fields__})
    for engine in (score_locally, score_with_ray):
        with pytest.raises(KeyError, match=r"NORMAL/film_0\.png"):
            list(engine(make_engine_job(folder, tiny_model, source=broken, batch_size=6)))


def test_closing_the_engine_stops_its_workers(cluster, many, tiny_model):
    with closing(score_with_ray(make_engine_job(many, tiny_model))) as batches:
        assert next(batches)
        assert ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, "workers are still there"
        time.sleep(0.2)


def test_nothing_to_do_needs_no_cluster(folder, tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(score_with_ray(make_engine_job(folder, tiny_model, refs=()))) == []


def test_without_ray_the_error_says_what_to_install(folder, tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackage, match=r'pip install "cxr-batch\[ray\]"'):
        list(score_with_ray(make_engine_job(folder, tiny_model)))


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("ray://head:10001", UsageError, "found ray://head:10001. Run the command on a machine"),
        ("127.0.0.1:1", TransientError, "Cannot reach the Ray cluster at 127.0.0.1:1"),
    ],
)
def test_a_cluster_that_cannot_be_used(folder, tiny_model, monkeypatch, address, error, message):
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(error, match=re.escape(message)):
        list(score_with_ray(make_engine_job(folder, tiny_model)))


def left_over(mark: str) -> list[str]:
    """List processes that carry the mark in their environment and do not end soon."""
    deadline = time.monotonic() + 30  # a worker of a stopped cluster notices it after a while
    while (found := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def marked(mark: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # the process ended, or belongs to another user
            continue
    return found


@pytest.mark.needs("/proc")
def test_the_command_starts_ray_stops_it_and_resumes(cxr, many, tmp_path, tiny_model):
    for index in range(200):  # enough to let the signal come in time on a busy machine
        (many / f"again_{index}.png").hardlink_to(many / f"film_{index % 60:02}.png")
    mark = f"CXR_TEST_MARK={tmp_path}"
    name, value = mark.split("=")
    environment = {**os.environ, "RAY_ADDRESS": "local", name: value}
    arguments = ["score", many, "-o", tmp_path / "ray", "--model", tiny_model, "--no-report"]
    arguments = [*map(str, arguments), "--batch-size", "1", "--engine", "ray"]
    with subprocess.Popen(
        [sys.executable, "-m", "batch_scorer", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ray" / "journal").is_dir():
            assert time.monotonic() < deadline, "no batch came"
            time.sleep(0.05)
        command.send_signal(signal.SIGTERM)
        out, error = command.communicate(timeout=60)
    assert command.returncode == 75, (out, error)
    assert out == ""
    lines = [
        line for line in error.splitlines() if not line.startswith("scored ")
    ]  # on a slow machine
    assert lines[:2] == ["", "Finishing this batch. Interrupt again to stop at once."]
    assert re.fullmatch(
        r"Interrupted: \d+ of 265 images are done. Run the same command .*", lines[2]
    )
    assert len(lines) == 3
    assert left_over(mark) == []
    again = cxr(*arguments, **environment)
    assert again.returncode == 3, again.stderr
    assert re.search(r"^Reused    [1-9]\d* rows of an earlier run", again.stdout, re.MULTILINE)
    assert all(
        re.fullmatch(r"scored \d+ of 265 images", line) for line in again.stderr.splitlines()
    )
    assert left_over(mark) == []
    rows = (tmp_path / "ray" / store.CSV_FILE).read_bytes()
    assert rows == run(many, tmp_path / "local", tiny_model, "local")[1]
