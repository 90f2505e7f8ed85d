"""Buckets as users meet them: real servers, and a proxy that loses, delays and cuts answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pypdfium2
import pytest
from tenacity import stop_after_attempt

from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import (
    Interrupted,
    OutputError,
    SourceError,
    TransientError,
    Unreadable,
)
from batch_scorer.results import store
from batch_scorer.storage import filesystem as storage
from batch_scorer.storage.outages import OUTAGE_IMAGES
from batch_scorer.storage.output import open_output
from batch_scorer.storage.source import open_source
from batch_scorer.system.regular_file import FileTooLarge
from tests.images import make_film
from tests.servers import (
    AZURE,
    AZURITE_KEY,
    SECRET,
    found_here,
    free_port,
    run_proxy,
    without_credentials,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Cloud

FILMS = 40
pytestmark = pytest.mark.cloud
PROTOCOLS = ("s3", AZURE, "gs")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Forty small films, a copy, a file that is none, and a folder's marker of its own."""
    root = tmp_path_factory.mktemp("films")
    for index in range(FILMS):
        label, brightness = ("PNEUMONIA", 180) if index % 2 else ("NORMAL", 70)
        path = root / label / f"film_{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make_film(brightness, seed=index))
    (root / "copy of a film, ü.png").write_bytes((root / "NORMAL" / "film_00.png").read_bytes())
    (root / "letter.txt").write_text("Dear doctor")
    return root


@pytest.fixture(scope="module")
def local_csv(films, tiny_model, tmp_path_factory) -> bytes:
    """The rows of the same films, scored from disk."""
    output = tmp_path_factory.mktemp("local")
    run = score(films, output, tiny_model, {}, "--no-report")
    assert run.returncode == 3, run.stderr
    return (output / store.CSV_FILE).read_bytes()


@pytest.fixture(scope="module", params=PROTOCOLS)
def cloud(request, clouds) -> Cloud:
    return clouds[request.param]


@pytest.fixture(scope="module")
def bucket(cloud, films) -> str:
    """The URL of the films in a bucket."""
    return cloud.fill("films-bucket", films)


def score(images, output, model, environment, *options) -> subprocess.CompletedProcess[str]:
    command = ("score", images, "-o", output, "--model", model, "--batch-size", 8, *options)
    return subprocess.run(
        [sys.executable, "-m", "batch_scorer", *map(str, command)],
        check=False,
        capture_output=True,
        text=True,
        env={**without_credentials(), **environment},
    )


def read_manifest(output: Path) -> dict:
    return json.loads((output / store.RUN_FILE).read_text())


@pytest.fixture
def here(cloud) -> Iterator[Cloud]:
    """The cloud, found by clients of this process too."""
    with found_here(cloud):
        yield cloud


def test_a_bucket_behind_a_bad_line_gives_the_rows_of_the_folder(
    cloud, bucket, tiny_model, local_csv, tmp_path
):
    with run_proxy(cloud, seed=3) as proxy:
        environment = cloud.behind(proxy.url).environment
        run = score(bucket, tmp_path / "out", tiny_model, environment, "--no-report")
        faults = proxy.faults()
    assert run.returncode == 3, run.stderr
    assert (tmp_path / "out" / store.CSV_FILE).read_bytes() == local_csv
    assert all(faults.get(kind, 0) > 0 for kind in ("drop", "delay", "refuse", "cut")), faults
    manifest = read_manifest(tmp_path / "out")
    assert manifest["retries"] > 0
    assert (manifest["found"], manifest["scored"], manifest["failed"]) == (FILMS + 2, FILMS + 1, 0)
    assert run.stderr == f"scored {FILMS + 2} of {FILMS + 2} images\n"


def test_results_and_report_lie_in_the_bucket_and_only_what_changed_is_scored_again(
    cloud, films, tiny_model, local_csv
):
    url = cloud.fill("results-bucket", films)
    output = "results-bucket/night of the 3rd/out"
    target = f"{cloud.protocol}://{output}"
    first = score(url, target, tiny_model, cloud.environment)
    assert first.returncode == 3, first.stderr
    filesystem = cloud.filesystem()
    assert filesystem.cat_file(f"{output}/{store.CSV_FILE}") == local_csv
    report = pypdfium2.PdfDocument(filesystem.cat_file(f"{output}/{store.REPORT_FILE}"))
    assert f"{FILMS + 1}" in report[0].get_textpage().get_text_bounded()
    assert not any("journal" in path for path in filesystem.find(output))
    filesystem.pipe_file("results-bucket/films/NORMAL/film_00.png", make_film(75, seed=99))
    second = score(url, target, tiny_model, cloud.environment, "--no-report")
    assert f"Reused    {FILMS + 1} rows of an earlier run, 1 processed in this one" in second.stdout
    known = (SECRET, AZURITE_KEY)
    told = [first.stdout, first.stderr, second.stdout, second.stderr]
    filesystem = cloud.filesystem()  # one that has listed nothing yet
    told += [filesystem.cat_file(path).decode("latin-1") for path in filesystem.find(output)]
    assert not [text for text in told if any(secret in text for secret in known)]


def test_a_stopped_run_goes_on_from_the_bucket(here, bucket, tiny_model, local_csv):
    output = f"{here.protocol}://films-bucket/stopped"
    job = ScoreJob(bucket, output, (str(tiny_model),), batch_size=8)
    with pytest.raises(Interrupted, match=f"8 of {FILMS + 2} images are done"):
        run_score_job(job, stop=lambda: True)
    manifest = run_score_job(job)
    assert manifest.reused == 8
    assert here.filesystem().cat_file(f"films-bucket/stopped/{store.CSV_FILE}") == local_csv
    assert run_score_job(job) == manifest


def test_a_film_that_may_not_be_read_or_is_gone_is_a_row(cloud, tiny_model, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for index, name in enumerate(("forbidden.png", "good.png", "vanished.png")):
        (folder / name).write_bytes(make_film(seed=index))
    url = cloud.fill("rows-bucket", folder)
    with run_proxy(cloud, "calm") as proxy:
        environment = cloud.behind(proxy.url).environment
        run = score(url, tmp_path / "out", tiny_model, environment, "--no-report")
    assert run.returncode == 3, run.stderr
    rows = {row.image: row for row in store.read_run(open_output(tmp_path / "out")).rows}
    assert {name: row.status for name, row in rows.items()} == {
        "forbidden.png": "failed",
        "good.png": "scored",
        "vanished.png": "failed",
    }
    assert rows["forbidden.png"].detail == "The file cannot be read: access is refused."
    assert rows["vanished.png"].detail in {
        "The file cannot be read: it does not exist.",
        "The file cannot be read: No such file or directory.",
    }
    assert read_manifest(tmp_path / "out")["retries"] == 0


def test_of_many_that_create_a_file_one_succeeds_and_it_may_have_to_ask_twice(cloud, films):
    url = cloud.fill("creation-bucket", films / "NORMAL", "out")
    with run_proxy(cloud, "calm") as proxy, found_here(cloud.behind(proxy.url)):
        output = open_output(url)
        output.check_exclusive_create()
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n: output.create("plan.json", b"%d" % n), range(8)))
        assert won.count(True) == 1
        assert output.read("plan.json") == b"%d" % won.index(True)
        assert output.create("plan.json", b"%d" % won.index(True))  # the answer to it had got lost


def test_storage_that_creates_a_file_twice_is_found_out(clouds, films):
    emulator = clouds["gs"]  # knows no preconditions
    url = emulator.fill("careless-bucket", films / "NORMAL", "out")
    with (
        found_here(emulator),
        pytest.raises(OutputError, match="Expected storage that creates a file only once"),
    ):
        open_output(url).check_exclusive_create()


def test_a_bucket_that_is_not_there_ends_the_run(here):
    url = f"{here.protocol}://no-such-bucket/films"
    words = "(the bucket does not exist|found nothing there)"
    with pytest.raises(SourceError, match=rf"{url}.*{words}") as error:
        open_source(url)
    assert error.value.exit_code == 1
    with pytest.raises(OutputError, match=rf"{url} cannot be written: .*(bucket|does not exist)"):
        open_output(url).prepare()


def test_a_bucket_that_may_not_be_listed_or_written_ends_the_run(cloud):
    url = f"{cloud.protocol}://forbidden-bucket/films"
    with run_proxy(cloud, "calm") as proxy, found_here(cloud.behind(proxy.url)):
        with pytest.raises(
            SourceError, match=rf"{url} cannot be listed: access is refused\. Check"
        ):
            open_source(url)
        with pytest.raises(OutputError, match=rf"{url} cannot be written: access is refused\. Che"):
            open_output(url).prepare()


def test_a_server_that_is_down_is_one_line_and_worth_another_try(
    cloud, tiny_model, tmp_path, monkeypatch
):
    down = cloud.behind(f"http://127.0.0.1:{free_port()}")
    run = score(f"{cloud.protocol}://bucket/films", tmp_path / "out", tiny_model, down.environment)
    assert run.returncode == 75
    assert re.fullmatch(
        r"Error: .* cannot be listed: no complete response arrived \(.*\)\. Check .*\n", run.stderr
    )


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("s3://bucket/films", 1, "credentials are missing or invalid.* Set AWS_PROFILE"),
        ("az://bucket/films", 2, "a valid Azure storage account.* Set AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_no_credentials_is_one_line_that_says_where_they_come_from(
    tiny_model, tmp_path, url, code, words
):
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    run = score(url, tmp_path / "out", tiny_model, nowhere)
    assert run.returncode == code
    assert re.fullmatch(rf"Error: .*{words}.*\n", run.stderr)


def test_a_storage_that_goes_away_ends_the_run_and_not_every_film(clouds, films, monkeypatch):
    url = clouds["s3"].fill("short-bucket", films)
    reset = ConnectionResetError(104, "Connection reset by peer")
    with found_here(clouds["s3"]):
        source = open_source(url)
        monkeypatch.setattr(source.filesystem, "cat_file", Mock(side_effect=reset))
        monkeypatch.setattr(storage._RETRYING, "stop", stop_after_attempt(1))
        for ref in source.refs[: OUTAGE_IMAGES - 1]:
            with pytest.raises(Unreadable, match="no complete response arrived"):
                source.read(ref)
        with pytest.raises(
            TransientError, match=f"No response for the last {OUTAGE_IMAGES} images"
        ):
            source.read(source.refs[OUTAGE_IMAGES])


def test_a_list_of_signed_urls_never_shows_a_signature(clouds, films, tiny_model, tmp_path):
    s3 = clouds["s3"]
    s3.fill("signed-bucket", films / "NORMAL")
    signed = f"{s3.endpoint}/signed-bucket/films/film_00.png?sig={SECRET}&se=2030"
    other = s3.endpoint.replace("//", f"//user:{SECRET}@") + "/signed-bucket/films/film_02.png"
    listing = tmp_path / "list.txt"
    listing.write_text(f"# signed\n{signed}\n{other}\n{s3.endpoint}/nothing?sig={SECRET}\n")
    options = ("--no-report", "--allow-private-hosts")
    run = score(listing, tmp_path / "out", tiny_model, {}, *options)
    assert run.returncode == 3, run.stderr
    manifest, rows, _ = store.read_run(open_output(tmp_path / "out"))
    assert (manifest.scored, manifest.failed) == (1, 2)
    assert {row.image for row in rows} == {
        f"{s3.endpoint}/signed-bucket/films/film_00.png",
        f"{s3.endpoint}/signed-bucket/films/film_02.png",
        f"{s3.endpoint}/nothing",
    }
    told = run.stdout + run.stderr
    told += "".join(
        path.read_bytes().decode("latin-1")
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    )
    assert SECRET not in told


def test_an_object_is_read_whole_or_not_at_all_and_an_empty_one_is_empty(here, films):
    url = here.fill("limits-bucket", films / "NORMAL", "limits")
    filesystem, root = storage.open_filesystem(url)
    for name, size in (("empty", 0), ("fitting", 10), ("longer", 11)):
        here.filesystem().pipe_file(f"{root}/{name}", b"x" * size)
    assert storage.read_file(filesystem, f"{root}/empty", 10) == b""
    assert storage.read_file(filesystem, f"{root}/fitting", 10) == b"x" * 10
    with pytest.raises(FileTooLarge, match="more than 10 bytes"):
        storage.read_file(filesystem, f"{root}/longer", 10)
    with pytest.raises(FileNotFoundError):
        storage.read_file(filesystem, f"{root}/nothing", 10)


def test_a_key_with_two_colons_is_no_chain_of_file_systems(here, films):
    url = here.fill("colons-bucket", films / "NORMAL", "ward/7::2026::11")
    source = open_source(url)
    assert len(source.refs) == FILMS // 2
    assert source.read(source.refs[0]) == (films / "NORMAL" / "film_00.png").read_bytes()
