"""What this process may use, and what it lets libraries print."""

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

# As Linux names them on x86-64: a system call, what it is asked, and the registers in question.
SYS_ARCH_PRCTL = 158
ARCH_REQ_XCOMP_PERM = 0x1023
XFEATURE_XTILEDATA = 18
_PID = re.compile(r"[1-9][0-9]{0,8}")
"""The number of a process, as any system gives it."""

BATCH_SIZE = 16
"""Images per inference: more are no faster on a CPU, and take more memory and longer to end."""


def available_cores(system: Path = Path("/")) -> int:
    """Cores that this process may use: the least of its affinity and its cgroup's CPU limits.

    ONNX Runtime and Python's thread pools look at neither a container's limit nor, in part, at the
    affinity: on a machine of 64 cores a container of 2 would start 64 threads.

    Args:
        system: The root of the file system; another one in tests.

    Returns:
        At least 1. Half a core counts as one.

    Source: the Linux kernel's documentation, cgroup-v2 (cpu.max) and cgroup-v1 (cfs_quota_us).
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    limits = [math.ceil(limit) for limit in _cgroup_limits(system)]
    return max(1, min([cores, *limits]))


def _cgroup_limits(system: Path) -> Iterator[float]:
    """The CPU limits, in cores, of this process's cgroup and of each one that it lies in."""
    for line in _read_kernel_file(system / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0":  # version 2
            root, read_limit = system / "sys/fs/cgroup", _read_limit_v2
        elif "cpu" in controllers.split(","):
            root, read_limit = system / "sys/fs/cgroup" / controllers, _read_limit_v1
            root = root if root.is_dir() else system / "sys/fs/cgroup/cpu"
        else:
            continue
        # Inside a container the name may be the host's, and the limit stands in the root.
        inner = Path(name.lstrip("/"))
        for place in (inner, *inner.parents):
            limit = read_limit(root / place)
            if limit:
                yield limit


def _read_limit_v2(cgroup: Path) -> float | None:
    quota, _, period = _read_kernel_file(cgroup / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip() else None


def _read_limit_v1(cgroup: Path) -> float | None:
    quota, period = (
        _read_kernel_file(cgroup / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    )  # no limit is -1
    return int(quota) / int(period) if quota.isdigit() and period else None


def _read_kernel_file(path: Path) -> str:
    """The text of a file of the kernel's; empty where there is none to read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def has_amx(system: Path = Path("/")) -> bool:
    """Whether this process may multiply whole tiles of bytes (Intel AMX).

    The CPU has to have them, and Linux to grant them: a sandbox may refuse what the CPU has.

    Args:
        system: The root of the file system; another one in tests.
    """
    try:
        with (system / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return "amx_int8" in flags.split() and _request_amx()


def _request_amx() -> bool:
    """Ask Linux for the tiles' registers, as ONNX Runtime does; asking twice changes nothing.

    Source: Linux's documentation, "Using XSTATE features in user space applications".
    """
    return not ctypes.CDLL(None).syscall(SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)


def get_process_identity() -> str:
    """A name for this process that no other one has, or empty where the system tells too little.

    It holds the boot of the machine, the container's process table, the number of the process and
    when it started.

    Source: the Linux kernel's documentation, proc(5): boot_id, ns/pid, stat.
    """
    table = _read_process_namespace()
    started = _read_start_time(os.getpid())
    return f"{table}|{os.getpid()}|{started}" if table and started else ""


def has_ended(process: str) -> bool:
    """Whether a process of this machine and container is known to have ended.

    Args:
        process: What `name_process` said there.

    Returns:
        False where it is alive, or cannot be seen from here.
    """
    table, _, identity = process.partition("|")
    number, _, started = identity.partition("|")
    if not _PID.fullmatch(number) or table != _read_process_namespace():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is there, and somebody else's
        return False
    return _read_start_time(int(number)) not in ("", started)


def _read_process_namespace() -> str:
    """The machine since its last boot, and the container that numbers the processes."""
    boot = _read_kernel_file(Path("/proc/sys/kernel/random/boot_id")).strip()
    try:
        numbers = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return f"{boot} {numbers}" if boot else ""


def _read_start_time(process: int) -> str:
    """When a process started, in ticks since the boot; empty where it cannot be seen."""
    fields = _read_kernel_file(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""  # noqa: PLR2004 - the 22nd field of all


def peak_memory_bytes(system: Path = Path("/")) -> int:
    """The most memory that this process has had so far (resident set).

    Linux lets a process inherit its parent's peak in ``getrusage``, so its own is read where the
    kernel tells it.

    Args:
        system: The root of the file system; another one in tests.

    Source: the Linux kernel's documentation, proc(5), VmHWM.
    """
    for line in _read_kernel_file(system / "proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return 1024 * int(value.split()[0])
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class StopSignals:
    """Whether this process was told to stop (SIGINT, SIGTERM): each signal is a KeyboardInterrupt.

    A library may swallow that exception, or raise another one for it. What counts is the signal.
    """

    def __init__(self) -> None:
        self.received = 0

    def install(self) -> None:
        """Take both signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        signal.default_int_handler(number, frame)

    @contextmanager
    def raise_if_received(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at the end of a block in which a signal came, whatever it did.

        Raises:
            KeyboardInterrupt: A signal came.
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

    TensorFlow writes to file descriptor 2 before its own log level takes effect. Exceptions still
    reach the caller: only what is written straight to the descriptor is dropped. Later TensorFlow
    tells errors alone, and not that it traces a function again.
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
