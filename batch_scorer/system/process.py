"""This process: its cores, memory and CPU features, its identity, and stop signals."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import re
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# Linux on x86-64: a system call, its request, and the registers that it requests.
SYS_ARCH_PRCTL = 158
ARCH_REQ_XCOMP_PERM = 0x1023
XFEATURE_XTILEDATA = 18
_PID = re.compile(r"[1-9][0-9]{0,8}")
"""A process ID of any system."""

BATCH_SIZE = 16
"""Images per inference. Larger batches are not faster on a CPU and take more memory."""


def available_cores(root_dir: Path = Path("/")) -> int:
    """Count the cores that this process may use, by its affinity and its cgroup's CPU limits.

    ONNX Runtime and Python's thread pools ignore a container's limit and, in part, the affinity: on
    a machine of 64 cores, a container with 2 would start 64 threads.

    Args:
        root_dir: The root of the file system; tests pass a fake one.

    Returns:
        The smallest of the limits, at least 1; half a core counts as one.

    Source: the Linux kernel's documentation, cgroup-v2 (cpu.max) and cgroup-v1 (cfs_quota_us).
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    limits = [math.ceil(limit) for limit in _cgroup_limits(root_dir)]
    return max(1, min([cores, *limits]))


def _cgroup_limits(root_dir: Path) -> Iterator[float]:
    """Yield the CPU limits, in cores, of this process's cgroup and of its parents."""
    for line in _read_kernel_file(root_dir / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0":  # version 2
            root, read_limit = root_dir / "sys/fs/cgroup", _read_limit_v2
        elif "cpu" in controllers.split(","):
            root, read_limit = root_dir / "sys/fs/cgroup" / controllers, _read_limit_v1
            root = root if root.is_dir() else root_dir / "sys/fs/cgroup/cpu"
        else:
            continue
        # Inside a container the name may be the host's; the limit is then in the root.
        inner = Path(name.lstrip("/"))
        for cgroup in (inner, *inner.parents):
            limit = read_limit(root / cgroup)
            if limit:
                yield limit


def _read_limit_v2(cgroup: Path) -> float | None:
    quota, _, period = _read_kernel_file(cgroup / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip() else None


def _read_limit_v1(cgroup: Path) -> float | None:
    quota, period = (
        _read_kernel_file(cgroup / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    )  # -1 means no limit
    return int(quota) / int(period) if quota.isdigit() and period else None


def _read_kernel_file(path: Path) -> str:
    """Return the text of a kernel file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def has_amx(root_dir: Path = Path("/")) -> bool:
    """Return whether this process may use Intel AMX, which multiplies whole tiles of int8.

    The CPU must have AMX and Linux must grant it: a sandbox may refuse it.

    Args:
        root_dir: The root of the file system; tests pass a fake one.
    """
    try:
        with (root_dir / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return "amx_int8" in flags.split() and _request_amx()


def _request_amx() -> bool:
    """Request the AMX registers from Linux, as ONNX Runtime does; a second request has no effect.

    Source: Linux's documentation, "Using XSTATE features in user space applications".
    """
    return not ctypes.CDLL(None).syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)


def get_process_identity() -> str:
    """Return a unique identity of this process; empty if the system does not provide enough.

    It combines the machine's boot ID, the container's process namespace, the process ID and the
    start time of the process.

    Source: the Linux kernel's documentation, proc(5): boot_id, ns/pid, stat.
    """
    table = _read_process_namespace()
    started = _read_start_time(os.getpid())
    return f"{table}|{os.getpid()}|{started}" if table and started else ""


def has_ended(process_identity: str) -> bool:
    """Return whether a process is known to have ended.

    Args:
        process_identity: The return value of ``get_process_identity`` in that process.

    Returns:
        False if the process is alive, or belongs to another machine or container.
    """
    table, _, identity = process_identity.partition("|")
    number, _, started = identity.partition("|")
    if not _PID.fullmatch(number) or table != _read_process_namespace():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it exists and belongs to another user
        return False
    return _read_start_time(int(number)) not in ("", started)


def _read_process_namespace() -> str:
    """Return the machine's boot ID and the process namespace; empty if either is unknown."""
    boot = _read_kernel_file(Path("/proc/sys/kernel/random/boot_id")).strip()
    try:
        numbers = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return f"{boot} {numbers}" if boot else ""


def _read_start_time(pid: int) -> str:
    """Return a process's start time in ticks since boot; empty if it is not visible."""
    fields = _read_kernel_file(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""  # noqa: PLR2004 - the 22nd field


def peak_memory_bytes(root_dir: Path = Path("/")) -> int:
    """Return the peak resident memory of this process in bytes.

    On Linux, ``getrusage`` includes the parent's peak, so ``VmHWM`` is read instead.

    Args:
        root_dir: The root of the file system; tests pass a fake one.

    Source: the Linux kernel's documentation, proc(5), VmHWM.
    """
    for line in _read_kernel_file(root_dir / "proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return 1024 * int(value.split()[0])
    import resource  # missing on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class StopSignals:
    """A counter of SIGINT and SIGTERM, which raises each as KeyboardInterrupt.

    A library may swallow that exception or replace it, so the count of signals is what matters.
    """

    def __init__(self) -> None:
        self.received = 0

    def install(self) -> None:
        """Install the handler for both signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        signal.default_int_handler(number, frame)

    @contextmanager
    def raise_if_received(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at the end of a block in which a signal arrived.

        Raises:
            KeyboardInterrupt: A signal arrived, even if a library swallowed the exception.
        """
        before = self.received
        try:
            yield
        finally:
            if self.received > before:
                raise KeyboardInterrupt


STOP_SIGNALS = StopSignals()


@contextmanager
def quiet_import() -> Iterator[None]:
    """Keep a library's native start-up log off the terminal.

    TensorFlow writes to file descriptor 2 before its own log level takes effect. Only these direct
    writes are dropped; exceptions still reach the caller. Afterwards TensorFlow logs errors only,
    without its warnings about retracing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(sink)
        os.close(kept)
