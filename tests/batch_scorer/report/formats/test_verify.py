"""cxr verify: a report that agrees with itself, and every way in which one may not."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import msgspec
import pikepdf
import pypdfium2
import pytest

from batch_scorer.errors import ReportError
from batch_scorer.report.content import predictions
from batch_scorer.report.content.statements import (
    Statements,
    collect_totals,
    fill_tags,
    find_numbers,
    list_legacy_sentences,
    tag_numbers,
)
from batch_scorer.report.formats import verify
from batch_scorer.report.formats.draw import draw_report
from batch_scorer.report.formats.verify import verify_report
from batch_scorer.results import store
from batch_scorer.results.schema import RunChanges, RunManifest
from tests.factories import (
    make_band,
    make_models,
    make_rows,
    make_typicality,
    make_unscored,
    write_run,
)
from tests.tampering import (
    attach,
    change_manifest,
    change_statements,
    clear_a_flag,
    read,
    swap_big_numbers,
    tampered,
)

if TYPE_CHECKING:
    from pathlib import Path

OF_LATER = b'{"version": 2, "run_sha256": "", "model": "", "sentences": []}'
MANY = msgspec.json.encode(Statements("", "", ["x"] * 51))
LONG = msgspec.json.encode(Statements("", "", ["x" * 2001]))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of 21 scored films, two of them atypical, and 3 that were not scored."""
    output = tmp_path_factory.mktemp("run")
    models = make_models("cnn", "mlp", band=make_band(), typicality=make_typicality())
    rows = [
        msgspec.structs.replace(row, atypical=index in (3, 5), typicality=0.5)
        for index, row in enumerate(make_rows(models))
    ]
    write_run(output, rows + make_unscored(3), models, atypical=2)
    draw_report(output)
    return output / "report.pdf"


def flagged_of(report: Path) -> int:
    return next(
        total.rows for total in verify_report(str(report)).totals if total.name == "flagged"
    )


def test_a_report_agrees_with_itself(report: Path) -> None:
    manifest = msgspec.json.decode((report.parent / "run.json").read_bytes(), type=RunManifest)
    found = verify_report(str(report))
    assert found.faults == ()
    assert found.manifest == manifest
    assert {total.name: (total.rows, total.run, total.page) for total in found.totals} == {
        "found": (24, 24, (24,)),
        "scored": (21, 21, (21,)),
        "flagged": (manifest.flagged, manifest.flagged, (manifest.flagged,)),
        "not flagged": (manifest.not_flagged, manifest.not_flagged, (manifest.not_flagged,)),
        "not scored": (3, 3, (3,)),
        "undecided": (manifest.undecided, manifest.undecided, (manifest.undecided,)),
        "atypical": (2, 2, (2,)),
    }
    assert 0 < manifest.flagged < 21
    assert manifest.undecided


def test_a_changed_row_is_found(report: Path, tmp_path: Path) -> None:
    flagged = flagged_of(report)
    faults = verify_report(tampered(report, tmp_path, clear_a_flag)).faults
    assert faults[0].startswith("predictions.csv was changed: its SHA-256 is ")
    assert (
        f"flagged: {flagged - 1} by the rows, {flagged} by run.json, {flagged} on page 1" in faults
    )


def test_a_changed_row_is_found_even_when_every_hash_and_run_json_were_changed_too(
    report: Path, tmp_path: Path
) -> None:
    flagged = flagged_of(report)

    def follow(pdf: pikepdf.Pdf) -> None:
        sha256 = hashlib.sha256(read(pdf, "predictions.csv")).hexdigest()
        change_manifest(pdf, rows_sha256=sha256, flagged=flagged - 1)
        change_statements(pdf, run_sha256=hashlib.sha256(read(pdf, "run.json")).hexdigest())

    faults = verify_report(tampered(report, tmp_path, clear_a_flag, follow)).faults
    assert faults == (
        f"flagged: {flagged - 1} by the rows, {flagged - 1} by run.json, {flagged} on page 1",
        f"not flagged: {22 - flagged} by the rows, {22 - flagged} by run.json, {21 - flagged} on "
        "page 1",
    )


def test_a_changed_run_json_is_found_even_where_no_total_of_it_was_changed(
    report: Path, tmp_path: Path
) -> None:
    changed = tampered(report, tmp_path, lambda pdf: change_manifest(pdf, provider="cuda"))
    [fault] = verify_report(changed).faults
    assert fault.startswith("run.json was changed: its SHA-256 is ")


def test_changed_numbers_on_page_one_are_found(report: Path, tmp_path: Path) -> None:
    flagged, clear = flagged_of(report), 21 - flagged_of(report)
    low, high = sorted((flagged, clear))
    faults = verify_report(tampered(report, tmp_path, swap_big_numbers)).faults
    assert faults == (
        # The headline still tells the number that the big one contradicts.
        f"flagged: {flagged} by the rows, {flagged} by run.json, {low} and {high} on page 1",
        f"not flagged: {clear} by the rows, {clear} by run.json, {flagged} on page 1",
    )


def test_a_page_one_of_another_run_or_model_is_found(report: Path, tmp_path: Path) -> None:
    other = make_models("mlp", band=make_band(), typicality=make_typicality())
    path = tampered(
        report, tmp_path, lambda pdf: change_manifest(pdf, run_id="20270101-x", models=other)
    )
    faults = verify_report(path).faults
    assert "page 1 does not name the run 20270101-x" in faults
    assert f"page 1 does not name the model mlp {other[0].sha256[:12]}" in faults


def test_a_page_one_without_its_numbers_is_found(report: Path, tmp_path: Path) -> None:
    path = tampered(report, tmp_path, lambda pdf: pdf.pages.remove(p=1))
    faults = verify_report(path).faults
    assert any("page 1 does not say “3 not scored read" in fault for fault in faults)


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("{flagged} flagged possible pneumonia: read first", "page 1 does not state not scored"),
        ("{flagged} of them are ill", "page 1 does not say “FLAGGED of them are ill” with any"),
        ("{not flagged} flagged possible pneumonia: read first", "not flagged: CLEAR by the rows"),
    ],
    ids=["one left out", "one that is not there", "one of another number"],
)
def test_statements_that_page_one_does_not_bear_out_are_found(
    report: Path, tmp_path: Path, sentence: str, fault: str
) -> None:
    flagged = flagged_of(report)
    fault = fault.replace("FLAGGED", str(flagged)).replace("CLEAR", str(21 - flagged))
    path = tampered(report, tmp_path, lambda pdf: change_statements(pdf, sentences=[sentence]))
    assert any(found.startswith(fault) for found in verify_report(path).faults)


def test_a_page_one_that_was_changed_with_its_statements_is_found_by_the_words_of_before(
    report: Path, tmp_path: Path
) -> None:
    """The sentences left in the statements all stand on the page, with numbers that agree."""

    def hide(pdf: pikepdf.Pdf) -> None:
        statements = msgspec.json.decode(read(pdf, "statements.json"), type=Statements)
        kept = [text for text in statements.sentences if " of " in text or "file" in text]
        change_statements(
            pdf, sentences=[*kept, "{not flagged} flagged", "{not scored} not scored"]
        )

    flagged, clear = flagged_of(report), 21 - flagged_of(report)
    low, high = sorted((flagged, clear))
    faults = verify_report(tampered(report, tmp_path, swap_big_numbers, hide)).faults
    assert (
        f"flagged: {flagged} by the rows, {flagged} by run.json, {low} and {high} on page 1"
        in faults
    )


def test_statements_of_another_model_are_found(report: Path, tmp_path: Path) -> None:
    path = tampered(report, tmp_path, lambda pdf: change_statements(pdf, model="1 Summary"))
    [fault] = verify_report(path).faults
    assert fault.startswith("page 1 does not name the model cnn ")


def test_a_report_that_lost_its_statements_is_read_by_the_words_of_before(
    report: Path, tmp_path: Path
) -> None:
    def lose(pdf: pikepdf.Pdf) -> None:
        del pdf.attachments["statements.json"]

    flagged = flagged_of(report)
    assert verify_report(tampered(report, tmp_path, lose)).faults == ()
    faults = verify_report(tampered(report, tmp_path, lose, swap_big_numbers)).faults
    assert any(fault.startswith(f"flagged: {flagged} by the rows") for fault in faults)


@pytest.mark.parametrize("name", ["predictions.csv", "run.json"])
def test_a_report_without_its_attachments_is_refused(
    report: Path, tmp_path: Path, name: str
) -> None:
    path = tampered(report, tmp_path, lambda pdf: pdf.attachments.__delitem__(name))
    with pytest.raises(ReportError, match=f"Expected one file {name} inside .* found 0 files"):
        verify_report(path)


@pytest.mark.parametrize("password", ["secret", ""], ids=["to open", "to change"])
def test_an_encrypted_report_is_refused(report: Path, tmp_path: Path, password: str) -> None:
    path = tmp_path / "locked.pdf"
    with pikepdf.open(report) as pdf:
        pdf.save(path, encryption=pikepdf.Encryption(owner="owner", user=password))
    with pytest.raises(ReportError, match="Expected an unencrypted PDF"):
        verify_report(str(path))


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"Expected a report at .*, found nothing"):
        verify_report(str(tmp_path / "missing.pdf"))
    with pytest.raises(ReportError, match="cannot be read"):
        verify_report(str(tmp_path))
    (tmp_path / "text.pdf").write_text("no PDF")
    with pytest.raises(ReportError, match="Expected a PDF with at least one page"):
        verify_report(str(tmp_path / "text.pdf"))
    with pikepdf.new() as pdf:
        pdf.add_blank_page()
        pdf.save(tmp_path / "other.pdf")
    with pytest.raises(ReportError, match=r"Give the report\.pdf of a run, or draw it again"):
        verify_report(str(tmp_path / "other.pdf"))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("run.json", b"{}", "run.json inside .* cannot be read"),
        ("run.json", b"\xff", "run.json inside .* cannot be read"),
        ("predictions.csv", b"a,b\n1,2\n", "Expected a table of predictions in predictions.csv"),
        (
            "predictions.csv",
            b"status\n\xff\n",
            "Expected a table of predictions in predictions.csv",
        ),
        ("predictions.csv", b"status,prediction\nscored\n", "found row 1 too short"),
        ("predictions.csv", b"", "Expected 1 to 250,000 bytes in predictions.csv .*, found 0"),
        ("predictions.csv", b"\n" * 250_001, "in predictions.csv inside .*, found 250,001"),
        ("statements.json", b"{}", "statements.json inside .* cannot be read"),
        ("statements.json", OF_LATER, "statements.json inside .* cannot be read: Invalid enum"),
        ("statements.json", MANY, "statements.json inside .* cannot be read: .* length <= 50"),
        ("statements.json", LONG, "statements.json inside .* cannot be read: .* length <= 2000"),
        ("statements.json", b" " * 200_001, "in statements.json inside .*, found 200,001"),
        ("run.json", b" " * (verify.MAX_RUN_BYTES + 1), "in run.json .*, found 20,000,001"),
    ],
)
def test_attachments_of_another_kind_are_refused(
    report: Path, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = tampered(report, tmp_path, lambda pdf: attach(pdf, name, data))
    with pytest.raises(ReportError, match=message):
        verify_report(path)


def test_only_the_files_of_a_report_are_unpacked(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(pdf: pikepdf.Pdf) -> None:
        for name in ("a.bin", "z.bin"):
            pdf.attachments[name] = pikepdf.AttachedFileSpec(pdf, bytes(999), filename=name)

    sizes = []

    def get_data(file: pypdfium2.PdfAttachment, real=pypdfium2.PdfAttachment.get_data) -> object:
        sizes.append(len(data := real(file)))
        return data

    monkeypatch.setattr(pypdfium2.PdfAttachment, "get_data", get_data)
    assert verify_report(tampered(report, tmp_path, add)).faults == ()
    assert len(sizes) == 3
    assert 999 not in sizes
    monkeypatch.setattr(verify, "MAX_ATTACHMENTS", 3)
    with pytest.raises(ReportError, match=r"at most 3 files inside .*, found 5"):
        verify_report(str(tmp_path / "tampered.pdf"))


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 40, "9" + ",999" * 1500])
def test_a_number_of_any_length_on_page_one_is_no_total(number: str, report: Path) -> None:
    manifest = verify_report(str(report)).manifest
    totals = collect_totals(manifest)
    said = " | ".join(fill_tags(group[-1], totals) for group in list_legacy_sentences(manifest))
    assert verify._check_page(said, manifest, None)[0].keys() >= {"found", "scored", "flagged"}
    readings, unsaid = verify._check_page(re.sub(r"\d+", number, said), manifest, None)
    assert all(told < 10**36 for numbers in readings.values() for told in numbers)
    assert unsaid


@pytest.mark.parametrize("page", ["1" * 20_000, "1 " * 10_000, "1 x " * 5_000, " " * 20_000])
@pytest.mark.parametrize("part", ["{flagged}", "{flagged} {scored} ", "{flagged}1", "{flagged} x "])
def test_a_hostile_sentence_costs_no_time(part: str, page: str) -> None:
    """With any way to divide the page among the numbers, this would never end."""
    assert find_numbers(f"{part * 150}!", page) is None


def test_a_sentence_is_found_however_its_lines_are_broken() -> None:
    lines = "Of 1,204\nchest X-\nrays,  12 were\nflagged. Of 1,204 chest X-rays, 9 were flagged."
    sentence = "Of {scored} chest X-rays, {flagged} were flagged."
    assert find_numbers(sentence, lines) == [
        *(("scored", 1204), ("flagged", 12)),
        *(("scored", 1204), ("flagged", 9)),
    ]
    assert find_numbers(sentence, lines.replace("X", "x")) is None


@pytest.mark.parametrize(
    ("printed", "tagged"),
    [
        ("12 of 21 films were flagged.", "{flagged} of {scored} films were flagged."),
        ("Of 21 films, 12 were flagged.", "Of {scored} films, {flagged} were flagged."),
        ("In 12.5 s or 112, 12 of 21", "In 12.5 s or 112, {flagged} of {scored}"),
        ("None of 21 films", "None of {scored} films"),
    ],
)
def test_numbers_get_their_tags_in_any_order(printed: str, tagged: str) -> None:
    assert tag_numbers(printed, {"flagged": 12, "scored": 21}) == tagged


def test_a_document_without_pages_is_refused_in_plain_words(report: Path, tmp_path: Path) -> None:
    path = tampered(report, tmp_path, lambda pdf: pdf.pages.__delitem__(slice(None)))
    with pytest.raises(ReportError, match="Expected a PDF with at least one page") as told:
        verify_report(path)
    assert "Success" not in str(told.value)


@pytest.mark.slow
@pytest.mark.parametrize("films", [0, 1, 1234])
def test_reports_of_no_film_of_one_and_of_many_agree(
    tmp_path: Path, films: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "MAX_PREDICTION_ROWS", 10)
    models = make_models("cnn", band=make_band())
    rows = make_rows(models, films // 2, films - films // 2, labelled=False)
    if not films:
        rows = make_unscored(2)
    write_run(tmp_path, rows, models, source="1,000 films “of the 7 clinics” 胸" + "x" * 99)
    found = verify_report(draw_report(tmp_path)[0])
    assert found.faults == ()
    assert next(total.page for total in found.totals if total.name == "found") == (films or 2,)


def test_the_command_says_what_agrees_and_what_does_not(report: Path, tmp_path: Path, cxr) -> None:
    manifest = msgspec.json.decode((report.parent / store.RUN_FILE).read_bytes(), type=RunManifest)
    good = cxr("verify", report)
    assert good.returncode == 0, good.stderr
    assert f"Model       cnn.onnx, SHA-256 {manifest.models[0].sha256}" in good.stdout
    assert f"Rows        predictions.csv, SHA-256 {manifest.rows_sha256}" in good.stdout
    assert "Found       24 by the rows, by run.json and on page 1" in good.stdout
    assert good.stdout.endswith("Agrees      page 1, run.json and the rows agree.\n")
    bad = cxr("verify", tampered(report, tmp_path, swap_big_numbers))
    assert bad.returncode == 1
    assert "Agrees" not in bad.stdout
    assert bad.stderr.startswith("Error: ")
    assert "tampered.pdf does not agree with itself: flagged: " in bad.stderr
    assert "Traceback" not in bad.stderr


@pytest.mark.slow
def test_what_is_new_in_a_night_is_counted_again(tmp_path: Path) -> None:
    night, before = "20261127-020000", "20261126-020000"
    models = make_models("cnn")
    rows = make_rows(models)
    dates = [night if index < 7 else before for index in range(len(rows))]
    flagged = sum(row.prediction == "PNEUMONIA" for row in rows[:7])
    since = RunChanges(before, "2026-11-26T02:07:00+00:00", 15, 5, 2, 1, flagged)
    write_run(tmp_path, rows, models, {"run_date": dates}, run_date=night, changes=since)
    draw_report(tmp_path)
    found = verify_report(str(tmp_path / "report.pdf"))
    assert found.faults == ()
    totals = {total.name: (total.rows, total.run, total.page) for total in found.totals}
    assert totals["new"] == (7, 7, (7,))
    assert totals["new flagged"] == (flagged, flagged, (flagged,))
    fewer = msgspec.structs.replace(since, changed=1)
    url = tampered(
        tmp_path / "report.pdf", tmp_path, lambda pdf: change_manifest(pdf, changes=fewer)
    )
    assert "new: 7 by the rows, 6 by run.json, 7 on page 1" in verify_report(url).faults
