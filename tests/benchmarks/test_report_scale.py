"""The script behind `make bench-report` measures whole reports of runs that are what they say."""

from __future__ import annotations

from click.testing import CliRunner

from batch_scorer.results import store
from batch_scorer.storage.output import open_output
from benchmarks import report_scale
from benchmarks.report_scale import ProcessUsage


def test_a_drawn_run_is_a_run_and_its_page_needs_no_fetcher_of_ours(tmp_path):
    report_scale.make_run(tmp_path / "films", tmp_path / "out", 100)
    manifest, rows, _ = store.read_run(open_output(tmp_path / "out"))
    assert (manifest.found, manifest.scored, manifest.failed) == (100, 99, 1)
    assert manifest.synthetic
    assert 0 < manifest.flagged < 99
    assert all(len(row.probabilities) == 3 for row in rows if row.status == "scored")
    page = report_scale.write_report_html(tmp_path / "out", tmp_path / "page")
    html = page.read_text(encoding="utf-8")
    assert not any(scheme in html for scheme in ('"figure:', '"film:', '"report:'))
    assert "report:" not in (page.parent / "style.css").read_text(encoding="utf-8")
    assert list(page.parent.glob("*.svg"))
    assert list(page.parent.glob("*.jpg"))


def test_a_report_that_is_slow_or_large_ends_with_exit_code_1(monkeypatch):
    good, slow, large = (
        ProcessUsage(5.9, 5, 200e6),
        ProcessUsage(6.1, 5, 200e6),
        ProcessUsage(1, 1, 1e9),
    )
    codes = []
    for ours in (good, slow, large):
        costs = iter([ours, large])
        monkeypatch.setattr(report_scale, "make_run", _write_nothing)
        monkeypatch.setattr(report_scale, "write_report_html", lambda output, folder: folder)
        monkeypatch.setattr(
            report_scale, "measure_command", lambda command, costs=costs: next(costs)
        )
        result = CliRunner().invoke(report_scale.main, ["--rows", "100"])
        assert f"    100 rows  cxr report {ours}, 0.0 MB of PDF" in result.output
        codes.append(result.exit_code)
    assert codes == [0, 1, 1]


def _write_nothing(films, output, number):
    output.mkdir()
    (output / "report.pdf").write_bytes(b"")
