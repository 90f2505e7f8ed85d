"""Cores: never more than affinity and cgroup allow, never fewer than one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from batch_scorer.system.process import available_cores, peak_memory_bytes


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


def make_system(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({}, 16, id="no cgroups"),
        pytest.param({"proc/self/cgroup": "0::/"}, 16, id="version 2, no limit file"),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
            16,
            id="version 2, unlimited",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"},
            2,
            id="version 2",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"},
            3,
            id="two and a half are three",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"},
            1,
            id="a fifth is one",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/jobs/one\n",
                "sys/fs/cgroup/jobs/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/jobs/one/cpu.max": "800000 100000\n",
            },
            4,
            id="the folder above is the tighter one",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/of/the/host\n",
                "sys/fs/cgroup/cpu.max": "300000 100000\n",
            },
            3,
            id="a container sees the host's name and its own root",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "500000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            5,
            id="version 1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            16,
            id="version 1, unlimited, under its short name",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense"},
            16,
            id="a file that says nothing",
        ),
    ],
)
def test_cores_follow_the_tightest_cgroup_limit(tmp_path, many_cores, files, cores):
    assert available_cores(make_system(tmp_path, files)) == cores


def test_cores_follow_the_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    system = make_system(
        tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}
    )
    assert available_cores(system) == 1


@pytest.mark.needs("CPU affinity")
def test_cores_follow_the_real_affinity_of_this_process():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_peak_memory_is_this_process_s_own_and_never_falls(tmp_path):
    before = peak_memory_bytes()
    large = np.ones(30_000_000)
    assert peak_memory_bytes() >= large.nbytes
    del large
    assert peak_memory_bytes() >= before
    code = "from batch_scorer.system.process import peak_memory_bytes; print(peak_memory_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e6 < int(child.stdout) < 100e6  # it does not inherit its parent's
    assert peak_memory_bytes(make_system(tmp_path, {"proc/self/status": "VmHWM:\t 7 kB\n"})) == 7168
    assert peak_memory_bytes(tmp_path / "no proc") >= 1e6
