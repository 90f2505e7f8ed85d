"""What a measuring script says when it cannot measure."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from batch_scorer.errors import EXIT_FAILED, DatasetError
from benchmarks import ood_rejection, output_cost, precision, ray_scaling
from benchmarks.command import BenchmarkCommand, require_packages

WITHOUT = """
import runpy, sys
sys.modules[sys.argv[1]] = None
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_an_error_is_one_sentence_without_traceback():
    @click.command(cls=BenchmarkCommand)
    def measure():
        raise DatasetError("Expected films, found none.", "Check the path.")

    done = CliRunner().invoke(measure)
    assert done.exit_code == EXIT_FAILED
    assert done.stderr == "Error: Expected films, found none. Check the path.\n"


@pytest.mark.parametrize(
    ("script", "package"),
    [
        (output_cost, "onnx"),
        (precision, "onnx"),
        (ray_scaling, "ray"),
        (ood_rejection, "skimage"),
    ],
)
def test_a_missing_package_is_named(tmp_path, script, package):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, package, script.__file__, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT_FAILED
    assert f"Error: This measurement needs the package {package}, which is not" in done.stderr
    assert "make dev" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_while_importing_is_not_hidden():
    with pytest.raises(KeyError), require_packages():
        raise KeyError("logit")
