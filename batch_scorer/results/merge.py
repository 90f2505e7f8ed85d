"""Merge the shards of a run; an error names a shard that is missing or of another run."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from batch_scorer.errors import CxrError, OutputError
from batch_scorer.model.classifier import Classifier, read_bundled_manifest
from batch_scorer.results import store
from batch_scorer.results.claim import claim_run
from batch_scorer.results.commit import ReportImageSource, ScoredRun, commit_run, mark_duplicates
from batch_scorer.results.shards import MAX_SHARDS, SHARDS_FOLDER, Shard
from batch_scorer.results.thumbnails import ReportImages
from batch_scorer.storage.output import open_output
from batch_scorer.storage.output_lock import OutputLock
from batch_scorer.storage.source import open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batch_scorer.results.schema import RunFacts, RunManifest, Score
    from batch_scorer.storage.access import AccessPolicy
    from batch_scorer.storage.output import Output
    from batch_scorer.storage.source import Source

log = logging.getLogger(__name__)
_SHARD_FOLDER = re.compile(rf"(?:^|/){SHARDS_FOLDER}/([0-9]{{1,9}})-of-([0-9]{{1,9}})/")
_MUST_MATCH = {
    "config_hash": "models or options",
    "source": "the scored folder",
    "labels": "--labels",
    "version": "the version of cxr-batch",
    "gallery": "--heatmaps or --review-minutes",
}
"""Facts that must be the same in every shard, with their names in errors."""


def merge_shards(output_url: str, lock: OutputLock | None = None) -> RunManifest:
    """Merge the rows of all shards into one run over the whole source.

    Args:
        output_url: The output that was given to every shard.
        lock: The lock of the output; by default a lock for this call.

    Raises:
        ForeignFile: The output holds a file that the program did not write.
        AlreadyRunning: Another run is writing there.
        OutputError: A shard is missing, is of another run, or cannot be read.
    """
    output = open_output(output_url)
    if lock is None:
        with OutputLock(output) as own:
            return merge_shards(output_url, own)
    merged = read_shards(output, _find_shards(output))
    if merged.files_changed:
        log.warning(
            "Files were added or removed while the shards were listed (%d to %d images): run all "
            "shards again, then merge, to include every image.",
            min(m.selected for m in merged.manifests),
            max(m.selected for m in merged.manifests),
        )
    claim_run(output)
    lock.check()
    return commit_merged(output.with_guard(lock.check), merged.run)


@dataclass(frozen=True)
class MergedShards:
    """All shards of a run: their manifests, and their rows in the order of the files."""

    manifests: list[RunManifest]
    rows: list[Score]

    @property
    def files_changed(self) -> bool:
        """True if files were added or removed between the shards' listings."""
        return len({(m.listed, m.hidden, m.selected) for m in self.manifests}) > 1

    @property
    def run(self) -> ScoredRun:
        """All shards as one run, ready to be committed."""
        manifests = self.manifests
        prices = {
            m.cost.core_hour_price if m.cost else None for m in manifests if m.found > m.reused
        }
        price = prices.pop() if len(prices) == 1 else None
        return ScoredRun(self.rows, manifests[0].models, self._merge_facts(), price)

    def _merge_facts(self) -> RunFacts:
        """Merge the facts: those of the first shard, except where shards may differ."""
        manifests = self.manifests
        limited = any(m.selected < m.listed for m in manifests)
        moved = self.files_changed and not limited
        return msgspec.structs.replace(
            manifests[0].facts,
            shard="",
            started=min(m.started for m in manifests),
            finished=max(m.finished for m in manifests),
            listed=len(self.rows) if moved else max(m.listed for m in manifests),
            hidden=max(m.hidden for m in manifests),
            selected=len(self.rows),
            reused=sum(m.reused for m in manifests),
            retries=sum(m.retries for m in manifests),
            bytes_read=sum(m.bytes_read for m in manifests),
            peak_memory_bytes=max(m.peak_memory_bytes for m in manifests),
            core_seconds=sum(m.core_seconds for m in manifests),
            provider=", ".join(sorted({m.provider for m in manifests})),
            engine=", ".join(sorted({m.engine for m in manifests})),
            seconds=_sum_by_key([m.seconds for m in manifests]),
            worker_seconds=_sum_by_key([m.worker_seconds for m in manifests]),
            images_per_second=round(sum(m.images_per_second for m in manifests), 1),
        )


def read_shards(output: Output, shards: Sequence[Shard]) -> MergedShards:
    """Read all shards of a run.

    Raises:
        OutputError: A shard is not finished, cannot be read, or is of another run.
    """
    found = [store.read_run(output.subfolder(shard.folder)) for shard in shards]
    manifests = [run.manifest for run in found]
    _check_same_run(manifests, output.url)
    merged = MergedShards(manifests, mark_duplicates([row for run in found for row in run.rows]))
    _check_row_counts(merged)
    return merged


def commit_merged(
    output: Output,
    run: ScoredRun,
    load_model: Callable[[str], Classifier | None] | None = None,
    access: AccessPolicy | None = None,
    *,
    with_report_images: bool = True,
) -> RunManifest:
    """Commit merged shards as one run.

    Args:
        output: The output of the run.
        run: The merged run.
        load_model: Loads the first model by its file's SHA-256, for the evidence maps; by default
            the bundled model with that file, if there is one.
        access: Permissions for reading the images again; none by default.
        with_report_images: Whether to write the images that a report shows.
    """
    images = _try_open_source(run.facts.source, access) if with_report_images else None
    if images:
        return commit_run(
            output, run, ReportImageSource(ReportImages(images), load_model or _load_bundled_model)
        )
    lost = run.facts.gallery.heatmaps != "none"
    gallery = msgspec.structs.replace(run.facts.gallery, no_maps_reason="films" if lost else "")
    facts = msgspec.structs.replace(run.facts, gallery=gallery)
    return commit_run(output, replace(run, facts=facts))


def _sum_by_key(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part.get(name, 0.0) for part in parts) for name in parts[0]}


def _find_shards(output: Output) -> list[Shard]:
    """Find the finished shards of an output.

    Raises:
        OutputError: There are none, or some are missing.
    """
    found = {
        Shard(int(match[1]), int(match[2]))
        for name in output.list_files(SHARDS_FOLDER)
        if (match := _SHARD_FOLDER.search(name))
        and name.endswith(f"/{store.RUN_FILE}")
        and "/" not in name[match.end() :]
    }
    found = {shard for shard in found if shard.number <= shard.count <= MAX_SHARDS}
    if not found:
        raise OutputError(
            f"Expected shards in {output.url}/{SHARDS_FOLDER}, found no finished one.",
            f"Make them with: cxr score IMAGES -o {output.url} --shard 1/2 (then 2/2)",
        )
    counts = sorted({shard.count for shard in found})
    if len(counts) > 1:
        raise OutputError(
            f"Expected the shards of one run in {output.url}/{SHARDS_FOLDER}, found shards of "
            f"{' and of '.join(map(str, counts))}.",
            "Remove the folders that are not of this run.",
        )
    expected = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
    missing = [str(shard) for shard in expected if shard not in found]
    if missing:
        raise OutputError(
            f"Expected {counts[0]} finished shards in {output.url}/{SHARDS_FOLDER}, "
            f"found {len(found)}: missing {', '.join(missing[:20])}"
            + (f" and {len(missing) - 20} more." if len(missing) > 20 else "."),  # noqa: PLR2004
            f"Run each again with: cxr score IMAGES -o {output.url} --shard {missing[0]}",
        )
    return expected


def _check_same_run(manifests: list[RunManifest], url: str) -> None:
    for name, meaning in _MUST_MATCH.items():
        first = manifests[0]
        for other in manifests[1:]:
            if getattr(other, name) != getattr(first, name):
                raise OutputError(
                    f"The shards in {url} are not of one run: {meaning} of shard {other.shard} "
                    f"differ from those of shard {first.shard}.",
                    f"Run shard {other.shard} again as the others were.",
                )


def _check_row_counts(merged: MergedShards) -> None:
    """Check that each selected image has one row."""
    rows, selected = merged.rows, merged.manifests[0].selected
    if len({row.image for row in rows}) != len(rows):
        raise OutputError(
            "Expected one row for each image, found an image in two shards.",
            "Run all shards again.",
        )
    if not merged.files_changed and len(rows) != selected:
        raise OutputError(
            f"Expected rows of {selected} images in the shards, found {len(rows)}.",
            "Run all shards again.",
        )


def _try_open_source(url: str, access: AccessPolicy | None) -> Source | None:
    """Open the source of the report's images; None if that fails, as the report then says."""
    try:
        return open_source(url, access=access)
    except CxrError:
        return None


def _load_bundled_model(sha256: str) -> Classifier | None:
    """Load the bundled model with this file; None if the shards used another file."""
    for name, entry in read_bundled_manifest().models.items():
        if entry.sha256 == sha256:
            return Classifier.load(name)
    return None
