"""What users keep of earlier versions stays readable: tests/archive, as its README says."""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pyarrow.parquet as pq
import pypdfium2
import pytest
from fsspec.implementations.local import LocalFileSystem

from batch_scorer.cli.main import cxr
from batch_scorer.errors import EXIT_NOT_ALL_SCORED, EXIT_OK
from batch_scorer.report.content import report as facts
from batch_scorer.report.content import summary
from batch_scorer.report.formats.draw import draw_report
from batch_scorer.report.formats.verify import verify_report
from batch_scorer.results.old_versions import RENAMED_COLUMNS
from tests.paths import REPOSITORY
from tests.tampering import clear_a_flag, swap_big_numbers, tampered

if TYPE_CHECKING:
    from batch_scorer.report.content.summary import Summary
    from batch_scorer.report.content.view import RunView

ARCHIVE = REPOSITORY / "tests" / "archive"
REPORTS = (
    "results-v0.1.0/report.pdf",
    "report-without-statements.pdf",
    "report-with-statements.pdf",
)
SCORE = ("score", "images", "--model", "first.onnx", "--model", "second.onnx", "--no-report")


def reword(view: RunView, warning: str = "", real=summary.describe_summary) -> Summary:
    """Page 1 in other words, and with the numbers in another order."""
    manifest, same = view.manifest, real(view, warning)
    counted = f"Altogether {manifest.found} X-rays"
    return replace(
        same,
        headline=f"Of {manifest.scored} X-rays, {manifest.flagged} need a second-opinion soon.",
        tiles=tuple(
            replace(tile, label="as a group", note=tile.label[::-1]) for tile in same.tiles
        ),
        file_count=counted,
        scored_files=f"{counted} came from a folder.",
        undecided=same.undecided and f"Undecided: {manifest.undecided} of {manifest.scored}.",
        atypical=same.atypical and f"Odd among {manifest.scored}: {manifest.atypical} X-rays.",
    )


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Read predictions.csv by today's column names, without those that nobody filled."""
    with (folder / "predictions.csv").open(newline="") as file:
        return [
            {RENAMED_COLUMNS.get(name, name): cell for name, cell in row.items() if cell}
            for row in csv.DictReader(file)
        ]


@pytest.fixture
def reworded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version, which says everything on page 1 otherwise."""
    for module in (summary, facts):
        monkeypatch.setattr(module, "describe_summary", reword)
        monkeypatch.setattr(
            module, "format_model", lambda model: f"{model.sha256[:20]} ({model.name})"
        )
    monkeypatch.setattr(summary, "TILE_NOTES", dict.fromkeys("abc", "x"))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the archive, where it was made: images as old as then, and the current folder."""
    folder = shutil.copytree(ARCHIVE, tmp_path / "kept")
    table = pq.read_table(folder / "results-v0.1.0" / "predictions.parquet")
    for image, stamp in zip(*(table[name].to_pylist() for name in ("image", "stamp")), strict=True):
        size, modified, created = stamp.split()
        path = folder / "images" / image
        assert path.stat().st_size == int(size)
        os.utime(path, (float(modified), float(modified)))

    def info(self, path, real=LocalFileSystem.info, **options):
        return real(self, path, **options) | {"created": float(created)}

    monkeypatch.setattr(LocalFileSystem, "info", info)
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "leases" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", REPORTS)
def test_an_archived_report_verifies(name: str) -> None:
    found = verify_report(str(ARCHIVE / name))
    assert found.faults == ()
    assert all(total.page for total in found.totals)
    assert len(found.totals) == (7 if name == REPORTS[0] else 10)


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.usefixtures("reworded")
def test_an_archived_report_verifies_whatever_a_later_version_would_say(name: str) -> None:
    found = verify_report(str(ARCHIVE / name))
    assert found.faults == ()
    assert all(total.page for total in found.totals)


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize(
    ("change", "fault"),
    [(clear_a_flag, "predictions.csv was changed"), (swap_big_numbers, "not flagged: ")],
)
@pytest.mark.usefixtures("reworded")
def test_an_archived_report_that_was_changed_is_found(
    tmp_path: Path, name: str, change, fault: str
) -> None:
    faults = verify_report(tampered(ARCHIVE / name, tmp_path, change)).faults
    assert any(found.startswith(fault) for found in faults)


@pytest.mark.usefixtures("reworded")
def test_a_report_in_other_words_verifies(kept: Path) -> None:
    (report,) = draw_report(kept / "results-v0.1.0")
    with pypdfium2.PdfDocument(report) as pdf:
        page = pdf[0].get_textpage().get_text_bounded()
    assert "Of 8 X-rays, 5 need" in page
    assert "possible pneumonia" not in page
    found = verify_report(report)
    assert found.faults == ()
    assert all(total.page for total in found.totals)
    faults = verify_report(tampered(Path(report), kept, swap_big_numbers)).faults
    assert "flagged: 5 by the rows, 5 by run.json, 3 and 5 on page 1" in faults


def test_archived_results_are_drawn_again(kept: Path) -> None:
    results = kept / "results-v0.1.0"
    before = contents(results)
    cxr.main(["report", str(results)], standalone_mode=False)
    found = verify_report(str(results / "report.pdf"))
    assert found.faults == ()
    assert found.manifest == verify_report(str(ARCHIVE / REPORTS[0])).manifest
    rows_and_run = [name for name in before if name.startswith(("predictions", "run", "films/"))]
    assert len(rows_and_run) == 14
    assert all((results / name).read_bytes() == before[name] for name in rows_and_run)


def test_an_archived_run_is_not_done_again(kept: Path) -> None:
    before = contents(kept / "shards-v0.1.0")
    code = cxr.main([*SCORE, "-o", "shards-v0.1.0", "--shard", "2/2"], standalone_mode=False)
    assert code == EXIT_OK
    assert contents(kept / "shards-v0.1.0") == before


@pytest.mark.parametrize("came", [0, 1], ids=["nothing new", "an image came"])
def test_an_archived_run_is_resumed_with_what_failed_or_is_new_alone(kept: Path, came: int) -> None:
    results = kept / "results-v0.1.0"
    before = read_rows(results)
    again = [kept / "images/NORMAL/synthetic_normal_04_truncated.jpeg"]
    for _ in range(came):
        first = kept / "images/NORMAL/synthetic_normal_01.jpeg"
        again.append(shutil.copy(first, first.with_name("zz_new.jpeg")))
    code = cxr.main([*SCORE, "-o", "results-v0.1.0"], standalone_mode=False)
    assert code == EXIT_NOT_ALL_SCORED
    run = msgspec.json.decode((results / "run.json").read_bytes())
    assert (run["found"], run["reused"]) == (10 + came, 9)
    assert run["bytes_read"] == sum(path.stat().st_size for path in again)
    rows = read_rows(results)
    assert [row for row in rows if "zz_new" not in row["image"]] == before
    assert len(rows) == 10 + came


def test_archived_shards_are_merged_into_the_rows_of_the_whole_run(kept: Path) -> None:
    cxr.main(["merge", "shards-v0.1.0", "--no-report"], standalone_mode=False)
    assert read_rows(kept / "shards-v0.1.0") == read_rows(kept / "results-v0.1.0")
