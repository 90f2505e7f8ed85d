"""The command line in a separate process: output, exit codes and one-line errors."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import click
import pikepdf
import pytest

from batch_scorer.cli.main import cxr as commands
from batch_scorer.model.classifier import list_bundled_models
from batch_scorer.storage.output import INTERNAL_FOLDER
from tests.images import make_film
from tests.paths import EXAMPLES

BLOCKED = """
import sys
for name in ("tensorflow", "keras", "onnx", "tf2onnx", "statsmodels", "trainer", "exporter"):
    sys.modules[name] = None
sys.argv = ["cxr", *sys.argv[1:]]
from batch_scorer.cli.main import main
main()
"""


def test_help_is_quick_to_read_and_loads_nothing_heavy(cxr):
    run = cxr("--help")
    assert run.returncode == 0
    for command in ("score", "report", "verify", "models", "doctor", "train", "export"):
        assert command in run.stdout
    assert "Not a medical device" in run.stdout
    assert "..." not in run.stdout.partition("Commands:")[2], "a description is cut off"
    code = "import sys; sys.argv=['cxr','--help']\nfrom batch_scorer.cli.main import main\n"
    code += "try: main()\nexcept SystemExit: print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"tensorflow", "keras", "onnx", "onnxruntime", "numpy", "matplotlib", "weasyprint"}
    assert not heavy & set(loaded)


@pytest.mark.parametrize(
    "command", ["score", "report", "verify", "models", "doctor", "train", "export", "audit"]
)
def test_every_command_has_help_with_an_example(cxr, command):
    run = cxr(command, "--help")
    assert run.returncode == 0
    assert re.search(rf"Examples?:\s+cxr {command} ?", run.stdout)
    assert "--debug" in run.stdout


@pytest.mark.slow
def test_a_requested_variant_draws_the_report_again(cxr, folder, tiny_model, tmp_path):
    report = tmp_path / "out" / "report.pdf"
    command = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model)
    assert cxr(*command, "--pdf-variant", "pdf/ua-1").returncode == 0
    accessible = report.read_bytes()
    assert b"pdfuaid:part" in accessible
    assert cxr(*command).returncode == 0
    assert report.read_bytes() == accessible
    assert cxr(*command, "--pdf-variant", "pdf/a-3a").returncode == 0
    assert b"pdfaid:part" in report.read_bytes()
    assert cxr("score", folder, "-o", tmp_path, "--pdf-variant", "pdf/x-4").returncode == 2


def test_score_prints_six_lines_and_writes_four_files(cxr, folder, tiny_model, tmp_path):
    run = cxr("score", folder, "-o", tmp_path / "out", "--model", tiny_model)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    words = [line.split()[0] for line in lines]
    assert words == ["Files", "Images", "Models", "Labels", "Rows", "Report"]
    assert lines[0] == "Files     6 found = 6 scored + 0 rejected + 0 failed"
    assert lines[1] == "Images    6 scored: 3 flagged, 3 not flagged"
    assert re.search(r"tiny [0-9a-f]{12} on cpu, [\d.]+ images/s", lines[2])
    assert lines[3] == "Labels    6 labelled images: tiny accuracy 1.000 AUC 1.000"
    names = {path.name for path in (tmp_path / "out").iterdir() if path.name != INTERNAL_FOLDER}
    assert names == {"predictions.csv", "predictions.parquet", "run.json", "report.pdf", "films"}
    assert run.stderr == "scored 6 of 6 images\n"


@pytest.mark.slow
def test_the_formats_of_the_report_are_chosen(cxr, folder, tiny_model, tmp_path):
    out = tmp_path / "out"
    run = cxr("score", folder, "-o", out, "--model", tiny_model, "--format", "HTML")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == f"Report    {out}/report.html"
    assert not (out / "report.pdf").exists()
    again = cxr("score", folder, "-o", out, "--model", tiny_model, CXR_SCORE_FORMAT="pdf,html")
    assert again.stdout.splitlines()[-2:] == [
        f"Report    {out}/report.pdf",
        f"Report    {out}/report.html",
    ]
    first = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    drawn = cxr("report", out, "--format", "html,pdf,html")
    assert drawn.stdout == f"Report    {out}/report.html\nReport    {out}/report.pdf\n"
    assert (out / "report.html").read_bytes() == first
    slides = cxr("report", out, "--format", "slides")
    assert slides.stdout == f"Report    {out}/slides.pdf\n"
    assert (out / "slides-notes.txt").read_text().startswith("Speaker notes to slides.pdf")
    wrong = cxr("report", out, "--format", "docx")
    assert wrong.returncode == 2
    assert "expected pdf or html or slides" in wrong.stderr
    assert "found “docx”" in wrong.stderr


def test_a_second_start_says_that_nothing_is_new(cxr, folder, tiny_model, tmp_path):
    arguments = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model, "--no-report")
    first, second = cxr(*arguments), cxr(*arguments)
    assert second.stdout == f"New       nothing: every image already has a row\n{first.stdout}"
    (folder / "late.png").write_bytes(make_film(seed=44))
    third = cxr(*arguments).stdout
    assert "Reused    6 rows of an earlier run, 1 processed in this one" in third


def test_some_files_not_scored_is_exit_3(cxr, folder, tiny_model, tmp_path):
    (folder / "letter.txt").write_text("Dear doctor")
    run = cxr("score", folder, "-o", tmp_path / "out", "--model", tiny_model, "--no-report")
    assert run.returncode == 3
    lines = run.stdout.splitlines()
    assert lines[0] == "Files     7 found = 6 scored + 1 rejected + 0 failed (1 unsupported)"
    assert not (tmp_path / "out" / "report.pdf").exists()


def test_every_option_can_come_from_the_environment(cxr, folder, tiny_model, tmp_path):
    run = cxr(
        "score",
        folder,
        CXR_SCORE_OUTPUT=str(tmp_path / "out"),
        CXR_SCORE_MODEL=str(tiny_model),
        CXR_SCORE_LABELS="none",
        CXR_SCORE_LIMIT="4",
        CXR_SCORE_REPORT="0",
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("Files     4 found = 4 scored")
    assert "Labels    0 labelled images\n" in run.stdout


@pytest.mark.slow
def test_one_line_and_the_right_exit_code_for_each_mistake(cxr, folder, tiny_model, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").write_text("")
    out = ("-o", tmp_path / "out", "--model", tiny_model)
    mistakes = [
        (("score", tmp_path / "missing", *out), 1, "found nothing there"),
        (("score", tmp_path / "empty", *out), 1, "found no file in it"),
        (("score", folder, "-o", "/proc/nowhere", "--model", tiny_model), 1, "cannot be written"),
        (("score", folder, "-o", tmp_path / "out", "--model", "resnet"), 2, "found resnet"),
        (("score", folder, *out, "--provider", "cuda"), 1, "Expected the CUDA provider"),
        (("score", folder, *out, "--labels", "nowhere.csv"), 1, "cannot be read"),
        (("score", folder, "-o", folder / "out", "--model", tiny_model), 2, "lies inside"),
        (("report", tmp_path / "empty"), 1, "Expected a finished run"),
        (
            ("export", tmp_path / "empty", "-o", tmp_path / "models"),
            1,
            "Expected a finished training run",
        ),
    ]
    for arguments, code, message in mistakes:
        run = cxr(*arguments)
        assert run.returncode == code, run.stderr
        assert run.stderr.startswith("Error: ")
        assert run.stderr.count("\n") == 1
        assert message in run.stderr
    assert "Traceback" in cxr("report", tmp_path / "empty", "--debug").stderr


@pytest.mark.slow
def test_the_report_is_drawn_again_with_another_title_and_logo(cxr, folder, tiny_model, tmp_path):
    command = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model)
    run = cxr(*command, "--title", "Round 1", CXR_SCORE_ORGANISATION="Clinic 7")
    assert run.returncode == 0, run.stderr
    report = tmp_path / "out" / "report.pdf"
    assert titles(report) == ("Round 1, run", "Clinic 7")
    assert cxr(*command).returncode == 0
    assert titles(report) == ("Round 1, run", "Clinic 7"), "a finished run is left as it is"
    assert cxr(*command, "--title", "Round 2").returncode == 0
    assert titles(report) == ("Round 2, run", "cxr-batch")
    logo = tmp_path / "logo.svg"
    logo.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><g/></svg>')
    run = cxr("report", tmp_path / "out", "--title", "Round 3", "--logo", logo)
    assert run.returncode == 0, run.stderr
    assert titles(report) == ("Round 3, run", "cxr-batch")
    logo.write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><svg>&b;</svg>")
    run = cxr("report", tmp_path / "out", "--logo", logo)
    assert run.returncode == 2
    assert "found entity declarations" in run.stderr
    run = cxr("score", folder, "-o", tmp_path / "new", "--model", tiny_model, "--logo", logo)
    assert (run.returncode, (tmp_path / "new").exists()) == (2, False), "said before any work"


def titles(report):
    with pikepdf.open(report) as pdf:
        return str(pdf.docinfo["/Title"])[:12], str(pdf.docinfo["/Author"])


def test_wrong_words_are_exit_2(cxr, folder):
    assert cxr("score", folder).returncode == 2
    assert cxr("nonsense").returncode == 2
    assert "No such option" in cxr("score", folder, "--nonsense").stderr


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_a_run_is_exit_75_and_leaves_no_finished_run(tmp_path, tiny_model, kind):
    films = tmp_path / "xrays"
    films.mkdir()
    (films / "0.png").write_bytes(make_film())
    for index in range(1, 20_000):  # enough to let the signal come in time on a busy machine
        (films / f"{index}.png").hardlink_to(films / "0.png")
    command = [
        sys.executable,
        "-m",
        "batch_scorer",
        "score",
        films,
        "-o",
        tmp_path / "out",
        "--model",
        tiny_model,
    ]
    with subprocess.Popen(
        [*map(str, command), "--batch-size", "1"],
        stderr=subprocess.PIPE,
        text=True,
        # a background job ignores SIGINT, and its children would too
        preexec_fn=lambda: signal.signal(kind, signal.SIG_DFL),  # noqa: PLW1509
    ) as run:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("out/journal/*")) and time.monotonic() < deadline:
            os.sched_yield()
        run.send_signal(kind)
        error = run.communicate(timeout=60)[1]
    assert run.returncode == 75
    assert error.startswith("\nFinishing this batch. Interrupt again to stop at once.\n")
    assert re.search(
        r"Interrupted: \d+ of 20000 images are done. Run the same command again", error
    )
    assert not (tmp_path / "out" / "run.json").exists()


def test_the_scorer_runs_where_training_cannot_be_imported(tmp_path):
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            BLOCKED,
            "score",
            str(EXAMPLES),
            "-o",
            str(tmp_path / "out"),
            "--model",
            "all",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "24 synthetic scored" in run.stdout
    assert (tmp_path / "out" / "report.pdf").stat().st_size > 20_000


def test_the_examples_are_scored_sensibly(cxr, tmp_path):
    run = cxr("score", EXAMPLES, "-o", tmp_path / "out", "--model", "all", "--no-report")
    accuracies = [float(found) for found in re.findall(r"accuracy ([\d.]+)", run.stdout)]
    assert len(accuracies) == 3
    assert min(accuracies) >= 0.75


def test_models_and_doctor_describe_the_installation(cxr):
    listed = cxr("models").stdout
    assert all(name in listed for name in ("mlp", "cnn", "vgg16"))
    assert "cnn and vgg16 are both better than mlp." in listed
    assert re.search(r"^mlp +\d\.\d MB  float32 ", listed, re.MULTILINE)
    shown = cxr("models", "show", "cnn", "--debug").stdout
    assert "of 100 X-rays with" in shown
    assert "not a medical device" in shown
    tested = cxr("models", "test")
    assert tested.returncode == 0
    assert tested.stdout.count(" ok ") == 3
    doctor = cxr("doctor")
    assert doctor.returncode == 0
    assert re.search(r"^cpu +works, self-test passed$", doctor.stdout, re.MULTILINE)
    assert re.search(r"^report +can be drawn$", doctor.stdout, re.MULTILINE)


def test_the_default_model_is_the_best_on_validation():
    command = commands.get_command(click.Context(commands), "score")
    default = next(param.default for param in command.params if param.name == "model")
    assert default == (list_bundled_models()[0],)
