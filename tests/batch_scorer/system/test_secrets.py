"""No option, however its URL is spelt, tells a secret: not in words, not in JSON, not to debug."""

from __future__ import annotations

import csv
import json
import logging
import sys

import pyarrow.parquet
import pytest
from tenacity import stop_after_attempt

from batch_scorer.cli import main
from batch_scorer.storage import filesystem
from batch_scorer.system import redact
from tests.paths import EXAMPLES

SECRET = "s3cr3tPW"
HOST = f"user:{SECRET}@127.0.0.1"
SPELLINGS = {
    "correct": f"https://{HOST}/logo.png?jwt={SECRET}",
    "one slash": f"https:/{HOST}/logo.png?jwt={SECRET}",
    "no slash": f"https:{HOST}/logo.png?jwt={SECRET}",
    "backslashes": rf"https:\\{HOST}\logo.png?jwt={SECRET}",
    "one backslash": rf"https:\{HOST}\logo.png?jwt={SECRET}",
    "three slashes": f"https:///{HOST}/logo.png?jwt={SECRET}",
    "capitals": f"HTTPS:/{HOST}/logo.png?jwt={SECRET}",
    "a blank in the path": f"https://{HOST}/my films/logo.png?jwt={SECRET}",
    "one slash and a blank": f"https:/{HOST}/my films/logo.png?jwt={SECRET}",
    "a blank in the password": f"https://user:x {SECRET}@127.0.0.1/logo.png?jwt={SECRET}",
    "a blank in the query": f"https://{HOST}/logo.png?jwt=x {SECRET}",
    "slashes in the password": f"https://user:x//{SECRET}@127.0.0.1/logo.png",
    "quotes": f"https://{HOST}/'my' \"films\"?jwt={SECRET}",
    "percent": f"https://user%3A{SECRET}%40127.0.0.1/logo.png?jwt={SECRET}",
    "one slash and percent": f"https:/user%3A{SECRET}%40127.0.0.1/logo.png%3Fjwt={SECRET}",
    "three slashes and percent": f"https:///user%3A{SECRET}%40127.0.0.1/logo.png?jwt={SECRET}",
    "a bucket": f"s3:/AKIA:{SECRET}@bucket/logo.png?sig={SECRET}",
}
FILMS = str(EXAMPLES / "xrays")
SCORE = ("score", FILMS, "-o", "out")
PLACES = {
    "--logo": (*SCORE, "--logo", "URL"),
    "--logo=": (*SCORE, "--logo=URL"),
    "--identifiers-key": (*SCORE, "--identifiers-key", "URL"),
    "--metrics": (*SCORE, "--metrics", "URL/x"),
    "--labels": (*SCORE, "--labels", "URL.csv"),
    "--list-root": (*SCORE, "--list-root", "URL"),
    "--limit": (*SCORE, "--limit", "URL"),
    "--format": (*SCORE, "--format", "URL"),
    "--model": (*SCORE, "--model", "URL"),
    "--nonsense": (*SCORE, "--nonsense=URL"),
    "one too many": (*SCORE, "URL"),
    "images": ("score", "URL", "-o", "out"),
    "no command": ("URL",),
    "-o": ("job", "finish", "-oURL"),
    "merge": ("merge", "URL"),
    "report": ("report", "URL"),
    "verify": ("verify", "URL"),
    "models show": ("models", "show", "URL"),
    "bench": ("bench", "--json", "URL/x", "--model", "nowhere"),
    "train": ("train", "URL", "-o", "out"),
    "audit": ("audit", "URL", "-o", "out"),
}


@pytest.fixture
def say(tmp_path, monkeypatch, capfd):
    """Run ``cxr`` in this process: its exit code, and all that it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(main.STOP_SIGNALS, "install", lambda: None)
    monkeypatch.setattr(main, "exit_process", sys.exit)
    once = filesystem._RETRYING.copy(stop=stop_after_attempt(1))  # 127.0.0.1 does not answer
    monkeypatch.setattr(filesystem, "_RETRYING", once)
    root, log = logging.getLogger(), logging.getLogger("batch_scorer")
    handlers, level = root.handlers[:], log.level

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cxr", *arguments])
        with pytest.raises(SystemExit) as end:
            main.main()
        told = capfd.readouterr()
        return end.value.code, told.out + told.err

    yield run
    root.handlers[:] = handlers
    log.setLevel(level)
    logging.captureWarnings(False)
    redact.register_secrets([])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_option_tells_the_secret_of_a_url(say, place, spelling):
    arguments = [part.replace("URL", SPELLINGS[spelling]) for part in PLACES[place]]
    at = 2 if arguments[0] in {"models", "job"} else 1
    for more in (["--debug"], ["--log-format", "json", "--debug"]):  # the most that is ever told
        code, text = say(*arguments[:at], *(more if place != "no command" else []), *arguments[at:])
        assert code in {1, 2, 75}, text
        assert SECRET not in text
        if "json" in more and place != "no command":
            assert [json.loads(line)["event"] for line in text.splitlines()] == ["error", "exit"]


def test_settings_of_the_environment_are_kept_as_secret(say, monkeypatch):
    monkeypatch.setenv("CXR_SCORE_LOGO", SPELLINGS["a blank in the path"])
    code, text = say(*SCORE)
    assert (code, SECRET in text) == (2, False)
    assert "my films/logo.png" in text


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_log_in_words_tells_no_secret(spelling, caplog):
    text = f"cannot read {SPELLINGS[spelling]}"
    redact.register_secrets([SPELLINGS[spelling]])
    try:
        record = logging.LogRecord("other", logging.WARNING, "", 0, "%s", (text,), None)
        shown = [handler.format(record) for handler in _handlers()]
    finally:
        redact.register_secrets([])
    assert shown
    assert SECRET not in "".join(shown)


def _handlers():
    """The handler of lines that `set_log_format` adds, apart from those of pytest."""
    root = logging.getLogger()
    before = root.handlers[:]
    main.set_log_format("text")
    added = [handler for handler in root.handlers if handler not in before]
    root.handlers[:] = before
    return added


def test_a_row_of_a_list_tells_no_secret(say, tiny_model, tmp_path):
    lines = [url for name, url in SPELLINGS.items() if name != "a bucket"]
    names = ["ward:3/a.jpg", r"C:\x\y.png", "a?b.jpg", "me@home/x.jpg", "100%40/b#c.png"]
    (tmp_path / "films.txt").write_text("\n".join([*lines, *names]))
    code, text = say("score", "films.txt", "-o", "out", "--model", str(tiny_model), "--no-report")
    assert code == 3, text
    out = tmp_path / "out"
    assert SECRET not in text
    for path in out.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in str(pyarrow.parquet.read_table(out / "predictions.parquet").to_pydict())
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as table:
        found = {row["image"] for row in csv.DictReader(table)}
    assert len(found) == len(lines) + len(names)
    assert found.issuperset(names)
