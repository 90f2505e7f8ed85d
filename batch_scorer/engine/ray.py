"""The engine of many machines: Ray hands the films, a share at a time, to workers on all nodes.

A worker is a process that holds one session of each model and does with its share (a few batches
for each of its threads) what the engine of one machine does. Ray starts a worker again whose node
died, and gives out its shares again: one may be computed twice, its rows come back once. A share is
one block of Ray Data: an error that nobody foresaw ends the run, so that no block is dropped in
silence.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from batch_scorer.engine.local import EngineJob, score_batches
from batch_scorer.engine.predict import copy_scores
from batch_scorer.errors import CxrError, MissingPackage, TransientError, UsageError
from batch_scorer.model.classifier import Classifier
from batch_scorer.results.schema import Score
from batch_scorer.results.usage import Usage, UsageMeter
from batch_scorer.storage.filesystem import add_retries, count_retries, open_filesystem
from batch_scorer.system.process import available_cores, quiet_import

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from batch_scorer.storage.listing import ImageRef
    from batch_scorer.storage.source import Source

ADDRESS_VARIABLE = "RAY_ADDRESS"
LOCAL_CLUSTER = "local"
"""What Ray calls a cluster that it starts for this process alone."""
START_HINT = f"Start it with `ray start --head`, or leave {ADDRESS_VARIABLE} out."
TIMEOUT_S = 30
BATCHES_PER_BLOCK = 4
"""For each thread. To hand out a share takes some 9 ms of processor time: with VGG16, all that is
not a worker's own took 8 % of its time with shares of one batch and 5.5 % with four."""
MIN_BLOCKS_PER_WORKER = 8
"""For each worker: rather smaller shares than workers that wait for the last ones."""
QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
}
"""What Ray reads when it is imported: it reports to nobody and leaves the terminal to this program.
What a user has set stays."""


class KnownRows(dict[str, Score]):
    """Rows by content hash; of films that were settled before the run it knows the hash alone.

    ``hashes`` is (N,) of 64 characters, sorted. Ray keeps one copy on each node, whatever the
    number of workers: 64 MB for a million films.
    """

    def __init__(self, hashes: NDArray[np.bytes_]) -> None:
        super().__init__()
        self._hashes = hashes

    def __contains__(self, sha256: object) -> bool:
        sought = np.bytes_(str(sha256), "ascii")
        place = int(np.searchsorted(self._hashes, sought))
        held = place < len(self._hashes) and self._hashes[place] == sought
        return bool(held) or super().__contains__(sha256)


class Worker:
    """One process of the cluster, with its own sessions, and its own processes that decode."""

    def __init__(self, work: EngineJob, models: list[tuple[str, str, str]], hashes: Any) -> None:
        import ray

        self._unpickle = ray.cloudpickle.loads
        self._hashes = ray.get(hashes)
        # Ray tells a worker its share by OMP_NUM_THREADS, which ONNX Runtime does not read: its
        # sessions have one thread each, and as many threads as there are CPUs use them.
        threads = int(ray.get_runtime_context().get_assigned_resources()["CPU"])
        self._failure: CxrError | None = None
        try:
            classifiers = [
                Classifier.load(path, provider, 1, work.batch_size, sha256)
                for path, sha256, provider in models
            ]
            source = _reopen_source(work.source)
            self._work = replace(work, source=source, classifiers=classifiers, threads=threads)
        except CxrError as exc:  # raised with the first batch: what fails here, Ray tries for ever
            self._failure = exc

    def __call__(self, item: dict[str, bytes]) -> dict[str, Any]:
        """Rows of one share, what was spent on them, and how many calls were repeated for it."""
        if self._failure:
            raise self._failure
        before = count_retries()
        refs, labels = self._unpickle(item["share"])
        work = replace(
            self._work, refs=refs, labels=labels, known=KnownRows(self._hashes), usage=UsageMeter()
        )
        rows = [row for part in score_batches(work) for row in part]
        return {
            "rows": msgspec.json.encode(rows),
            "spent": msgspec.json.encode(work.usage.snapshot()),
            "retries": count_retries() - before,
        }


def score_with_ray(work: EngineJob) -> Generator[list[Score]]:
    """Rows a share at a time, in the order in which the shares are done.

    The cluster is that of the environment variable RAY_ADDRESS, as everywhere in Ray; without it
    one is started on this machine, and stopped at the end. A worker takes ``work.threads`` CPUs,
    and a GPU where the models run on CUDA. All nodes read films and model files by the paths or
    URLs by which this process reads them.

    Raises:
        MissingPackage: Ray is not installed, or this package is not installed on a node.
        UsageError: RAY_ADDRESS names no cluster that can be used.
        ModelFileError: A node has another file under a model's name.
        TransientError: The cluster cannot be reached, was lost, or made no progress for long.
    """
    if not work.refs:
        return
    ray = _import_ray()
    with _connect_cluster(ray, work.threads), _joining_threads(), _translating_errors(ray):
        work.usage.cores = _count_cores(ray)
        blocks = iter(_build_dataset(ray, work).iter_batches(batch_size=1, prefetch_batches=0))
        try:
            for block in blocks:
                add_retries(int(block["retries"].sum()))
                for data in block["spent"]:
                    work.usage.add(msgspec.json.decode(data, type=Usage))
                for data in block["rows"]:
                    rows = msgspec.json.decode(data, type=list[Score])
                    yield [_copy_known_scores(row, work.known) for row in rows]
            work.usage.cores = max(work.usage.cores, _count_cores(ray))  # where it has grown
        finally:
            blocks.close()  # stops the workers now, not when somebody collects the garbage


def _count_cores(ray: Any) -> int:
    """The cluster's cores, all of them: they are paid for, whether or not a worker has them."""
    return int(ray.cluster_resources().get("CPU", 0))


def _build_dataset(ray: Any, work: EngineJob) -> Any:
    """The data set of all rows, a block for each share. Nothing runs yet."""
    cuda = work.classifiers[0].provider == "cuda"
    free = ray.cluster_resources()
    room = max(1, int(free.get("GPU", 0) if cuda else free.get("CPU", 0) // work.threads))
    shares = [{"share": ray.cloudpickle.dumps(share)} for share in _split_into_blocks(work, room)]
    source = replace(work.source, refs=(), labels={})
    bare = replace(work, source=source, refs=(), labels={}, classifiers=[], known={})
    models = [(str(c.path), c.sha256, c.provider) for c in work.classifiers]
    hashes = ray.put(np.array(sorted(work.known), dtype="S64"))
    with ray.data.DataContext.current(_make_quiet_context(ray)):
        return ray.data.from_items(shares, override_num_blocks=len(shares)).map(
            Worker,
            fn_constructor_args=(bare, models, hashes),
            num_cpus=work.threads,
            num_gpus=1 if cuda else None,
            compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=min(room, len(shares))),
        )


def _make_quiet_context(ray: Any) -> Any:
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    return context


def _split_into_blocks(
    work: EngineJob, workers: int
) -> Iterator[tuple[Sequence[ImageRef], dict[str, str]]]:
    """Shares: films, with the labels of these alone."""
    least = work.batch_size * work.threads
    size = least * max(
        1, min(BATCHES_PER_BLOCK, len(work.refs) // (least * workers * MIN_BLOCKS_PER_WORKER))
    )
    for first in range(0, len(work.refs), size):
        refs = work.refs[first : first + size]
        yield refs, {ref.key: work.labels[ref.key] for ref in refs if ref.key in work.labels}


def _reopen_source(source: Source) -> Source:
    """The source with a connection of this process's own; a list opens each film by its URL."""
    if source.filesystem is None:
        return source
    return replace(source, filesystem=open_filesystem(source.raw_url, source.access)[0])


def _copy_known_scores(row: Score, known: dict[str, Score]) -> Score:
    """A row whose content was settled before, here or by another worker, takes those answers."""
    if row.status == "failed" or not row.sha256:
        return row
    first = known.setdefault(row.sha256, row)
    return row if first is row else copy_scores(row, first)


def _import_ray() -> Any:
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray.data
    except ImportError as exc:
        raise MissingPackage(
            "--engine ray needs Ray, which is not installed.",
            'Install it with: pip install "cxr-batch[ray]"',
        ) from exc
    return ray


@contextmanager
def _connect_cluster(ray: Any, threads: int) -> Iterator[None]:
    """The cluster to work on. What was connected or started here is left or stopped at the end."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get(ADDRESS_VARIABLE, LOCAL_CLUSTER)
    _check_address(address)
    own = {"num_cpus": max(available_cores(), threads), "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with quiet_import():
            ray.init(
                address=address,
                logging_level=logging.CRITICAL,
                **own if address == LOCAL_CLUSTER else {},
            )
    except (ConnectionError, TimeoutError) as exc:
        raise TransientError(
            f"The Ray cluster at {address} cannot be reached: {_first_line(exc)}", START_HINT
        ) from exc
    except (RuntimeError, ValueError) as exc:
        raise UsageError(
            f"The Ray cluster at {address} cannot be used: {_first_line(exc)}"
        ) from exc
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's own would end the process in mid-batch
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself would try for minutes to reach a machine where no cluster is."""
    if address in (LOCAL_CLUSTER, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        raise UsageError(
            f"Expected HOST:PORT, auto or local in {ADDRESS_VARIABLE}, found {address}.",
            "Run the command on a machine of the cluster, or give it to `ray job submit`.",
        )
    try:
        socket.create_connection((host, int(port)), TIMEOUT_S).close()
    except OSError as exc:
        raise TransientError(
            f"The Ray cluster at {address} cannot be reached: {exc.strerror or exc}.", START_HINT
        ) from exc


@contextmanager
def _joining_threads() -> Iterator[None]:
    """Wait for Ray Data's threads: one that finds Ray shut down ends the process without a word."""
    before = set(threading.enumerate())
    try:
        yield
    finally:
        for thread in set(threading.enumerate()) - before:
            if thread.name != "Prefetcher":  # where a run is ended early, Ray leaves it, asleep
                thread.join(TIMEOUT_S)


@contextmanager
def _translating_errors(ray: Any) -> Iterator[None]:
    """Every error of Ray's as one of ours; what a worker raised, as it was."""
    from ray.data.exceptions import ExecutionTimeoutError

    try:
        yield
    except ray.exceptions.RayTaskError as exc:
        raise exc.cause from exc
    except ray.exceptions.ActorDiedError as exc:
        raise MissingPackage(
            f"A worker of the cluster could not start: {_last_line(exc)}",
            "Every node needs the same versions of Python, Ray and cxr-batch.",
        ) from exc
    except (ray.exceptions.RayError, ExecutionTimeoutError) as exc:
        raise TransientError(
            f"The Ray cluster gave up: {_first_line(exc)}", "Run the same command again to go on."
        ) from exc


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0]


def _last_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[-1]
