"""Results that somebody changed: each one gives an error of the program or is used, never more."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_scorer.cli.main import cxr
from batch_scorer.errors import CxrError, OutputError
from batch_scorer.jobs import latest, schedule
from batch_scorer.report.content.report import build_report_facts
from batch_scorer.report.content.view import RunView
from batch_scorer.results import store
from batch_scorer.results.checkpoint import Checkpoint
from batch_scorer.results.claim import check_claimable
from batch_scorer.results.merge import merge_shards, read_shards
from batch_scorer.results.run_dates import read_run_dates
from batch_scorer.results.schema import RunManifest, Score
from batch_scorer.results.shards import Shard
from batch_scorer.storage import lease
from batch_scorer.storage.output import open_output
from batch_scorer.system.process import get_process_identity, has_ended
from tests.broken_results import broken_documents, broken_tables, changed, write_table
from tests.factories import make_models, make_rows, make_unscored, write_run

SEED = 11
PLAN = {"source": "x", "method": "y", "tasks": 1, "night": "20260102-030405"}
CLAIM = {"holder": "x", "term_s": 60.0, "renewals": 0, "released": False, "process": ""}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A finished run by two models, with labels and a file that was not scored."""
    models = make_models("cnn", "mlp")
    folder = tmp_path_factory.mktemp("sound") / "run"
    write_run(folder, [*make_rows(models, 5, 6), *make_unscored(1)], models)
    return folder


@pytest.fixture
def run(sound, tmp_path):
    """A copy of it to break."""
    return shutil.copytree(sound, tmp_path / "run")


def outcome(use, *args):
    """What came of a use of broken results: "used", or the name of an error of the program."""
    try:
        use(*args)
    except CxrError as exc:
        return type(exc).__name__
    return "used"


def read_and_tell(folder):
    """What a report reads, and what a new start does."""
    place = open_output(folder)
    check_claimable(place)
    store.read_rows(place, "")
    run = store.read_run(place)
    build_report_facts(RunView(run.manifest, run.rows, read_run_dates(run)))


def test_a_run_with_any_value_of_run_json_changed_is_told_or_refused(run):
    sound = json.loads((run / "run.json").read_bytes())
    found = set()
    for broken in broken_documents(sound, np.random.default_rng(SEED), 250):
        (run / "run.json").write_text(json.dumps(broken))
        found.add(outcome(read_and_tell, run))
    assert found == {"used", "OutputError"}


def test_every_number_of_run_json_has_its_bounds():
    """No reader of it needs to think of infinity, of a negative count or of one of 30 digits."""
    kinds = msgspec.inspect.multi_type_info(
        [RunManifest, Score, schedule.RunSpec, lease.LeaseRecord]
    )
    unbounded, seen = [], set()

    def look(kind, path):
        if isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType):
            low = kind.ge if kind.ge is not None else kind.gt
            high = kind.le if kind.le is not None else kind.lt
            if low is None or high is None:
                unbounded.append(path)
        elif isinstance(kind, msgspec.inspect.StructType) and kind.cls not in seen:
            seen.add(kind.cls)
            for field in kind.fields:
                look(field.type, f"{kind.cls.__name__}.{field.name}")
        else:
            inner = [getattr(kind, name, None) for name in ("item_type", "key_type", "value_type")]
            for part in (*inner, *getattr(kind, "types", ()), *getattr(kind, "item_types", ())):
                if part is not None:
                    look(part, path)

    for kind in kinds:
        look(kind, "")
    assert seen >= {RunManifest, Score, schedule.RunSpec, lease.LeaseRecord}
    assert unbounded == []


def test_a_run_with_any_column_of_its_table_changed_is_told_or_refused(run):
    table = pq.read_table(run / "predictions.parquet")
    found = {}
    for what, broken in broken_tables(table):
        write_table(run, broken)
        found[what] = outcome(read_and_tell, run)
    assert set(found.values()) == {"used", "OutputError"}
    for what in (
        *("no image", "no status", "image twice", "sha256 null", "image null", "detail null"),
        *("label null", "label 'zzz'", "status 'zzz'", "duplicate_of null", "prediction ''"),
        *(
            "probability_cnn nan",
            "probability_cnn null",
            "probability_cnn 7.0",
            "no probability_mlp",
        ),
        *("probability_mlp text cells", "probability_mlp list cells", "probability_cnn bytes"),
        *("another model", "fewer rows", "no rows", "width_px negative", "brightness inf"),
    ):
        assert found[what] == "OutputError", what
    assert found["a foreign column"] == found["no study"] == "used"


def test_cells_that_take_far_more_room_than_the_file_are_refused(run):
    table = pq.read_table(run / "predictions.parquet")
    for at in range(300):  # one more model costs the file 100 bytes, and a row of it 8
        table = table.append_column(f"probability_{at}", pa.array([0.5] * len(table)))
    wide = pa.concat_tables([table] * 500).combine_chunks()
    write_table(run, wide)
    assert (run / "predictions.parquet").stat().st_size < 1_000_000
    with pytest.raises(OutputError, match=r"more room than the file|rows in"):
        store.read_run(open_output(run))


@pytest.mark.parametrize("kind", [pa.binary(), pa.list_(pa.string()), pa.string()])
def test_a_probability_that_is_no_number_is_refused_before_it_is_read(kind, run):
    table = pq.read_table(run / "predictions.parquet")
    cell = ["ab" * 500_000] if pa.types.is_list(kind) else "ab" * 500_000
    at = table.column_names.index("probability_cnn")
    write_table(run, table.set_column(at, "probability_cnn", pa.array([cell] * len(table), kind)))
    with pytest.raises(OutputError, match=r"column probability_cnn holds .*, expected double"):
        store.read_run(open_output(run))


@pytest.mark.parametrize("command", ["report", "merge"])
def test_the_commands_end_with_a_sentence(command, run):
    write_table(run, pq.read_table(run / "predictions.parquet").drop_columns(["image"]))
    shutil.copytree(run, run.parent / "copy")
    shutil.copytree(run.parent / "copy", run / "shards" / "1-of-1")
    with pytest.raises(OutputError, match="it has no column image"):
        cxr.main([command, str(run)], standalone_mode=False)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("started",), "zzz"),
        (("started",), "2026-01-01T00:00:00"),
        (("finished",), "9999-12-31T23:59:59+00:00"),
        (("metrics", 0, "confusion", "true_positive"), 10**30),
        (("gallery", "maps"), {"a": {"value": 1.0, "x": 0.5, "y": -1e308}}),
        (("models",), []),
        (("run_date",), "20260230-000000"),
    ],
)
def test_a_shard_whose_run_json_cannot_be_is_not_merged(path, value, run, tmp_path):
    broken = changed(json.loads((run / "run.json").read_bytes()), path, value)
    (run / "run.json").write_text(json.dumps(broken))
    shutil.copytree(run, tmp_path / "out" / "shards" / "1-of-1")
    with pytest.raises(OutputError, match="cannot be read"):
        merge_shards(str(tmp_path / "out"))


def test_any_change_of_a_shard_is_joined_or_refused(run, tmp_path):
    sound = json.loads((run / "run.json").read_bytes()) | {"selected": 12}  # as a shard counts
    place = open_output(tmp_path / "out")
    shard = shutil.copytree(run, tmp_path / "out" / "shards" / "1-of-1")
    outcomes = set()
    for broken in broken_documents(sound, np.random.default_rng(SEED), 200):
        (shard / "run.json").write_text(json.dumps(broken))
        outcomes.add(outcome(read_shards, place, [Shard(1, 1)]))
    assert outcomes == {"used", "OutputError"}


def test_a_folder_that_claims_to_be_one_of_very_many_shards_is_no_shard(run, tmp_path):
    shutil.copytree(run, tmp_path / "out" / "shards" / "1-of-999999999")
    with pytest.raises(OutputError, match="found no finished one"):
        merge_shards(str(tmp_path / "out"))


def put(folder, name, document):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def open_next_night(folder):
    place = open_output(folder)
    newest = schedule.find_scheduled_run(place)
    if newest:
        after = newest.run_date
        assert len(newest.shards) == newest.spec.tasks
        newest.read_final_manifest()
        schedule.find_abandoned_runs(newest)
        schedule.make_run_date(datetime(2026, 1, 1, tzinfo=UTC), after)
    latest.read_published_date(place)


@pytest.mark.parametrize("name", ["plans/000002.json", "published/000002.json"])
def test_a_plan_with_any_value_changed_is_followed_or_refused(name, tmp_path):
    found = set()
    for broken in broken_documents(PLAN, np.random.default_rng(SEED), 300):
        put(tmp_path, name, broken)
        found.add(outcome(open_next_night, tmp_path))
    assert found == {"used", "OutputError"}


@pytest.mark.parametrize("night", ["99991231-235959", "20269999-999999", "20260230-000000"])
@pytest.mark.parametrize("name", ["plans/000002.json", "published/000002.json"])
def test_a_night_that_is_no_moment_is_refused(night, name, tmp_path):
    put(tmp_path, name, PLAN | {"night": night})
    with pytest.raises(OutputError, match=r"cannot be read: .*Remove it"):
        open_next_night(tmp_path)


@pytest.mark.parametrize("tasks", [0, -1, 10**9])
def test_a_plan_for_no_task_or_for_very_many_is_refused(tasks, tmp_path):
    put(tmp_path, "plans/000001.json", PLAN | {"tasks": tasks})
    with pytest.raises(OutputError, match="cannot be read"):
        schedule.find_scheduled_run(open_output(tmp_path))


def test_nobody_waits_longer_than_a_day_for_a_lease_with_any_value_changed(tmp_path):
    for broken in broken_documents(CLAIM, np.random.default_rng(SEED), 300):
        put(tmp_path, "leases/run/000009.json", broken)
        watch = lease.LeaseWatcher(open_output(tmp_path), "run")
        watch.poll()
        claim = lease._decode_record((tmp_path / "leases/run/000009.json").read_bytes())
        assert claim is None or 0 < claim.term_s <= lease.MAX_LEASE_TERM_S


def test_a_lease_of_a_term_without_end_holds_no_longer_than_a_usual_one(tmp_path, monkeypatch):
    put(tmp_path, "leases/run/000009.json", CLAIM | {"term_s": 1e15})
    watch = lease.LeaseWatcher(open_output(tmp_path), "run")
    assert watch.poll() is lease.LeaseState.SILENT
    now = lease.time.monotonic()
    monkeypatch.setattr(lease.time, "monotonic", lambda: now + lease.DEFAULT_TERM_S + 1)
    assert watch.poll() is lease.LeaseState.FREE


def test_a_process_number_that_no_system_has_is_not_known_to_have_ended():
    table, number, started = get_process_identity().split("|")
    for wrong in ("9" * 30, "-1", "0", "x", "", "\u0663"):
        assert not has_ended(f"{table}|{wrong}|{started}")
    assert not has_ended(f"{table}|{number}|{started}")


def test_a_lease_of_the_last_number_of_six_digits_can_be_taken(tmp_path):
    put(tmp_path, "leases/run/999999.json", CLAIM | {"released": True})
    with lease.acquire_lease(open_output(tmp_path), "run") as taken:
        taken.check()
        names = {path.name for path in (tmp_path / "leases" / "run").iterdir()}
    assert "1000000.json" in names


def test_a_journal_with_any_value_changed_is_read_or_named_as_damaged(run):
    rows = store.read_run(open_output(run)).rows
    sound = json.loads(msgspec.json.encode(rows[0]))
    for broken in broken_documents(sound, np.random.default_rng(SEED), 200):
        put(run, f"journal/{'a' * 16}-{'b' * 8}-000001.jsonl", broken)
        for row in Checkpoint(open_output(run), "a" * 16).read():
            assert all(0 <= p <= 1 for p in row.probabilities)
