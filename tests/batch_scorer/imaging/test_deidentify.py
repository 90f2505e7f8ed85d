"""Whose film it is: kept, hashed with a key, or left out; and never told anywhere else."""

from __future__ import annotations

import csv
import json
import re

import msgspec
import pypdfium2
import pytest

from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import UsageError
from batch_scorer.imaging.decode import read_image
from batch_scorer.imaging.deidentify import KEY_VARIABLE, Deidentifier
from batch_scorer.imaging.file_names import parse_patient
from batch_scorer.results import store
from batch_scorer.storage.output import open_output
from tests.batch_scorer.imaging.pixel_table import GREY, dicom
from tests.images import make_film

PATIENT, STUDY = "MUSTERMANN-4711", "1.2.826.0.1.3680043.8.498.4711"
KEY = b"a key of the test's own"


def film_of(patient=PATIENT, study=STUDY, **attributes):
    return dicom(GREY, PatientID=patient, StudyInstanceUID=study, **attributes)


def read_identifiers(data):
    content = read_image(data, ())
    assert content.error is None
    return content.patient_id, content.study_uid


def test_a_dicom_film_tells_both_and_a_picture_neither():
    assert read_identifiers(film_of()) == (PATIENT, STUDY)
    assert read_identifiers(dicom(GREY)) == ("", "")
    assert read_identifiers(make_film()) == ("", "")


def test_a_hash_depends_on_key_kind_and_value_alone():
    identifiers = Deidentifier("hash", KEY)
    patient, study = identifiers.apply("A", "A")
    assert re.fullmatch(r"[0-9a-f]{16}", patient)
    assert patient != study  # the same text as patient and as study cannot be linked
    assert Deidentifier("hash", KEY).apply("A", "A") == (patient, study)
    assert Deidentifier("hash", KEY + b"!").apply("A", "A")[0] != patient
    assert identifiers.apply("B", "A")[0] != patient
    assert identifiers.apply("", "") == ("", "")


def test_the_hash_is_hmac_sha256_as_anybody_can_compute_it():
    # printf patient:A | openssl dgst -sha256 -hmac "a key of the test's own"
    assert Deidentifier("hash", KEY).apply("A", "")[0] == "eba4b514ac298cd0"


def test_without_a_key_both_are_left_out():
    assert Deidentifier("hash").apply(PATIENT, STUDY) == ("", "")
    assert Deidentifier("hash").effective_mode == "drop"
    assert Deidentifier("drop", KEY).apply(PATIENT, STUDY) == ("", "")


@pytest.mark.parametrize(
    "hostile",
    [
        "two\nlines\r\n",
        "<script>alert(1)</script>",
        "x" * 65_536,
        "\u202egnp.exe",
        "a\0b",
        "\ud800",
    ],
)
def test_hostile_text_becomes_one_short_printable_line(hostile):
    kept = Deidentifier("keep").apply(hostile, "")[0]
    assert kept.isprintable()
    assert 0 < len(kept) <= 64
    assert re.fullmatch(r"[0-9a-f]{16}", Deidentifier("hash", KEY).apply(hostile, "")[0])


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    (tmp_path / "key").write_bytes(KEY + b"\n")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert Deidentifier.from_options("hash", None) == Deidentifier("hash", b"")
    assert Deidentifier.from_options("hash", tmp_path / "key") == Deidentifier("hash", KEY)
    monkeypatch.setenv(KEY_VARIABLE, KEY.decode())
    assert Deidentifier.from_options("hash", None) == Deidentifier("hash", KEY)
    assert Deidentifier.from_options("keep", None) == Deidentifier("keep")
    assert KEY.decode() not in repr(Deidentifier("hash", KEY))


def test_a_key_that_is_short_or_not_there_is_refused(tmp_path, monkeypatch):
    (tmp_path / "key").write_bytes(b"short\n")
    with pytest.raises(UsageError, match=r"at least 16 bytes in .*key, found 5"):
        Deidentifier.from_options("hash", tmp_path / "key")
    with pytest.raises(UsageError, match="none cannot be read: No such file"):
        Deidentifier.from_options("hash", tmp_path / "none")
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(UsageError, match=f"{KEY_VARIABLE}, found 5"):
        Deidentifier.from_options("hash", None)


@pytest.fixture
def ward(tmp_path):
    """Films of one patient and of a hostile one, a Kermany picture, a side view, broken headers."""
    root = tmp_path / "xrays"
    root.mkdir()
    (root / "a").write_bytes(film_of())
    (root / "b").write_bytes(film_of(study=STUDY + ".2", WindowCenter=120, WindowWidth=200))
    (root / "person7_virus_1.png").write_bytes(make_film())
    (root / "side").write_bytes(film_of(ViewPosition="LL", PatientName=PATIENT))
    (root / "unknown").write_bytes(film_of(Modality=PATIENT))
    (root / "hostile").write_bytes(film_of('=1+1\n"<b>,' + "x" * 65_000, PATIENT))
    (root / "broken").write_bytes(film_of().replace(b"MONOCHROME2", PATIENT[:11].encode()))
    return root


def rows_of(output):
    with (output / store.CSV_FILE).open(newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def told_anywhere(run, output):
    """Everything that the run left behind but the rows' own two columns."""
    rows = [
        {name: cell for name, cell in row.items() if name not in ("patient", "study")}
        for row in rows_of(output).values()
    ]
    report = pypdfium2.PdfDocument(output / store.REPORT_FILE)
    pages = [page.get_textpage().get_text_range() for page in report]
    attached = [report.get_attachment(n).get_data() for n in range(report.count_attachments())]
    manifest = (output / store.RUN_FILE).read_text()
    return f"{run.stdout}{run.stderr}{rows}{pages}{attached}{manifest}"


def test_keep_tells_them_in_the_rows_and_nowhere_else(cxr, ward, tiny_model, tmp_path):
    out = tmp_path / "out"
    run = cxr("score", ward, "-o", out, "--model", tiny_model, "--identifiers", "keep")
    assert run.returncode == 3, run.stderr
    rows = rows_of(out)
    assert (rows["a"]["patient"], rows["a"]["study"]) == (PATIENT, STUDY)
    assert rows["side"]["patient"] == PATIENT
    assert rows["hostile"]["patient"].startswith("'=1+1 \"<b>,xxx")
    assert len(rows["hostile"]["patient"]) == 65  # the apostrophe, and no more than DICOM allows
    assert rows["person7_virus_1.png"]["patient"] == "person7"
    assert PATIENT not in told_anywhere(run, out)
    assert STUDY not in told_anywhere(run, out)
    assert json.loads((out / store.RUN_FILE).read_text())["identifiers"] == "keep"


def test_hashes_are_the_same_in_every_run_with_one_key(cxr, ward, tiny_model, tmp_path):
    (tmp_path / "key").write_bytes(KEY)
    common = ("score", ward, "--model", tiny_model, "--no-report", "-o")
    first = cxr(*common, tmp_path / "one", "--identifiers-key", tmp_path / "key")
    again = cxr(*common, tmp_path / "two", **{KEY_VARIABLE: KEY.decode()})
    assert (first.returncode, again.returncode) == (3, 3), first.stderr + again.stderr
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert {name: row["patient"] for name, row in one.items()} == {
        name: row["patient"] for name, row in two.items()
    }
    assert (
        one["a"]["patient"]
        == one["b"]["patient"]
        == Deidentifier("hash", KEY).apply(PATIENT, "")[0]
    )
    assert one["a"]["study"] != one["b"]["study"]
    assert PATIENT not in (tmp_path / "one" / store.CSV_FILE).read_text()
    assert KEY.decode() not in (tmp_path / "one" / store.RUN_FILE).read_text()


def test_without_a_key_one_line_says_that_they_are_left_out(cxr, ward, tiny_model, tmp_path):
    out = tmp_path / "out"
    run = cxr("score", ward, "-o", out, "--model", tiny_model, "--no-report")
    assert run.stderr.count("omitted, because hashing needs a key") == 1
    rows = rows_of(out)
    assert {row["patient"] for row in rows.values()} == {""}
    assert json.loads((out / store.RUN_FILE).read_text())["identifiers"] == "drop"
    silent = cxr("score", ward, "-o", out, "--model", tiny_model, "--identifiers", "drop")
    assert "left out" not in silent.stderr


@pytest.mark.parametrize(
    ("mode", "key", "column"),
    [
        ("keep", b"", "person7"),
        ("drop", KEY, ""),
        ("hash", b"", ""),
        ("hash", KEY, Deidentifier("hash", KEY).apply("person7", "")[0]),
    ],
)
def test_a_patient_number_in_a_file_s_name_is_treated_as_one_in_a_header(
    folder, tiny_model, tmp_path, mode, key, column
):
    (folder / "person7_virus_1.png").write_bytes(make_film())
    job = ScoreJob(
        str(folder), str(tmp_path / "out"), (str(tiny_model),), identifiers=Deidentifier(mode, key)
    )
    run_score_job(job)
    rows = {row.image: row for row in store.read_run(open_output(tmp_path / "out")).rows}
    assert rows["person7_virus_1.png"].patient == column
    assert rows["NORMAL/film_0.png"].patient == ""
    assert "person7" not in rows["person7_virus_1.png"].patient or mode == "keep"


@pytest.mark.parametrize("identifiers", [Deidentifier("drop"), Deidentifier("hash", KEY)])
def test_patient_numbers_of_names_go_from_the_rows_of_older_versions(
    tiny_model, tmp_path, identifiers
):
    films = tmp_path / "films"
    films.mkdir()
    for number in range(3):
        (films / f"person{number}_virus_1.png").write_bytes(make_film(100 + number))
    job = ScoreJob(str(films), str(tmp_path / "out"), (str(tiny_model),), identifiers=identifiers)
    run_score_job(job)
    output = open_output(job.output)
    manifest, rows, _ = store.read_run(output)
    old = [msgspec.structs.replace(row, patient=parse_patient(row.image)) for row in rows]
    assert {row.patient for row in old} == {"person0", "person1", "person2"}
    store.write_rows(output, old, manifest.models, manifest.config_hash)
    output.remove(store.RUN_FILE)
    (films / "person3_virus_1.png").write_bytes(make_film(103))
    assert run_score_job(job).reused == 3
    rows = store.read_run(output).rows
    assert [row.patient for row in rows] == [
        identifiers.apply_to_patient_id(parse_patient(row.image)) for row in rows
    ]


@pytest.mark.slow
def test_films_of_one_patient_stay_together_whatever_the_column_holds(tiny_model, tmp_path):
    for number in range(40):
        label = "PNEUMONIA" if number % 2 else "NORMAL"
        name = f"person{number // 8 * 2 + number % 2}_bacteria_{number}.png"
        path = tmp_path / "films" / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_film(60 + 3 * number, seed=number))
    metrics = []
    for mode, key in (("keep", b""), ("hash", b""), ("hash", KEY)):
        output = str(tmp_path / f"{mode}{len(key)}")
        job = ScoreJob(
            str(tmp_path / "films"),
            output,
            (str(tiny_model),),
            identifiers=Deidentifier(mode, key),
        )
        metrics.append(run_score_job(job).metrics)
    kept, dropped, hashed = metrics
    assert kept == dropped
    before, after = (found[0].metrics["accuracy"] for found in (kept, hashed))
    assert after.value == before.value  # hashes sort otherwise, and so are drawn otherwise
    assert (after.low, after.high) == pytest.approx((before.low, before.high), abs=0.05)
