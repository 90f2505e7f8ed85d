"""Nothing of the user's is deleted or replaced, whatever lies where and whatever is asked for."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_scorer.cli.main import cxr as command
from batch_scorer.engine.run_plan import config_hash
from batch_scorer.engine.runner import run_score_job
from batch_scorer.engine.score_job import ScoreJob
from batch_scorer.errors import AlreadyRunning, CxrError, ForeignFile, UsageError
from batch_scorer.report.formats.draw import draw_report
from batch_scorer.results import checkpoint, store
from batch_scorer.results.checkpoint import Checkpoint
from batch_scorer.results.merge import merge_shards
from batch_scorer.results.shards import Shard
from batch_scorer.storage import lease
from batch_scorer.storage.output import INTERNAL_FOLDER, open_output, sha256_hex
from batch_scorer.storage.output_lock import OutputLock
from tests.images import make_film
from tests.tiny_model import save_tiny_model

DIARY = b"Dear diary"
NAMES = [
    *store.RUN_FILES,
    *("films/holiday.mp4", "films/0123456789abcdef.jpg", "journal/diary.txt"),
    *("journal/0123456789abcdef-01234567-000001.jsonl", "earlier/20260101-000000-abcdef/run.json"),
    *("shards/1-of-2/predictions.csv", "shards/1-of-2/run.json", "latest/report.pdf"),
    *("latest/films/a.jpg", "nights/20260101-000000/run.json", "plans/000001.json"),
    *("plans/99.json", "leases/finish/000007.json", "published/000001.json"),
    *(f"{INTERNAL_FOLDER}/notes.txt", f"{INTERNAL_FOLDER}/record/notes.txt", "notes.txt"),
    *("audit.html", "audit.json", "predictions.csv.partial", "metrics.prom"),
    *("films", "journal", "latest", "plans", "nights", "leases", "shards"),
]
"""What the program might write, remove or look for, and what a user may have under that name."""
FOLDERS = ["", "out", "xrays", "films", "journal", "latest", "xrays/out"]
SOURCES = ["xrays", ".", "films", "journal", "list.txt", "xrays/a.png", "link", "./xrays/../xrays"]
OUTPUTS = ["out", ".", "xrays", "films", "journal", "xrays/out", "link", "link/out", "latest"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


commands = st.one_of(
    st.tuples(
        st.just("score"),
        st.sampled_from(SOURCES),
        st.sampled_from(OUTPUTS),
        st.sampled_from([[], ["--shard", "1/1"], ["--limit", "1"], ["--metrics", "metrics.prom"]]),
    ),
    st.tuples(st.just("merge"), st.none(), st.sampled_from(OUTPUTS), st.just([])),
    st.tuples(st.just("job"), st.sampled_from(SOURCES), st.sampled_from(OUTPUTS), st.just([])),
    st.tuples(st.just("audit"), st.just("xrays"), st.sampled_from(OUTPUTS), st.just([])),
)


def arguments_of(name, source, output, more, model):
    scoring = [source, "-o", output, "--model", str(model), "--heatmaps", "none", *more]
    return {
        "score": ["score", *scoring, "--no-report"],
        "merge": ["merge", output, "--no-report"],
        "job": ["job", "run", *scoring, "--format", "slides"],
        "audit": ["audit", "xrays", "-o", output],
    }[name]


def run(arguments):
    """The exit code of a command line, run in this process."""
    try:
        return command.main(arguments, standalone_mode=False) or 0
    except CxrError as error:
        return error.exit_code


def plant(root, files):
    """Write foreign files; what cannot be, such as a file in a file, is left out."""
    for name, data in files.items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(data)
        except OSError:
            continue


@pytest.mark.slow
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    files=st.dictionaries(
        st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES)).map("/".join),
        st.sampled_from([DIARY, b"", b"{}", b"\xff\x00"]),
        max_size=6,
    ),
    lines=st.lists(commands, min_size=1, max_size=3),
)
def test_every_foreign_byte_is_still_there(files, lines, model, tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("place")
    (root / "xrays").mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        (root / "xrays" / name).write_bytes(make_film(60 + 60 * number, seed=number))
    (root / "list.txt").write_text("xrays/a.png\n./xrays/b.png\n")
    (root / "link").symlink_to("xrays")
    plant(root, {name.lstrip("/"): data for name, data in files.items()})
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    monkeypatch.chdir(root)
    for line in lines:
        run(arguments_of(*line, model))
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("films", "."),
        ("films", "films"),
        ("films", "films/out"),
        ("films", "./films/../films/out"),
        ("films", "link"),
        ("films", "link/out"),
        ("link", "films/out"),
        ("films/a.png", "films"),
        ("list.txt", "."),
        ("list.txt", "films"),
        ("inner/list.txt", "films"),
        ("file://{root}/films", "."),
        ("films", "file://{root}"),
        ("films", "file://{root}/link/out"),
        ("memory://bucket/films", "memory://bucket"),
        ("memory://bucket/films", "memory://bucket//films/./out"),
        ("memory://bucket/films/", "memory:///bucket/films"),
    ],
)
def test_source_and_output_in_each_other_are_refused_by_any_spelling(
    tmp_path, tiny_model, monkeypatch, source, output
):
    for number in range(3):
        path = tmp_path / "films" / f"{'abc'[number]}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make_film(seed=number))
        open_output("memory://bucket/films").create(path.name, path.read_bytes())
    (tmp_path / "inner").mkdir()
    (tmp_path / "link").symlink_to("films")
    (tmp_path / "list.txt").write_text("films/a.png\n")
    (tmp_path / "inner" / "list.txt").write_text("../link/a.png\n")
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    names = [text.format(root=tmp_path) for text in (source, output)]
    for arguments in (
        ["score", names[0], "-o", names[1], "--model", str(tiny_model), "--no-report"],
        ["job", "run", names[0], "-o", names[1], "--model", str(tiny_model)],
    ):
        with pytest.raises(UsageError, match="lies inside"):
            command.main(arguments, standalone_mode=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", [*store.RUN_FILES, "films/holiday.mp4", "journal/diary.txt"])
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_what_somebody_else_wrote_under_a_runs_name_is_refused_at_once(
    folder, tmp_path, tiny_model, name, where
):
    url = str(tmp_path / "out") if where == "disk" else f"memory://{tmp_path.name}/{name}/out"
    output = open_output(url)
    if where == "disk":
        (tmp_path / "out" / name).parent.mkdir(parents=True)
        (tmp_path / "out" / name).write_bytes(DIARY)
    else:
        output.create(name, DIARY)
    job = ScoreJob(str(folder), url, (str(tiny_model),))
    with pytest.raises(ForeignFile, match=r"that cxr-batch did not write and would replace\."):
        run_score_job(job)
    assert output.read(name) == DIARY
    assert output.filesystem.find(output.root) == [f"{output.root}/{name}"]


def test_foreign_files_among_the_runs_own_stay(folder, tmp_path, tiny_model):
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    run_score_job(job)
    holiday = tmp_path / "out" / "films" / "holiday.mp4"
    diary = tmp_path / "out" / "journal" / "diary.txt"
    diary.parent.mkdir()
    for path in (holiday, diary):
        path.write_bytes(DIARY)
    (folder / "new.png").write_bytes(make_film(200, seed=90))
    run_score_job(job)
    assert (holiday.read_bytes(), diary.read_bytes()) == (DIARY, DIARY)
    slides = tmp_path / "out" / "slides.pdf"
    slides.write_bytes(DIARY)
    with pytest.raises(ForeignFile, match=r"holds a slides\.pdf"):
        draw_report(job.output)
    assert slides.read_bytes() == DIARY


def test_what_was_changed_after_a_run_is_kept_beside(folder, tmp_path, tiny_model, caplog):
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    run_score_job(job)
    draw_report(job.output)
    changed = {store.CSV_FILE: b"my notes", store.REPORT_FILE: b"my report"}
    for name, data in changed.items():
        (tmp_path / "out" / name).write_bytes(data)
    (folder / "new.png").write_bytes(make_film(200, seed=91))
    run_score_job(job)
    for name, data in changed.items():
        (kept,) = (tmp_path / "out" / "earlier").glob(f"changed-*/{name}")
        assert kept.read_bytes() == data
        assert (
            f"{name} may hold changes of yours: a copy is kept as earlier/changed-" in caplog.text
        )


def test_a_kept_copy_that_was_changed_too_is_kept_beside(tmp_path):
    output = open_output(tmp_path / "out")
    output.write("a.csv", b"the program's")
    for later in (b"later notes", b"later still"):
        (tmp_path / "out" / "a.csv").write_bytes(b"notes")
        output.write("a.csv", b"the program's, " + later)
        newest = max((tmp_path / "out" / "earlier").iterdir(), key=lambda path: len(path.name))
        (newest / "a.csv").write_bytes(later)
    (tmp_path / "out" / "a.csv").write_bytes(b"notes")
    output.write("a.csv", b"the program's again")
    kept = sorted(path.read_bytes() for path in (tmp_path / "out" / "earlier").rglob("*.csv"))
    assert kept == [b"later notes", b"later still", b"notes"]


@pytest.mark.parametrize("moment", ["before all", "before this one"])
def test_what_comes_or_changes_while_files_are_written_is_kept(tmp_path, monkeypatch, moment):
    output = open_output(tmp_path / "out")
    output.write_all({"a": b"1", "b": b"1"})
    path = tmp_path / "out" / "b"
    real = os.fsync

    def come_between(descriptor):
        real(descriptor)
        if moment == "before all" or b"2" in (tmp_path / "out" / "a").read_bytes():
            monkeypatch.setattr(os, "fsync", real)
            path.write_bytes(DIARY)
            (tmp_path / "out" / "c").write_bytes(DIARY)

    monkeypatch.setattr(os, "fsync", come_between)
    output.write_all({"a": b"2", "b": b"2", "c": b"2"})
    assert [(tmp_path / "out" / name).read_bytes() for name in "abc"] == [b"2"] * 3
    kept = sorted((tmp_path / "out" / "earlier").rglob("[abc]"))
    assert [(one.name, one.read_bytes()) for one in kept] == [("b", DIARY), ("c", DIARY)]


def test_empty_folders_of_the_user_stay(folder, tmp_path, tiny_model):
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    for name in ("journal/january/cases", "films/holiday"):
        (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(ForeignFile):
        run_score_job(job)
    shutil.rmtree(tmp_path / "out")
    run_score_job(job)
    for name in ("journal/january/cases", "films/holiday"):
        (tmp_path / "out" / name).mkdir(parents=True)
    (folder / "new.png").write_bytes(make_film(200, seed=94))
    run_score_job(job)
    assert (tmp_path / "out" / "journal" / "january" / "cases").is_dir()
    assert (tmp_path / "out" / "films" / "holiday").is_dir()


@pytest.mark.parametrize(
    "name", ["loop", "a" * 5000, "/".join(["b" * 100] * 40), "out/.cxr-batch", "out/.cxr-batch/x"]
)
def test_a_path_that_cannot_be_an_output_is_one_sentence(folder, tmp_path, tiny_model, name):
    (tmp_path / "loop").symlink_to("pool")
    (tmp_path / "pool").symlink_to("loop")
    for output in (f"{tmp_path}/{name}", f"{tmp_path}/{name}/x"):
        for words in (["score"], ["job", "run"]):
            arguments = [*words, str(folder), "-o", output, "--model", str(tiny_model)]
            with pytest.raises(UsageError, match="Expected a folder"):
                command.main(arguments, standalone_mode=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [*store.RUN_FILES, "films", "journal"])
@pytest.mark.parametrize("before", [False, True], ids=["new", "after a run"])
def test_a_folder_in_place_of_a_file_is_refused_before_anything_is_scored(
    folder, tmp_path, tiny_model, name, before
):
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    if before:
        run_score_job(job)
        shutil.rmtree(tmp_path / "out" / name, ignore_errors=True)
        (tmp_path / "out" / name).unlink(missing_ok=True)
    path = tmp_path / "out" / name
    if name in store.RUN_FILES:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(DIARY)
    there = sorted(tmp_path.rglob("*"))
    with pytest.raises(ForeignFile):
        run_score_job(job)
    assert sorted(tmp_path.rglob("*")) == there


def test_a_record_that_names_more_than_pictures_removes_pictures_only(folder, tmp_path, tiny_model):
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    run_score_job(job)
    holiday = tmp_path / "out" / "films" / "holiday.mp4"
    holiday.write_bytes(DIARY)
    open_output(job.output).add_to_record({"films/holiday.mp4": [sha256_hex(DIARY)]})
    (folder / "new.png").write_bytes(make_film(200, seed=93))
    run_score_job(job)
    assert holiday.read_bytes() == DIARY


def test_a_run_that_was_made_before_there_were_records_is_taken_over(
    folder, tmp_path, tiny_model, caplog
):
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    run_score_job(job)
    draw_report(job.output)
    out = tmp_path / "out"
    for path in sorted((out / INTERNAL_FOLDER).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (out / INTERNAL_FOLDER).rmdir()
    report = (out / store.REPORT_FILE).read_bytes()
    pictures = set((out / store.IMAGES_FOLDER).iterdir())
    (folder / "PNEUMONIA" / "film_3.png").unlink()
    (folder / "new.png").write_bytes(make_film(200, seed=92))
    manifest = run_score_job(job)
    assert manifest.reused == 5
    (kept,) = out.glob(f"earlier/changed-*/{store.REPORT_FILE}")  # nothing shows whose it is
    assert kept.read_bytes() == report
    assert store.CSV_FILE not in caplog.text
    assert not pictures <= set((out / store.IMAGES_FOLDER).iterdir())


def test_a_journal_of_a_version_without_records_is_gone_on_with(folder, tmp_path, tiny_model):
    whole = ScoreJob(str(folder), str(tmp_path / "whole"), (str(tiny_model),))
    run_score_job(whole)
    rows = store.read_run(open_output(whole.output)).rows
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    place = open_output(job.output)
    Checkpoint(place, config_hash(job)).add(rows[:4])
    (part,) = (tmp_path / "out" / "journal").iterdir()
    part.rename(part.with_name(f"{part.name.rpartition('-')[0]}.jsonl"))
    assert run_score_job(job).reused == 4
    assert not (tmp_path / "out" / "journal").exists()


@pytest.mark.parametrize("beside", ["predictions.csv", "report.pdf", "films/a.jpg"])
def test_a_journal_claims_nothing_but_itself(folder, tmp_path, tiny_model, beside):
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    path = tmp_path / "out" / beside
    path.parent.mkdir(parents=True)
    path.write_bytes(DIARY)
    empty = tmp_path / "out" / "journal" / "0123456789abcdef-01234567-000001.jsonl"
    empty.parent.mkdir()
    empty.touch()
    with pytest.raises(ForeignFile):
        run_score_job(job)
    assert (path.read_bytes(), empty.read_bytes()) == (DIARY, b"")


def test_merging_beside_films_refuses(folder, tmp_path, tiny_model):
    out = tmp_path / "out"
    for number in (1, 2):
        run_score_job(ScoreJob(str(folder), str(out), (str(tiny_model),), shard=Shard(number, 2)))
    for path in (out / INTERNAL_FOLDER / "record").iterdir():
        path.unlink()
    (out / "films").mkdir()
    (out / "films" / "a.png").write_bytes(DIARY)
    with pytest.raises(ForeignFile, match="holds a films"):
        merge_shards(str(out))
    assert (out / "films" / "a.png").read_bytes() == DIARY
    assert not (out / store.CSV_FILE).exists()


@pytest.mark.parametrize(
    "link", ["films", "journal", store.CSV_FILE, store.RUN_FILE, INTERNAL_FOLDER, "earlier"]
)
def test_nothing_is_written_through_a_planted_link(folder, tmp_path, tiny_model, link):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "diary.txt").write_bytes(DIARY)
    out = tmp_path / "out"
    job = ScoreJob(str(folder), str(out), (str(tiny_model),))
    if link == "earlier":  # only a second run with other rows goes there
        run_score_job(job)
        (folder / "NORMAL" / "film_0.png").unlink()
    out.mkdir(exist_ok=True)
    inner = link.endswith((".csv", ".json"))
    (out / link).symlink_to(victim / "diary.txt" if inner else victim)
    with pytest.raises(ForeignFile):
        run_score_job(job)
    assert list(victim.iterdir()) == [victim / "diary.txt"]
    assert (victim / "diary.txt").read_bytes() == DIARY


def test_half_written_files_are_never_opened_where_somebody_put_a_link(
    folder, tmp_path, tiny_model
):
    victim = tmp_path / "victim.txt"
    victim.write_bytes(DIARY)
    out = tmp_path / "out"
    out.mkdir()
    for name in store.RUN_FILES:
        (out / f"{name}.partial").symlink_to(victim)
    run_score_job(ScoreJob(str(folder), str(out), (str(tiny_model),)))
    assert victim.read_bytes() == DIARY


@pytest.mark.parametrize("run_id", ["../../target", "/etc", "..", "a\0b"])
def test_a_name_that_was_read_leads_nowhere_else(folder, tmp_path, tiny_model, run_id):
    target = tmp_path / "target"
    target.mkdir()
    (target / store.REPORT_FILE).write_bytes(DIARY)
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    manifest = run_score_job(job)
    text = (tmp_path / "out" / store.RUN_FILE).read_text()
    escaped = run_id.replace("\n", "\\n").replace("\0", "\\u0000")
    (tmp_path / "out" / store.RUN_FILE).write_text(text.replace(manifest.run_id, escaped))
    (folder / "NORMAL" / "film_0.png").unlink()
    with pytest.raises(CxrError, match="Expected the name of a file inside"):
        run_score_job(job)
    assert (target / store.REPORT_FILE).read_bytes() == DIARY


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//b", "", ".", "a\\..\\b", "a\0b"])
def test_no_name_leads_out_of_an_output(tmp_path, name):
    place = open_output(tmp_path / "out")
    place.prepare()
    for call in (
        lambda: place.write(name, b""),
        lambda: place.create(name, b""),
        lambda: place.read(name),
        lambda: place.subfolder(name),
    ):
        with pytest.raises(CxrError, match="the name of a file inside"):
            call()


def test_the_record_joins_its_parts_and_forgets_nothing(tmp_path):
    place = open_output(tmp_path / "out")
    place.prepare()
    for number in range(60):
        place.write(f"{number}.txt", b"%d" % number)
    assert len(list((tmp_path / "out" / INTERNAL_FOLDER / "record").iterdir())) < 20
    assert len(place.record()) == 60
    place.remove(*(f"{number}.txt" for number in range(60)))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [INTERNAL_FOLDER]


def test_what_a_killed_process_left_half_written_goes_after_a_day(tmp_path):
    place = open_output(tmp_path / "out")
    place.prepare()
    own = tmp_path / "out" / INTERNAL_FOLDER
    old, new, foreign = (own / f".{letter * 32}.partial" for letter in "abz")
    for path in (old, new, foreign):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (0, time.time() - 2 * 24 * 3600))
    place.prepare()
    assert set(own.iterdir()) == {new, foreign}


def test_a_journal_file_that_is_not_what_its_name_says_stays(tmp_path, caplog):
    place = open_output(tmp_path / "out")
    place.prepare()
    own = Checkpoint(place, "0" * 16)
    own.add([])
    forged = Path(
        tmp_path
        / "out"
        / checkpoint.CHECKPOINT_FOLDER
        / f"{'0' * 16}-01234567-000001-{'a' * 16}.jsonl"
    )
    forged.write_bytes(DIARY)
    assert own.read() == []
    assert "is damaged" in caplog.text
    own.clear()
    assert list(forged.parent.iterdir()) == [forged]


def test_a_run_that_is_at_work_keeps_another_one_out(folder, tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(lease, "MAX_RENEWAL_INTERVAL_S", 0.2)
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    with OutputLock(open_output(job.output)) as lock:
        lock.check()
        with pytest.raises(AlreadyRunning, match=r"is working on the results in .*/out\."):
            run_score_job(job)
    assert not (tmp_path / "out" / store.CSV_FILE).exists()


def test_two_runs_take_turns(folder, tmp_path, tiny_model):
    job = ScoreJob(str(folder), str(tmp_path / "out"), (str(tiny_model),))
    with OutputLock(open_output(job.output)) as lock:
        open_output(job.output).prepare()
        lock.check()
        assert not lock.inherited
        asked = iter([False, True])
        with pytest.raises(CxrError, match="Interrupted while waiting"):
            run_score_job(job, stop=lambda: next(asked))
    assert run_score_job(job).scored == 6
