"""Three nights as a platform runs them: four tasks, real processes, a real S3 server that fails.

Night one has 300 films and an outage of ten seconds; night two 100 new ones, and one task is
killed; night three nothing new.
"""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pypdfium2
import pytest

from batch_scorer.errors import EXIT_OK, EXIT_RETRY
from batch_scorer.report.formats.verify import verify_report
from tests.images import make_film
from tests.servers import run_proxy, without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from tests.servers import Cloud, Proxy

pytestmark = pytest.mark.cloud
TASKS = 4
OUTAGE_S = 10
BUCKET = "hospital"
OUTPUT = f"{BUCKET}/read"
STARTS = 6
"""Maximum number of starts of a task that ends with 75."""


class Hospital:
    """A bucket of images, and a platform that runs the tasks of a run."""

    def __init__(self, cloud: Cloud, proxy: Proxy, model: Path) -> None:
        self.proxy, self.model = proxy, model
        self.environment = {**without_credentials(), **cloud.behind(proxy.url).environment}
        self.filesystem = cloud.filesystem()
        self.versions = type(self.filesystem)(
            version_aware=True, skip_instance_cache=True, **cloud.options
        )
        self.filesystem.mkdir(BUCKET)
        self.filesystem.call_s3(
            "put_bucket_versioning", Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"}
        )  # keeps even removed checkpoint files readable

    def receive(self, numbers: range) -> None:
        films = {
            f"{BUCKET}/films/film_{n:03d}.png": make_film(60 + n % 120, seed=n, shape=(64, 64))
            for n in numbers
        }
        self.filesystem.pipe(films)

    def start(self, night: str, index: int) -> subprocess.Popen[str]:
        """Start one task as Kubernetes would."""
        command = ("job", "run", "--model", self.model, "--batch-size", 8, "--lease-s", 4)
        return subprocess.Popen(
            [sys.executable, "-m", "batch_scorer", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **self.environment,
                "CXR_JOB_IMAGES": f"s3://{BUCKET}/films",
                "CXR_JOB_OUTPUT": f"s3://{OUTPUT}",
                "CXR_SHARD_COUNT": str(TASKS),
                "JOB_COMPLETION_INDEX": str(index),
                "HOSTNAME": f"{night}-{index}",
            },
        )

    def run(self, night: str, killed: int | None = None) -> tuple[list[str], Counter[int]]:
        """Run all tasks until each succeeds; return their output and all exit codes."""
        tasks = {index: self.start(night, index) for index in range(TASKS)}
        if killed is not None:
            self._wait_for_hold()
            tasks[killed].kill()
            assert tasks[killed].wait() == -signal.SIGKILL
            tasks[killed].communicate()
            self.proxy.order()
            tasks[killed] = self.start(night, killed)
        outputs, codes = [], Counter()
        for index, task in tasks.items():
            for _ in range(STARTS):
                output, errors = task.communicate()
                codes[task.returncode] += 1
                if task.returncode != EXIT_RETRY:
                    break
                assert errors.count("Error: ") == 1
                task = self.start(night, index)  # noqa: PLW2901 - the same task again
            assert task.returncode == EXIT_OK, errors
            outputs.append(output)
        return outputs, codes

    def _wait_for_hold(self) -> None:
        deadline = time.monotonic() + 60
        while not self.proxy.faults().get("hold"):
            assert time.monotonic() < deadline, "no request was held"
            time.sleep(0.05)

    def read(self, name: str) -> bytes:
        data: bytes = self.filesystem.cat_file(f"{OUTPUT}/{name}")
        return data

    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(self.read("latest/run.json"))
        return manifest

    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.read("latest/predictions.csv").decode())))

    def latest(self) -> list[str]:
        found: list[str] = self.filesystem.find(f"{OUTPUT}/latest")
        return found

    def journaled(self) -> Counter[str]:
        """Count how often each image was scored, by every version of every checkpoint file."""
        counts: Counter[str] = Counter()
        pages = self.filesystem.call_s3("list_object_versions", Bucket=BUCKET, MaxKeys=10_000)
        assert not pages["IsTruncated"]
        for version in pages["Versions"]:
            if "/journal/" in version["Key"]:
                path = f"{BUCKET}/{version['Key']}?versionId={version['VersionId']}"
                lines = self.versions.cat_file(path).splitlines()
                found = (json.loads(line) for line in lines)
                counts.update(row["image"] for row in found if row["status"] == "scored")
        return counts


@pytest.fixture
def hospital(clouds, tiny_model) -> Iterator[Hospital]:
    with run_proxy(clouds["s3"], "calm") as proxy:
        yield Hospital(clouds["s3"], proxy, tiny_model)


def check_report(hospital, tmp_path) -> str:
    """Check that the report agrees with its rows; return the text of page 1."""
    path = tmp_path / "report.pdf"
    path.write_bytes(hospital.read("latest/report.pdf"))
    found = verify_report(str(path))
    assert found.faults == ()
    assert {total.name: total.run for total in found.totals}["found"] == len(hospital.rows())
    with pypdfium2.PdfDocument(path) as pdf:
        return " ".join(pdf[0].get_textpage().get_text_bounded().split())


def test_three_runs_with_an_outage_and_a_kill_score_every_image_once(hospital, tmp_path):
    hospital.receive(range(300))
    hospital.proxy.order(outage=r"PUT .*/2-of-4/journal/.*-000002", seconds=OUTAGE_S)
    _, codes = hospital.run("monday")
    assert hospital.proxy.faults()["outage"] > 10
    first = hospital.manifest()
    assert codes[EXIT_RETRY] + first["retries"] >= 1  # restarted, or retried until it was over
    assert (first["found"], first["scored"], first["changes"]) == (300, 300, None)
    assert len({row["image"] for row in hospital.rows()}) == len(hospital.rows()) == 300
    assert "new since" not in check_report(hospital, tmp_path)

    hospital.receive(range(300, 400))
    hospital.proxy.order(hold=r"PUT .*/2-of-4/journal/.*-000002")
    _, codes = hospital.run("tuesday", killed=1)
    second = hospital.manifest()
    rows = hospital.rows()
    assert len({row["image"] for row in rows}) == len(rows) == second["found"] == 400
    assert Counter(row["run_date"] for row in rows) == {
        first["run_date"]: 300,
        second["run_date"]: 100,
    }
    new_rows = [row for row in rows if row["run_date"] == second["run_date"]]
    flagged = sum(row["prediction"] == "PNEUMONIA" for row in new_rows)
    assert second["flagged"] == first["flagged"] + flagged
    page = check_report(hospital, tmp_path)
    assert re.search(
        rf"100 files are new since the night of \d+ \w+: {flagged} of them are flagged\.", page
    )
    assert second["changes"]["images"] == 300

    before = {name: hospital.filesystem.info(name) for name in hospital.latest()}
    outputs, codes = hospital.run("wednesday")
    assert codes == {EXIT_OK: TASKS}
    # Two tasks may be the last ones.
    ended = [text for text in outputs if "was already finished" not in text]
    assert sum(f"nothing since {second['run_date']}" in text for text in ended) == 1
    assert {name: hospital.filesystem.info(name) for name in hospital.latest()} == before
    assert set(hospital.journaled().values()) == {1}
    assert len(hospital.journaled()) == 400
