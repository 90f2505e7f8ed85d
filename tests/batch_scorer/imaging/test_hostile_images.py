"""Images that are made to fill the memory or to take for ever: each is a row, soon and cheaply."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.paths import REPOSITORY
from tests.torture.hostile import hostile_files

MEASURED = """
import json, resource
from batch_scorer.system.process import peak_memory_bytes
from batch_scorer.imaging.decode import decode_radiograph
from batch_scorer.errors import ImageError
from tests.torture.hostile import hostile_files

resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (240, 240))
for name, (data, _) in hostile_files().items():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    try:
        decode_radiograph(data, 64)
        found = "scored", "", ""
    except ImageError as exc:
        found = exc.status, exc.code, str(exc)
    took = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    print(json.dumps([name, *found, took, peak_memory_bytes()]), flush=True)
"""
MAX_CPU_S = 20
"""Of the processor: the slowest takes 1 s of it, and before there were limits most took 60."""
MAX_MEMORY_BYTES = 1_000_000_000


@pytest.fixture(scope="module")
def found():
    run = subprocess.run(
        [sys.executable, "-c", MEASURED],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    return {name: rest for name, *rest in lines}


@pytest.mark.parametrize("name", list(hostile_files()))
def test_each_is_refused_in_a_sentence_before_it_costs_much(found, name):
    assert name in found, "the process ended at this image or before"
    status, code, sentence, cpu_s, peak_bytes = found[name]
    assert (status, code) == hostile_files()[name][1], sentence
    assert sentence.startswith(("Expected", "The "))
    assert "Error" not in sentence
    assert cpu_s < MAX_CPU_S
    assert peak_bytes < MAX_MEMORY_BYTES
