"""The layout of a labelled folder: its images, and files that lie outside the class folders.

A folder has the two class folders, or (the Kaggle layout) ``train``, ``val`` and ``test`` that have
them. Every file below a class folder is an image and must decode, except system files: names with a
leading dot, ``Thumbs.db``, ``desktop.ini`` and ``__MACOSX``. Other files that may be images are
strays: they are reported and counted, never skipped silently.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from batch_scorer.errors import DatasetError, ImageError
from batch_scorer.imaging.decode import HEADER_BYTES, detect_format
from batch_scorer.model.card import CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTS = ("train", "val", "test")
WHOLE_SET = "all"
SYNTHETIC_MARKER = "SYNTHETIC.txt"
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True)
class Stray:
    """Files outside the class folders, hence without a label.

    ``kind`` is "class" for a folder beside the class folders, "part" for one beside train, val and
    test, and "loose" for images beside folders.
    """

    kind: Literal["class", "part", "loose"]
    path: Path
    files: int

    @property
    def sentence(self) -> str:
        """The stray and its location: "COVID with 12 files in data/train"."""
        if self.kind == "loose":
            count = "1 image" if self.files == 1 else f"{self.files:,} images"
            return f"{count} beside the folders in {self.path.parent}, such as {self.path.name}"
        count = "1 file" if self.files == 1 else f"{self.files:,} files"
        return f"{self.path.name} with {count} in {self.path.parent}"


@dataclass(frozen=True)
class Layout:
    """The images of a labelled folder by part, and its strays.

    ``parts`` has those of ``PARTS`` that exist, or only ``WHOLE_SET`` for a folder without them.
    """

    root: Path
    parts: dict[str, list[Path]]
    strays: tuple[Stray, ...]

    @property
    def kaggle(self) -> bool:
        """True if the folder has its own parts."""
        return WHOLE_SET not in self.parts


def read_layout(root: Path) -> Layout:
    """List the files of a labelled folder.

    Raises:
        DatasetError: The folder does not exist, or one class folder lies inside the other.
    """
    if not root.is_dir():
        raise DatasetError(f"Expected a folder with images, found none at {root}.")
    kaggle = (root / "train").is_dir()
    folders = {name: root / name for name in PARTS if (root / name).is_dir()}
    if not kaggle:
        folders = {WHOLE_SET: root}
    strays = list(_find_strays(root, PARTS, "part")) if kaggle else []
    for folder in folders.values():
        strays += _find_strays(folder, CLASSES, "class")
    parts = {name: _list_images(folder) for name, folder in folders.items()}
    return Layout(root, parts, tuple(strays))


def is_synthetic(root: Path) -> bool:
    """Return True if a folder or its parent carries the marker of synthetic images."""
    return any((folder / SYNTHETIC_MARKER).is_file() for folder in (root, root.parent))


def find_label(root: Path, path: Path) -> int:
    """Find the class of an image by its folder: 0 normal, 1 pneumonia.

    Raises:
        DatasetError: One class folder lies inside the other.
    """
    named = {part for part in path.relative_to(root).parts[:-1] if part in CLASSES}
    if len(named) != 1:
        raise DatasetError(
            f"Expected each image in one of the folders {CLASSES[0]} and {CLASSES[1]}, "
            f"found {path} in both.",
            "Move the inner folder out: its images would get the wrong label.",
            private=[str(path)],
        )
    return CLASSES.index(named.pop())


def count_classes(root: Path, paths: list[Path]) -> Counter[int]:
    """Count the images of each class."""
    return Counter(find_label(root, path) for path in paths)


def _list_images(folder: Path) -> list[Path]:
    return sorted(path for name in CLASSES for path in _iter_files(folder / name))


def _iter_files(folder: Path) -> Iterator[Path]:
    """Iterate over the files below a folder, without system files."""
    for path in folder.glob("**/*"):
        inner = path.relative_to(folder).parts
        if path.is_file() and not any(_is_system_file(part) for part in inner):
            yield path


def _find_strays(
    folder: Path, expected: tuple[str, ...], kind: Literal["class", "part"]
) -> Iterator[Stray]:
    children = sorted(path for path in folder.iterdir() if not _is_system_file(path.name))
    for child in children:
        if child.is_dir() and child.name not in expected:
            files = sum(1 for _ in _iter_files(child))
            if files:
                yield Stray(kind, child, files)
    loose = [path for path in children if path.is_file() and _is_image(path)]
    if loose:
        yield Stray("loose", loose[0], len(loose))


def _is_system_file(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def _is_image(path: Path) -> bool:
    """Return True if the first bytes are those of an image, or if the file cannot be opened."""
    try:
        with path.open("rb") as file:
            detect_format(file.read(HEADER_BYTES))
    except ImageError:
        return False
    except OSError:
        return True
    return True
