"""The audit: counts, shared patients, copies, shortcuts, sealed labels, and files of no use."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from PIL import Image

from batch_scorer.errors import DatasetError
from tests.images import encode, make_film
from tests.paths import EXAMPLES, REAL_DATA, REPOSITORY
from trainer.audit.audit import Audit, audit_dataset, summarize_audit
from trainer.audit.confounders import ALL_PROPERTIES, measure_shortcut
from trainer.audit.duplicates import count_duplicates, find_duplicates
from trainer.audit.findings import NO_FINDINGS, list_findings
from trainer.audit.image_stats import HASH_BITS, ImageStats, find_cause, measure_images
from trainer.data.layout import read_layout

RNG = np.random.default_rng(3)


def draw(seed, brightness=120.0, grain=12.0, shape=(160, 192)):
    """A smooth random picture: as different from the next as two films are, or more."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 12)).astype(np.uint8))
    smooth = np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC), dtype=float)
    grey = brightness + (smooth - smooth.mean()) * 0.4 + rng.normal(0, grain, shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


def put(root, name, pixels, **options):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "JPEG" if path.suffix == ".jpeg" else "PNG"
    path.write_bytes(encode(pixels, kind, **options))
    return path


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory):
    """Train and test with shared numbers, three copies, and pneumonia brighter than normal."""
    root = tmp_path_factory.mktemp("data") / "kaggle"
    for index in range(24):
        put(root, f"train/NORMAL/IM-{index:04d}-0001.png", draw(index, 90))
        cause = "virus" if index % 2 else "bacteria"
        name = f"train/PNEUMONIA/person{index // 2}_{cause}_{index}.png"
        put(root, name, draw(100 + index, 150))
    for index in range(12):
        put(root, f"test/NORMAL/IM-{500 + index}-0001.png", draw(200 + index, 90))
        put(root, f"test/PNEUMONIA/person{10 + index}_virus_{index}.png", draw(300 + index, 150))
    put(root, "test/NORMAL/IM-0600-0001.png", draw(0, 90))  # the pixels of train's first film
    put(root, "train/PNEUMONIA/person40_virus_1.jpeg", draw(1, 90), quality=85)  # looks like NORMAL
    return root


@pytest.fixture(scope="module")
def found(kaggle):
    return audit_dataset(kaggle)


def film(key, part="train", label="NORMAL", **changes):
    base = ImageStats(
        key=key,
        part=part,
        label=label,
        cause="normal",
        patient="",
        width_px=224,
        height_px=224,
        size_bytes=7000,
        brightness=120.0,
        contrast=50.0,
        border=80.0,
        pixels_sha256=key,
        phash=RNG.integers(0, 2, HASH_BITS).astype(bool),
    )
    return replace(base, **changes)


def test_films_are_counted_by_part_class_and_cause(found):
    counts = {(c.part, c.label, c.cause): c.images for c in found.counts}
    assert counts == {
        ("train", "NORMAL", "normal"): 24,
        ("train", "PNEUMONIA", "bacterial"): 12,
        ("train", "PNEUMONIA", "viral"): 13,
        ("test", "NORMAL", "normal"): 13,
        ("test", "PNEUMONIA", "viral"): 12,
    }
    assert found.images == sum(counts.values())
    assert find_cause("PNEUMONIA/clinic7.png", "PNEUMONIA") == "unknown"
    assert find_cause("PNEUMONIA/person3_virus_4.jpeg", "") == ""


def test_patients_are_counted_by_part_and_shared_numbers_with_their_films(found):
    assert found.patients.images_per_patient == {"NORMAL": {1: 37}, "PNEUMONIA": {1: 13, 2: 12}}
    assert found.patients.patients == 37 + 25
    assert found.patients.both_causes == 12
    (shared,) = found.patients.shared
    assert (shared.parts, shared.patients, shared.images) == (("train", "test"), 2, (4, 2))
    assert shared.same_cause == 2


def test_copies_are_found_by_pixels_and_by_looks(found):
    assert found.identical.groups == [
        ["train/NORMAL/IM-0000-0001.png", "test/NORMAL/IM-0600-0001.png"]
    ]
    assert found.identical.counts.across == {"train and test": 1}
    assert found.identical.counts.within == {}
    assert found.near_duplicates.groups == [
        ["train/NORMAL/IM-0001-0001.png", "train/PNEUMONIA/person40_virus_1.jpeg"]
    ]
    assert found.near_duplicates.counts.within == {"train": 1}
    assert (
        found.near_duplicates.counts.mixed_labels,
        found.near_duplicates.counts.mixed_patients,
    ) == (1, 1)


def test_a_film_saved_smaller_brighter_or_rougher_looks_the_same_another_does_not(tmp_path):
    grey = Image.fromarray(draw(7))
    buffer = io.BytesIO()
    grey.save(buffer, "JPEG", quality=40)
    variants = {
        "first": grey,
        "small": grey.resize((96, 80)),
        "bright": grey.point(lambda value: value * 1.15),
        "rough": Image.open(buffer),
        "mirrored": grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "other": Image.fromarray(draw(8)),
    }
    for name, image in variants.items():
        put(tmp_path, f"NORMAL/{name}.png", np.asarray(image))
    films, _ = measure_images(read_layout(tmp_path), open_test=True)
    (group,) = find_duplicates(films).near_duplicates
    assert {item.key for item in group} == {f"NORMAL/{n}.png" for n in list(variants)[:4]}


def test_many_films_are_compared_block_by_block_as_in_one(monkeypatch):
    films = [film(str(index)) for index in range(40)]
    films += [replace(films[index], key=f"copy {index}", part="test") for index in (0, 17, 39)]
    whole = find_duplicates(films)
    monkeypatch.setattr("trainer.audit.duplicates.BLOCK_SIZE", 7)
    assert find_duplicates(films) == whole
    assert count_duplicates(whole.identical).across == {"train and test": 3}
    assert whole.near_duplicates == ()


def test_a_shortcut_is_measured_and_its_absence_too(found):
    assert found.shortcut.cross_validation["brightness"].value > 0.9
    assert found.shortcut.test[ALL_PROPERTIES].n == 25
    assert found.shortcut.cross_validation[ALL_PROPERTIES].n == 49
    assert {"width", "height"} == set(found.shortcut.constant)
    rng = np.random.default_rng(0)
    blind = [
        film(str(index), label=("NORMAL", "PNEUMONIA")[index % 2], brightness=rng.normal(120, 20))
        for index in range(300)
    ]
    estimate = measure_shortcut(blind).cross_validation[ALL_PROPERTIES]
    assert estimate.low < 0.5 < estimate.high


def test_a_shortcut_needs_films_that_differ_and_enough_patients():
    same = [film(str(index), label=("NORMAL", "PNEUMONIA")[index % 2]) for index in range(40)]
    assert measure_shortcut(same).cross_validation == {}
    assert "are the same" in measure_shortcut(same).missing_reason
    assert "found 2 in one" in measure_shortcut(same[:4]).missing_reason
    assert "found 0 in one" in measure_shortcut([film("a", part="test")]).missing_reason


def test_sealed_test_labels_leave_no_trace(kaggle):
    sealed = audit_dataset(kaggle, open_test=False)
    assert [c for c in sealed.counts if c.part == "test"] == [
        msgspec.structs.replace(sealed.counts[-1], label="", cause="", images=25)
    ]
    assert sealed.shortcut.test == {}
    assert {spread.part for spread in sealed.appearance} == {"train"}
    assert sealed.patients.shared[0].same_cause is None
    assert sealed.patients.shared[0].patients == 2
    short = summarize_audit(sealed)
    assert short.images["test"] == 25
    assert set(short.metadata_auc) == {"cross-validation"}
    assert short.shared_with_same_cause == {}


def test_the_short_form_holds_the_same_numbers(found):
    short = summarize_audit(found)
    assert short.images["train PNEUMONIA viral"] == 13
    assert short.images["train NORMAL"] == 24
    assert short.images_per_patient == {"1": 50, "2": 12}
    assert short.shared_patients == {"train and test": 2}
    assert short.metadata_auc["test"] == found.shortcut.test[ALL_PROPERTIES]
    normal, pneumonia = (looks for looks in short.appearance if looks.part == "train")
    assert (normal.width_px, normal.height_px) == (192, 160)
    assert normal.brightness < pneumonia.brightness - 40
    assert msgspec.json.decode(msgspec.json.encode(found), type=Audit) == found


def test_what_is_of_no_use_is_listed_and_ends_nothing(tmp_path):
    for index in range(3):
        put(tmp_path, f"NORMAL/film{index}.png", draw(index))
    (tmp_path / "NORMAL" / "bad.jpeg").write_bytes(b"\xff\xd8\xff broken")
    (tmp_path / "COVID").mkdir()
    (tmp_path / "COVID" / "a.png").write_bytes(make_film())
    (tmp_path / "loose.png").write_bytes(make_film())
    found = audit_dataset(tmp_path)
    assert [(file.image, file.reason) for file in found.unusable] == [
        ("NORMAL/bad.jpeg", "unreadable")
    ]
    assert [(stray.path, stray.files) for stray in found.strays] == [("COVID", 1), ("loose.png", 1)]
    texts = [f"{fault.title}. {fault.text}" for fault in list_findings(found)]
    assert texts[0].startswith("The data set has no image of PNEUMONIA.")
    assert "for example NORMAL/bad.jpeg" in texts[1]
    assert any("The folder COVID with 1 file." in text for text in texts)
    assert any("3 of 3 file names contain no patient number" in text for text in texts)


def test_an_unreadable_file_is_listed_too(tmp_path):
    put(tmp_path, "NORMAL/film.png", draw(1))
    (tmp_path / "NORMAL" / "gone.png").symlink_to(tmp_path / "NORMAL" / "film.png")
    layout = read_layout(tmp_path)
    (tmp_path / "NORMAL" / "gone.png").unlink()
    films, unusable = measure_images(layout, open_test=True)
    assert len(films) == 1
    assert unusable[0].detail.startswith("The file cannot be read: No such file")


def test_a_folder_without_films_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="found none"):
        audit_dataset(tmp_path)
    (tmp_path / "NORMAL").mkdir()
    (tmp_path / "NORMAL" / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"none that decodes: NORMAL/bad\.png"):
        audit_dataset(tmp_path)


def test_faults_come_worst_first(found):
    titles = [fault.title for fault in list_findings(found)]
    assert titles[:3] == [
        "Duplicates in both train and test",
        "1 image with two labels",
        "2 patient numbers in both train and test",
    ]
    assert "The part test has 25 images" in titles
    assert "12 patients with several images" in titles


def test_a_set_without_a_fault_is_called_so(found):
    clean = msgspec.structs.replace(
        found,
        counts=[c for c in found.counts if c.part == "train"],
        patients=msgspec.structs.replace(
            found.patients, shared=[], images_per_patient={"NORMAL": {1: 9}, "PNEUMONIA": {1: 9}}
        ),
        identical=msgspec.structs.replace(found.identical, counts=count_duplicates([]), groups=[]),
        near_duplicates=msgspec.structs.replace(
            found.near_duplicates, counts=count_duplicates([]), groups=[]
        ),
        shortcut=msgspec.structs.replace(found.shortcut, cross_validation={}, test={}),
    )
    (only,) = list_findings(clean)
    assert only.title == "The part train has 49 images"
    many = [msgspec.structs.replace(c, images=500) for c in clean.counts]
    assert list_findings(msgspec.structs.replace(clean, counts=many)) == ()
    assert NO_FINDINGS.startswith("The audit found none")


def test_the_command_writes_page_and_facts_without_tensorflow(tmp_path):
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'keras', 'onnx', 'tf2onnx'): sys.modules[name] = None\n"
        f"sys.argv = ['cxr', 'audit', {str(EXAMPLES)!r}, '-o', {str(tmp_path / 'out')!r}]\n"
        "from batch_scorer.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert f"Page      {tmp_path / 'out' / 'audit.html'}" in done.stdout
    assert [line[:7] for line in done.stdout.splitlines()[2:]] == ["Worst 1", "Worst 2", "Worst 3"]
    facts = msgspec.json.decode((tmp_path / "out" / "audit.json").read_bytes(), type=Audit)
    assert facts.images == 24
    assert facts.synthetic
    assert facts.test_labels_opened


def test_a_base_install_is_told_what_the_audit_needs(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['imagehash'] = None\n"
        f"sys.argv = ['cxr', 'audit', {str(EXAMPLES)!r}, '-o', {str(tmp_path / 'out')!r}]\n"
        "from batch_scorer.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 1
    assert (
        'imagehash for the audit, found none. Install it with: pip install "cxr-batch[audit]"'
        in (done.stderr)
    )


def test_the_command_says_what_cannot_be_used(tmp_path, cxr):
    (tmp_path / "empty").mkdir()
    empty = cxr("audit", tmp_path / "empty", "-o", tmp_path / "out")
    assert empty.returncode == 1
    assert empty.stderr.splitlines()[-1].startswith("Error: Expected images in the folders NORMAL")
    (tmp_path / "file").write_text("in the way")
    blocked = cxr("audit", EXAMPLES, "-o", tmp_path / "file" / "out")
    assert blocked.returncode == 2
    assert "expected a folder, found" in blocked.stderr
    assert "Not a directory" in blocked.stderr
    assert "Traceback" not in blocked.stderr


@pytest.mark.needs("real films")
def test_the_published_set_has_its_known_faults():
    short = summarize_audit(audit_dataset(REAL_DATA / "chest_xray", open_test=False))
    assert short.images["train PNEUMONIA bacterial"] == 2530
    assert short.images["test"] == 624
    assert short.shared_patients == {"train and test": 170}
    assert (short.identical.groups, short.identical.across) == (30, {})
    assert short.near_duplicates.groups == 0
    assert short.metadata_auc["cross-validation"].value == pytest.approx(0.902, abs=0.005)
