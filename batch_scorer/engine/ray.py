"""Score images on a Ray cluster, whose workers on all nodes take blocks of images.

A worker is a process with one session of each model. It scores its block, a few batches per thread,
as the local engine does. Ray restarts a worker whose node died and hands out its blocks again: a
block may be computed twice, but its rows come back once. A block is one block of Ray Data, and an
unexpected error ends the run, so no block is dropped silently.
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
from batch_scorer.system.process_setup import configure_process

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from batch_scorer.storage.listing import ImageRef
    from batch_scorer.storage.source import Source

ADDRESS_VARIABLE = "RAY_ADDRESS"
LOCAL_CLUSTER = "local"
"""Ray's name for a cluster that it starts for this process alone."""
START_HINT = f"Start it with `ray start --head`, or unset {ADDRESS_VARIABLE}."
TIMEOUT_S = 30
BATCHES_PER_BLOCK = 4
"""Batches per thread in one block.

Handing out a block costs about 9 ms of processor time. With VGG16, the time outside the workers was
8 % of theirs with blocks of one batch, and 5.5 % with four.
"""
MIN_BLOCKS_PER_WORKER = 8
"""Minimum number of blocks per worker, so that no worker waits long for the last ones."""
QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
}
"""Settings that Ray reads on import, so that it sends no usage data and prints nothing.

Values that the user has set are kept.
"""


class KnownRows(dict[str, Score]):
    """Rows by content hash. Of images scored before this run, only the hash is known.

    ``hashes`` is an (N,) sorted array of 64-character strings. Ray keeps one copy per node for all
    its workers: 64 MB for a million images.
    """

    def __init__(self, hashes: NDArray[np.bytes_]) -> None:
        super().__init__()
        self._hashes = hashes

    def __contains__(self, sha256: object) -> bool:
        target = np.bytes_(str(sha256), "ascii")
        index = int(np.searchsorted(self._hashes, target))
        found = index < len(self._hashes) and self._hashes[index] == target
        return bool(found) or super().__contains__(sha256)


class Worker:
    """One process of the cluster, with its own sessions and decoder processes."""

    def __init__(self, job: EngineJob, models: list[tuple[str, str, str]], hashes: Any) -> None:
        import ray

        configure_process()
        self._unpickle = ray.cloudpickle.loads
        self._hashes = ray.get(hashes)
        # Ray limits a worker's threads by OMP_NUM_THREADS, which ONNX Runtime does not read. Each
        # session has one thread here, and as many threads as assigned CPUs use the sessions.
        threads = int(ray.get_runtime_context().get_assigned_resources()["CPU"])
        self._failure: CxrError | None = None
        try:
            classifiers = [
                Classifier.load(path, provider, 1, job.batch_size, sha256)
                for path, sha256, provider in models
            ]
            source = _reopen_source(job.source)
            self._job = replace(job, source=source, classifiers=classifiers, threads=threads)
        except CxrError as exc:  # raised with the first block: Ray retries __init__ forever
            self._failure = exc

    def __call__(self, item: dict[str, bytes]) -> dict[str, Any]:
        """Score one block; return its rows, its usage and its number of storage retries."""
        if self._failure:
            raise self._failure
        before = count_retries()
        refs, labels = self._unpickle(item["block"])
        job = replace(
            self._job, refs=refs, labels=labels, known=KnownRows(self._hashes), usage=UsageMeter()
        )
        rows = [row for batch in score_batches(job) for row in batch]
        return {
            "rows": msgspec.json.encode(rows),
            "usage": msgspec.json.encode(job.usage.snapshot()),
            "retries": count_retries() - before,
        }


def score_with_ray(job: EngineJob) -> Generator[list[Score]]:
    """Yield the rows of each block as soon as it is done, in any order.

    The environment variable RAY_ADDRESS names the cluster, as usual with Ray. Without it, a cluster
    starts on this machine and stops at the end. A worker takes ``job.threads`` CPUs, and a GPU if
    the models run on CUDA. All nodes read images and model files by the same paths or URLs as this
    process.

    Raises:
        MissingPackage: Ray is not installed, or this package is not installed on a node.
        UsageError: RAY_ADDRESS does not name a usable cluster.
        ModelFileError: A node has another file under a model's name.
        TransientError: The cluster cannot be reached, was lost, or made no progress for long.
    """
    if not job.refs:
        return
    ray = _import_ray()
    with _connect_cluster(ray, job.threads), _joining_threads(), _translating_errors(ray):
        job.usage.cores = _count_cores(ray)
        blocks = iter(_build_dataset(ray, job).iter_batches(batch_size=1, prefetch_batches=0))
        try:
            for block in blocks:
                add_retries(int(block["retries"].sum()))
                for data in block["usage"]:
                    job.usage.add(msgspec.json.decode(data, type=Usage))
                for data in block["rows"]:
                    rows = msgspec.json.decode(data, type=list[Score])
                    yield [_copy_known_scores(row, job.known) for row in rows]
            job.usage.cores = max(job.usage.cores, _count_cores(ray))  # the cluster may have grown
        finally:
            blocks.close()  # stops the workers now, not at garbage collection


def _count_cores(ray: Any) -> int:
    """Count all cores of the cluster: they are paid for, whether or not a worker uses them."""
    return int(ray.cluster_resources().get("CPU", 0))


def _build_dataset(ray: Any, job: EngineJob) -> Any:
    """Build the lazy data set of all rows, with one item per block."""
    cuda = job.classifiers[0].provider == "cuda"
    resources = ray.cluster_resources()
    max_workers = max(
        1, int(resources.get("GPU", 0) if cuda else resources.get("CPU", 0) // job.threads)
    )
    blocks = [
        {"block": ray.cloudpickle.dumps(block)} for block in _split_into_blocks(job, max_workers)
    ]
    source = replace(job.source, refs=(), labels={})
    bare_job = replace(job, source=source, refs=(), labels={}, classifiers=[], known={})
    models = [(str(c.path), c.sha256, c.provider) for c in job.classifiers]
    hashes = ray.put(np.array(sorted(job.known), dtype="S64"))
    with ray.data.DataContext.current(_make_quiet_context(ray)):
        return ray.data.from_items(blocks, override_num_blocks=len(blocks)).map(
            Worker,
            fn_constructor_args=(bare_job, models, hashes),
            num_cpus=job.threads,
            num_gpus=1 if cuda else None,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, initial_size=min(max_workers, len(blocks))
            ),
        )


def _make_quiet_context(ray: Any) -> Any:
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    return context


def _split_into_blocks(
    job: EngineJob, workers: int
) -> Iterator[tuple[Sequence[ImageRef], dict[str, str]]]:
    """Yield blocks of images, each with the labels of its own images only."""
    min_size = job.batch_size * job.threads
    size = min_size * max(
        1, min(BATCHES_PER_BLOCK, len(job.refs) // (min_size * workers * MIN_BLOCKS_PER_WORKER))
    )
    for start in range(0, len(job.refs), size):
        refs = job.refs[start : start + size]
        yield refs, {ref.key: job.labels[ref.key] for ref in refs if ref.key in job.labels}


def _reopen_source(source: Source) -> Source:
    """Reopen a source with this process's own connection.

    An image list needs none: it opens each image by its URL.
    """
    if source.filesystem is None:
        return source
    return replace(source, filesystem=open_filesystem(source.raw_url, source.access)[0])


def _copy_known_scores(row: Score, known: dict[str, Score]) -> Score:
    """Copy the scores of a byte-identical image that was scored before or by another worker."""
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
            "Expected the package Ray for --engine ray, found none.",
            'Install it with: pip install "cxr-batch[ray]"',
        ) from exc
    return ray


@contextmanager
def _connect_cluster(ray: Any, threads: int) -> Iterator[None]:
    """Connect to the cluster, or start one; disconnect or stop it at the end."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get(ADDRESS_VARIABLE, LOCAL_CLUSTER)
    _check_address(address)
    local_options = {"num_cpus": max(available_cores(), threads), "include_dashboard": False}
    previous_handler = signal.getsignal(signal.SIGTERM)
    try:
        with quiet_import():
            ray.init(
                address=address,
                logging_level=logging.CRITICAL,
                **local_options if address == LOCAL_CLUSTER else {},
            )
    except (ConnectionError, TimeoutError) as exc:
        raise TransientError(
            f"Cannot reach the Ray cluster at {address}: {_first_line(exc)}", START_HINT
        ) from exc
    except (RuntimeError, ValueError) as exc:
        raise UsageError(f"Cannot use the Ray cluster at {address}: {_first_line(exc)}") from exc
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler would end the process mid-batch.
        signal.signal(signal.SIGTERM, previous_handler)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Check quickly that the address answers; Ray itself would retry for minutes."""
    if address in (LOCAL_CLUSTER, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        raise UsageError(
            f"Expected HOST:PORT, auto or local in {ADDRESS_VARIABLE}, found {address}.",
            "Run the command on a machine of the cluster, or submit it with `ray job submit`.",
        )
    try:
        socket.create_connection((host, int(port)), TIMEOUT_S).close()
    except OSError as exc:
        raise TransientError(
            f"Cannot reach the Ray cluster at {address}: {exc.strerror or exc}.", START_HINT
        ) from exc


@contextmanager
def _joining_threads() -> Iterator[None]:
    """Join Ray Data's threads: a thread that outlives Ray's shutdown ends the process silently."""
    before = set(threading.enumerate())
    try:
        yield
    finally:
        for thread in set(threading.enumerate()) - before:
            if thread.name != "Prefetcher":  # Ray leaves this one asleep after an early end
                thread.join(TIMEOUT_S)


@contextmanager
def _translating_errors(ray: Any) -> Iterator[None]:
    """Translate Ray's errors into this package's; re-raise a worker's error unchanged."""
    from ray.data.exceptions import ExecutionTimeoutError

    try:
        yield
    except ray.exceptions.RayTaskError as exc:
        raise exc.cause from exc
    except ray.exceptions.ActorDiedError as exc:
        raise MissingPackage(
            f"Cannot start a worker on the cluster: {_last_line(exc)}",
            "Install the same versions of Python, Ray and cxr-batch on every node.",
        ) from exc
    except (ray.exceptions.RayError, ExecutionTimeoutError) as exc:
        raise TransientError(
            f"The Ray cluster failed: {_first_line(exc)}", "Run the same command again to resume."
        ) from exc


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0]


def _last_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[-1]
