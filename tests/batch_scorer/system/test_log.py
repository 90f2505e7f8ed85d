"""JSON lines say what happened, to machines, without naming a film, a patient or a secret."""

from __future__ import annotations

import contextvars
import json
import logging
import re
import signal
import subprocess
import sys
import time
from datetime import datetime

import numpy as np
import pytest

from batch_scorer.cli import score
from batch_scorer.errors import SourceError
from batch_scorer.storage.retry import translate_error
from batch_scorer.storage.source import open_source
from batch_scorer.system import log
from tests.images import make_film
from tests.tiny_model import save_tiny_model

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def lines_of(text):
    """Every line of standard error as an object; one that is none fails."""
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        assert MOMENT.fullmatch(line["time"])
        assert datetime.fromisoformat(line["time"]).tzinfo
        assert line["level"] in {"debug", "info", "warning", "error"}
    return found


def of_event(lines, name):
    return [line for line in lines if line["event"] == name]


@pytest.fixture
def secretive(tmp_path):
    """Films whose every name could be a patient's, one of them damaged."""
    root = tmp_path / "ward" / "PNEUMONIA"
    root.mkdir(parents=True)
    for index in range(40):
        (root / f"DoeJane_{index:02d}.png").write_bytes(make_film(40 + 4 * index, seed=index))
    (root / "DoeJohn.png").write_bytes(make_film(90)[:300])
    return root.parent


def test_a_run_is_told_in_lines_that_name_no_film(cxr, secretive, tiny_model, tmp_path):
    arguments = ("score", secretive, "-o", tmp_path / "out", "--model", tiny_model)
    run = cxr(*arguments, "--log-format", "json", "--batch-size", "4", "--shard", "1/2")
    assert run.returncode in (0, 3), run.stderr
    lines = lines_of(run.stderr)
    events = [line["event"] for line in lines]
    assert events[0] == "run_started"
    assert events[-2:] == ["run_finished", "exit"]
    told = json.loads((tmp_path / "out" / "shards" / "1-of-2" / "run.json").read_text())
    assert 2 <= len(of_event(lines, "progress")) <= -(-told["found"] // 4)  # one a batch at most
    assert not re.search(r"Doe|PNEUMONIA|ward", run.stderr)
    finished = lines[-2]
    for name in ("run_id", "found", "scored", "failed", "flagged", "bytes_read", "retries"):
        assert finished[name] == told[name]
    assert finished["seconds"] == told["seconds"]
    assert {line.get("shard") for line in lines} == {"1/2"}
    assert {line.get("run") for line in lines} == {told["run_id"][:15]}
    last = of_event(lines, "progress")[-1]
    assert (last["done"], last["found"], last["retries"]) == (told["found"], told["found"], 0)
    assert lines[-1]["exit_code"] == run.returncode


def test_progress_is_told_of_the_first_batch_and_the_last_and_now_and_then(monkeypatch):
    clock, told = [0.0], []
    monkeypatch.setattr(score.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(score, "logs_json", lambda: True)
    monkeypatch.setattr(score, "log_event", lambda name, **fields: told.append(fields))
    with score.ProgressReporter() as progress:
        for done in range(10, 101, 10):
            clock[0] += 10
            progress(done, 100)
    assert [fields["done"] for fields in told] == [10, 40, 70, 100]
    assert [fields["films_per_second"] for fields in told] == [None, 1.0, 1.0, 1.0]


@pytest.mark.slow
def test_lines_are_asked_for_by_the_environment_too_and_words_stay_the_default(
    cxr, folder, tiny_model, tmp_path
):
    arguments = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model)
    first = cxr(*arguments, CXR_LOG_FORMAT="json")
    assert [line["event"] for line in lines_of(first.stderr)] == [
        *("run_started", "progress", "run_finished", "report_drawn", "exit"),
    ]
    again = cxr(*arguments, CXR_LOG_FORMAT="json")
    assert [line["event"] for line in lines_of(again.stderr)] == ["nothing_new", "exit"]
    assert again.stdout.startswith("New       nothing")
    words = cxr(*arguments, "--log-format", "text", "--keep-atypical", CXR_LOG_FORMAT="json")
    assert words.stderr == "scored 6 of 6 images\n"
    assert cxr(*arguments, "--log-format", "xml").returncode == 2


@pytest.mark.parametrize("command", [["models", "show"], ["models", "test"], ["doctor"], ["merge"]])
def test_every_command_takes_the_option(cxr, command):
    assert "--log-format [text|json]" in cxr(*command, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code", "sentence"),
    [
        (["score", "/nowhere/at/all", "-o", "out"], "source", 1, "Expected images at"),
        (
            ["score", "xyz://ward/DoeJane?sig=abc", "-o", "out"],
            "usage",
            2,
            "a readable path or URL",
        ),
        (["score", "DoeJane.png", "DoeJohn.png", "-o", "out"], "usage", 2, "extra argument"),
        (["score", "--nonsense"], "usage", 2, "No such option"),
        (["nonsense"], "usage", 2, "No such command"),
        (["merge", "out"], "ledger", 1, "Expected shards in"),
    ],
)
def test_an_error_is_a_line_with_its_code_and_the_exit_code_another(
    cxr, arguments, code, exit_code, sentence
):
    run = cxr(*arguments, "--log-format=json")
    assert run.returncode == exit_code
    error, end = lines_of(run.stderr)
    assert (error["event"], error["level"], error["code"]) == ("error", "error", code)
    assert sentence in error["sentence"]
    assert end["exit_code"] == exit_code
    assert not re.search("Doe|sig=abc", run.stderr)
    assert "Traceback" not in run.stderr


def test_what_an_error_quotes_of_films_is_for_a_terminal_alone(cxr, folder, tiny_model, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("image,label\nDoeJane.png,0\nDoeJane.png,1\n")
    arguments = ("score", folder, "-o", tmp_path / "out", "--model", tiny_model)
    words = cxr(*arguments, "--labels", table)
    assert "Expected one label for DoeJane.png, found another one in line 3 of" in words.stderr
    line, _ = lines_of(cxr(*arguments, "--labels", table, "--log-format", "json").stderr)
    assert line["sentence"] == (
        f"Expected one label for …, found another one in line 3 of {table}."
    )
    table.write_text("image,label\nfilm.png,DoeJane\n")
    line, _ = lines_of(cxr(*arguments, "--labels", table, "--log-format", "json").stderr)
    assert line["sentence"].endswith("found ….")


def test_a_defect_is_told_by_its_kind_alone(monkeypatch, capsys):
    code = (
        "import sys; sys.argv = ['cxr', 'doctor', '--log-format', 'json']\n"
        "from batch_scorer.cli import main as cli\n"
        "def fail(): raise KeyError('DoeJane')\n"
        "cli.cxr.main = lambda **_: fail()\n"
        "cli.main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    error, end = lines_of(run.stderr)
    assert (error["code"], error["sentence"]) == ("unexpected", "An unexpected KeyError.")
    assert end["exit_code"] == 1
    assert "Doe" not in run.stderr


def test_a_traceback_that_is_asked_for_is_one_line_too(cxr):
    run = cxr("merge", "out", "--log-format", "json", "--debug")
    assert run.returncode == 1
    error, end = lines_of(run.stderr)
    assert error["code"] == "ledger"
    assert error["traceback"].startswith("Traceback (most recent call last):")
    assert end["exit_code"] == 1


def test_a_warning_of_python_s_own_names_its_origin_alone():
    code = (
        "import warnings\nfrom batch_scorer.system import log\n"
        "log.set_log_format('json'); warnings.warn('PatientName DoeJane')\n"
        "log.set_log_format('text'); warnings.warn('plain')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line, *plain = run.stderr.splitlines()
    assert lines_of(line)[0]["logger"] == "py.warnings"
    assert "UserWarning: plain" in "".join(plain)
    assert "Doe" not in run.stderr


@pytest.mark.slow
def test_a_signal_is_a_line_and_the_run_can_go_on(tmp_path):
    model = save_tiny_model(tmp_path / "large.onnx", size_px=512)
    films = tmp_path / "films"
    films.mkdir()
    for index in range(300):
        (films / f"{index}.png").write_bytes(make_film(seed=index, shape=(700, 700)))
    command = ("score", films, "-o", tmp_path / "out", "--model", model, "--batch-size", 2)
    process = subprocess.Popen(
        [sys.executable, "-m", "batch_scorer", *map(str, command), "--log-format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("journal/*")):
        assert time.monotonic() < deadline, "no batch came"
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 75
    lines = lines_of(text)
    assert of_event(lines, "stopping")
    error = of_event(lines, "error")[0]
    assert (error["code"], error["level"]) == ("interrupted", "warning")
    assert error["hint"] == "Run the same command again to resume."
    assert lines[-1]["exit_code"] == 75


def record(name, text, *args, **extra):
    made = logging.LogRecord(name, logging.WARNING, "", 0, text, args, None)
    for key, value in extra.items():
        setattr(made, key, value)
    return json.loads(log.JsonFormatter().format(made))


def test_words_that_were_filled_in_are_hidden_and_other_libraries_named_only():
    own = record(
        "batch_scorer.results.checkpoint",
        "%s is damaged: %d films   again",
        "DoeJane.jsonl",
        np.int64(3),
    )
    assert own["text"] == "… is damaged: 3 films again"
    assert record("trainer.train", "50 % of it")["text"] == "50 % of it"
    other = record("pydicom", "PatientName 'DOE^JANE' is odd")
    assert (other["logger"], "text" in other) == ("pydicom", False)
    odd = record(
        "batch_scorer.system.log", "odd", event="odd", fields={"none": None, "zero": 0, "empty": ""}
    )
    assert "zero" in odd
    assert not {"none", "empty"} & odd.keys()


def test_what_is_bound_stands_in_every_later_line():
    def run():
        log.bind_fields(run="20261127-020000", shard="")
        log.bind_fields(night="20261127")
        return json.loads(log.format_event("progress", "info", {"done": 1}))

    told = contextvars.Context().run(run)
    assert (told["run"], told["night"], told["done"]) == ("20261127-020000", "20261127", 1)
    assert "shard" not in told
    assert "run" not in json.loads(
        contextvars.Context().run(log.format_event, "progress", "info", {})
    )


@pytest.mark.parametrize(
    ("text", "private", "expected"),
    [
        ("film.png in film.png.txt", ["film.png"], "… in ….txt"),
        ("s3://ward/a/b.png cannot be read", [], "s3://ward/… cannot be read"),
        ('"http://user:word@host:9/ward/b.png?sig=x"', [], '"http://host:9/…"'),
        ("nothing to hide.", [""], "nothing to hide."),
    ],
)
def test_a_sentence_for_machines_hides_private_words_and_paths_of_urls(text, private, expected):
    assert log.redact_for_log(text, private) == expected


@pytest.mark.parametrize("name", ["Ward 7/Doe Jane.png", "O'Neil; Jane.png", "a (Doe), b"])
def test_a_machine_learns_of_a_url_no_more_than_its_bucket(name):
    with pytest.raises(SourceError) as absent:
        open_source(f"memory://ward/{name}")
    away = translate_error(TimeoutError(), f"s3://ward/{name}", SourceError, "listed")
    for error in (absent.value, away):
        assert name in str(error)
        told = log.redact_for_log(error.sentence, error.private)
        assert "://ward/…" in told
        assert not {"Doe", "Jane", "7", "b"} & set(re.split(r"\W+", told))


@pytest.mark.parametrize(
    ("arguments", "variable", "expected"),
    [
        (["score", "--log-format", "json"], "", "json"),
        (["score", "--log-format=json"], "text", "json"),
        (["score", "--log-format", "text"], "json", "text"),
        (["score"], "json", "json"),
        (["score", "--log-format"], "json", "text"),
        (["score"], "", "text"),
    ],
)
def test_the_format_is_known_before_the_command_line_is(arguments, variable, expected):
    assert log.find_log_format(arguments, {"CXR_LOG_FORMAT": variable}) == expected
