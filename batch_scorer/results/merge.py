"""Join the shards of a run. A shard that is missing, or of another run, is named and refused."""

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

log = logging.getLogger("cxr.merge")
_SHARD_FOLDER = re.compile(rf"(?:^|/){SHARDS_FOLDER}/([0-9]{{1,9}})-of-([0-9]{{1,9}})/")
_MUST_MATCH = {
    "config_hash": "models or options",
    "source": "the scored folder",
    "labels": "--labels",
    "version": "the version of cxr-batch",
    "gallery": "--heatmaps or --review-minutes",
}
"""What must be the same in every shard, and what to call it."""


def merge_shards(output: str, lock: OutputLock | None = None) -> RunManifest:
    """Put the rows of all shards together, as one run over the whole source would have.

    Args:
        output: The folder that was given to every shard.
        lock: That of the output; by default one that ends with this call.

    Raises:
        ForeignFile: The output holds something that this program did not write.
        Occupied: Another run is writing there.
        LedgerError: A shard is missing or does not belong to the others, or cannot be read.
    """
    place = open_output(output)
    if lock is None:
        with OutputLock(place) as own:
            return merge_shards(output, own)
    joined = read_shards(place, _find_shards(place))
    if joined.files_changed:
        log.warning(
            "Files came or went while the shards were listed (between %d and %d films): run all "
            "shards again, then merge, to be sure of every film.",
            min(m.selected for m in joined.manifests),
            max(m.selected for m in joined.manifests),
        )
    claim_run(place)
    lock.check()
    return commit_merged(place.with_guard(lock.check), joined.run)


@dataclass(frozen=True)
class MergedShards:
    """All shards of a run: what each says of itself, and their rows in the order of the files."""

    manifests: list[RunManifest]
    rows: list[Score]

    @property
    def files_changed(self) -> bool:
        """Whether files came or went between the shards' listings."""
        return len({(m.listed, m.hidden, m.selected) for m in self.manifests}) > 1

    @property
    def run(self) -> ScoredRun:
        """All shards as one run, as it is to be committed."""
        manifests = self.manifests
        tariffs = {
            m.cost.core_hour_price if m.cost else None for m in manifests if m.found > m.reused
        }
        tariff = tariffs.pop() if len(tariffs) == 1 else None
        return ScoredRun(self.rows, manifests[0].models, self._merge_facts(), tariff)

    def _merge_facts(self) -> RunFacts:
        """The facts of the first shard, but for those in which shards may differ."""
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


def read_shards(place: Output, shards: Sequence[Shard]) -> MergedShards:
    """Read all shards of a run.

    Raises:
        LedgerError: One is not finished, cannot be read or does not belong to the others.
    """
    found = [store.read_run(place.subfolder(shard.folder)) for shard in shards]
    manifests = [run.manifest for run in found]
    _check_same_run(manifests, place.url)
    joined = MergedShards(manifests, mark_duplicates([row for run in found for row in run.rows]))
    _check_row_counts(joined)
    return joined


def commit_merged(
    place: Output,
    run: ScoredRun,
    load_model: Callable[[str], Classifier | None] | None = None,
    access: AccessPolicy | None = None,
    *,
    pictures: bool = True,
) -> RunManifest:
    """Commit joined shards as one run.

    Args:
        place: Where they go.
        run: That of the shards.
        load_model: Loads the first model by its file's SHA-256, for the evidence maps; without it,
            that is tried with the bundled one of the same file.
        access: Permissions for reading the images again; none unless given.
        pictures: Whether to write the pictures that a report shows.
    """
    images = _try_open_source(run.facts.source, access) if pictures else None
    if images:
        return commit_run(
            place, run, ReportImageSource(ReportImages(images), load_model or _load_bundled_model)
        )
    lost = run.facts.gallery.heatmaps != "none"
    gallery = msgspec.structs.replace(run.facts.gallery, no_maps_reason="films" if lost else "")
    facts = msgspec.structs.replace(run.facts, gallery=gallery)
    return commit_run(place, replace(run, facts=facts))


def _sum_by_key(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part.get(name, 0.0) for part in parts) for name in parts[0]}


def _find_shards(place: Output) -> list[Shard]:
    """The finished shards, all of them.

    Raises:
        LedgerError: There are none, or some are missing.
    """
    found = {
        Shard(int(match[1]), int(match[2]))
        for name in place.list_files(SHARDS_FOLDER)
        if (match := _SHARD_FOLDER.search(name))
        and name.endswith(f"/{store.RUN_FILE}")
        and "/" not in name[match.end() :]
    }
    found = {shard for shard in found if shard.number <= shard.count <= MAX_SHARDS}
    if not found:
        raise OutputError(
            f"Expected shards in {place.url}/{SHARDS_FOLDER}, found no finished one.",
            f"Make them with: cxr score IMAGES -o {place.url} --shard 1/2 (then 2/2)",
        )
    counts = sorted({shard.count for shard in found})
    if len(counts) > 1:
        raise OutputError(
            f"Expected the shards of one run in {place.url}/{SHARDS_FOLDER}, found shards of "
            f"{' and of '.join(map(str, counts))}.",
            "Remove the folders that are not of this run.",
        )
    expected = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
    missing = [str(shard) for shard in expected if shard not in found]
    if missing:
        raise OutputError(
            f"Expected {counts[0]} finished shards in {place.url}/{SHARDS_FOLDER}, "
            f"found {len(found)}: missing {', '.join(missing[:20])}"
            + (f" and {len(missing) - 20} more." if len(missing) > 20 else "."),  # noqa: PLR2004
            f"Run each again with: cxr score IMAGES -o {place.url} --shard {missing[0]}",
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


def _check_row_counts(joined: MergedShards) -> None:
    """No film in two shards, and none in a shard that is not its own."""
    rows, taken = joined.rows, joined.manifests[0].selected
    if len({row.image for row in rows}) != len(rows):
        raise OutputError("A film has a row in two shards.", "Run all shards again.")
    if not joined.files_changed and len(rows) != taken:
        raise OutputError(
            f"{taken} films were taken, the shards hold rows of {len(rows)}.",
            "Run all shards again.",
        )


def _try_open_source(url: str, access: AccessPolicy | None) -> Source | None:
    """The source, for the report's pictures; without it the report says that they are missing."""
    try:
        return open_source(url, access=access)
    except CxrError:
        return None


def _load_bundled_model(sha256: str) -> Classifier | None:
    """The bundled model with the very file that the shards used; None where it was another file."""
    for name, entry in read_bundled_manifest().models.items():
        if entry.sha256 == sha256:
            return Classifier.load(name)
    return None
