"""The Python API: lazy, typed, quiet, and as good as the command."""

from __future__ import annotations

import ast
import csv
import dataclasses
import importlib
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import batch_scorer
from batch_scorer.api import JobOptions
from batch_scorer.results.store import CSV_FILE, RUN_FILE
from tests.images import encode, make_film
from tests.paths import REPOSITORY

SNAPSHOT = """
import logging, os, signal, sys, warnings
def snapshot():
    loggers = {None: logging.root, **logging.root.manager.loggerDict}
    known = {
        name: (logger.level, logger.propagate, logger.disabled, list(logger.handlers))
        for name, logger in loggers.items()
        if isinstance(logger, logging.Logger)
    }
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return list(warnings.filters), known, dict(os.environ), signals, sys.excepthook
def compare(before):
    after = snapshot()
    assert after[0] == before[0], "warning filters"
    untouched = (logging.NOTSET, True, False, [])  # a logger as getLogger makes it
    for name, state in after[1].items():
        assert state == before[1].get(name, untouched), name
    assert after[2] == before[2], "environment"
    assert after[3:] == before[3:], "signals and hooks"
"""
THIRD_PARTY = """
import matplotlib.figure, numpy, PIL.Image, pyarrow, pydicom, pydicom.pixels, sklearn, scipy.stats
import batch_scorer.model.onnx_runtime, fsspec, fontTools.ttLib
"""
"""Imported before the snapshot: third-party packages do change the process."""


def run_python(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_changes_nothing_and_loads_nothing_else():
    run_python(
        f"{SNAPSHOT}\nbefore = snapshot()\nimport batch_scorer\ncompare(before)\n"
        "loaded = [name for name in sys.modules if name.startswith('batch_scorer.')]\n"
        "assert not loaded, loaded\n"
        "assert not {'numpy', 'PIL', 'onnxruntime', 'pyarrow', 'pydicom'} & {*sys.modules}\n"
    )


def test_no_module_changes_the_process_when_it_is_imported():
    """But for modules that serve one platform, which are entry points themselves."""
    run_python(
        f"{SNAPSHOT}\nos.environ['ORT_DISABLE_TELEMETRY'] = '0'\n{THIRD_PARTY}\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '0'\n"
        "import importlib, pkgutil\n"
        "import batch_scorer\nbefore = snapshot()\n"
        "for name in batch_scorer.__all__: getattr(batch_scorer, name)\n"
        "for module in pkgutil.walk_packages(batch_scorer.__path__, 'batch_scorer.'):\n"
        "    if module.name not in {'batch_scorer.__main__', 'batch_scorer.cli.http'}:\n"
        "        importlib.import_module(module.name)\n"
        "compare(before)\n"
    )


def test_scoring_changes_nothing_in_the_process(folder, tiny_model, tmp_path):
    run_python(
        f"{SNAPSHOT}\n{THIRD_PARTY}\nimport batch_scorer\nfrom PIL import ImageFile\n"
        "before = snapshot()\n"
        "images, output, model = sys.argv[1:]\n"
        "run = batch_scorer.score(images, output, model, report=None)\n"
        "assert run.scored == 6\n"
        "compare(before)\nassert not ImageFile.LOAD_TRUNCATED_IMAGES\n",
        folder,
        tmp_path / "out",
        tiny_model,
    )


def test_every_public_name_is_typed_and_lazily_there():
    tree = ast.parse(Path(batch_scorer.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert batch_scorer.__all__ == sorted(typed)
    assert {*batch_scorer.__all__} <= {*dir(batch_scorer)}
    for name, module in typed.items():
        assert getattr(batch_scorer, name) is getattr(importlib.import_module(module), name)
    assert (Path(batch_scorer.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = batch_scorer.nothing


def test_every_error_of_the_scorer_is_public():
    errors = importlib.import_module("batch_scorer.errors")
    tree = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.CxrError)
    }
    of_training = {"DatasetError", "ConversionError", "ParityError", "PrecisionRefused"}
    assert tree - of_training <= {*batch_scorer.__all__}


def test_score_takes_every_setting_of_a_job():
    fields = {field.name: field.type for field in dataclasses.fields(batch_scorer.ScoreJob)}
    named = {"images", "output", "models"}
    of_many_tasks = {"shard", "earlier_outputs"}
    expected = {name for name in fields if name not in named | of_many_tasks}
    assert {*JobOptions.__annotations__} == expected
    for name, annotation in JobOptions.__annotations__.items():
        assert annotation.__forward_arg__ == fields[name]


def test_score_reports_progress_and_repeats_nothing(folder, tiny_model, tmp_path):
    calls = []
    options = {"report": None, "batch_size": 2, "progress": lambda *counts: calls.append(counts)}
    run = batch_scorer.score(folder, tmp_path / "out", [str(tiny_model)], **options)
    assert (run.found, run.scored, run.flagged) == (6, 6, 3)
    assert calls[-1] == (6, 6)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    calls.clear()
    assert batch_scorer.score(folder, tmp_path / "out", [str(tiny_model)], **options) == run
    assert calls == []
    assert not (tmp_path / "out" / "report.pdf").exists()


@pytest.mark.slow
def test_score_draws_the_report_and_draws_it_again_where_it_is_gone(folder, tiny_model, tmp_path):
    report = tmp_path / "out" / "report.pdf"
    run = batch_scorer.score(folder, tmp_path / "out", str(tiny_model))
    check = batch_scorer.verify_report(str(report))
    assert (check.manifest, check.faults) == (run, ())
    report.unlink()
    assert batch_scorer.score(folder, tmp_path / "out", str(tiny_model)) == run
    assert report.exists()


def test_read_results_has_the_columns_and_rows_of_the_csv_file(folder, tiny_model, tmp_path):
    output = tmp_path / "out"
    batch_scorer.score(folder, output, str(tiny_model), report=None)
    table = batch_scorer.read_results(output)
    with (output / CSV_FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert table.column_names == [*rows[0]]
    assert table["image"].to_pylist() == [row["image"] for row in rows]
    assert [f"{number:.6f}" for number in table["probability"].to_pylist()] == [
        row["probability"] for row in rows
    ]
    assert table.schema.field("atypical").type == "bool"
    (output / CSV_FILE).write_text("image\n")
    with pytest.raises(batch_scorer.OutputError, match="changed"):
        batch_scorer.read_results(output)
    (output / RUN_FILE).unlink()
    with pytest.raises(batch_scorer.OutputError, match=RUN_FILE):
        batch_scorer.read_results(output)


def test_read_results_reads_a_run_of_an_older_version(tmp_path):
    old = shutil.copytree(REPOSITORY / "tests" / "archive" / "results-v0.1.0", tmp_path / "old")
    table = batch_scorer.read_results(old)
    with (old / CSV_FILE).open(encoding="utf-8", newline="") as file:
        assert table["image"].to_pylist() == [row["image"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("action", ["error", "ignore", "default"])
def test_decoding_is_the_same_whatever_the_caller_does_with_warnings(action):
    film = make_film()
    expected = batch_scorer.decode_radiograph(film, 64)
    small = encode(np.zeros((2, 2), dtype=np.uint8))
    large = encode(np.asarray(Image.new("1", (9600, 9600))))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        np.testing.assert_array_equal(batch_scorer.decode_radiograph(film, 64), expected)
        with pytest.raises(batch_scorer.TooSmall):
            batch_scorer.decode_radiograph(small, 64)
        if action == "default":
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(batch_scorer.TooLarge):
            batch_scorer.decode_radiograph(large, 64)
