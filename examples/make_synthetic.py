"""Make the synthetic chest X-rays for the examples and tests of this repository.

No real X-ray is copied; real ones are only measured. Each is aligned to the mean image by a smooth
warp. Principal components of the aligned grey values and of the warps then describe each class. A
synthetic image is a random draw from these normal distributions, slightly narrowed, with random
texture and grain. A draw is discarded if it is close to a training image or an earlier draw, or if
a plain classifier of real images does not recognise its class.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, map_coordinates
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from batch_scorer.errors import ImageError
from batch_scorer.imaging.decode import decode_radiograph

Array = NDArray[np.float64]
Drawn = tuple[bytes, tuple[float, float, float]]  # JPEG; see Judge.measure
CLASSES = ("NORMAL", "PNEUMONIA")
SIZE, COARSE, WAVES = (
    224,
    112,
    9,
)  # pixels of an image, of the alignment; cosines of a warp per axis
FITTED_PER_CLASS, PER_CLASS = 600, 12
GREY_PARTS, SHAPE_PARTS, SHRINK_GREY, SHRINK_SHAPE, SPREADS = 50, 12, 0.9, 0.75, 2.0
# waves, blur, contrast window, stiffness and rounds of each stage of the alignment
STAGES = ((4, 3, 30, 0.02, 2), (6, 2, 16, 0.01, 2), (WAVES, 1, 10, 0.004, 3))
# nearest real neighbours: median correlation 0.64, 95 % below 0.77; of details 0.26 and 0.33
CORRELATION_LIMIT, DETAIL_LIMIT, TWIN_LIMIT = 0.78, 0.40, 0.80
WANTED = {"NORMAL": (0.02, 0.30), "PNEUMONIA": (0.80, 0.999)}
MAX_DRAWS = 600
NOTE = """\
THE FILMS IN THIS FOLDER ARE SYNTHETIC. No real film, and no part of one, is contained.

No child was ever X-rayed for them and they show nobody. They are here to try the program with. They
are no evidence of anything medical, and no accuracy may be measured on them.

Made by    examples/make_synthetic.py, with
           python examples/make_synthetic.py DATA -o examples/xrays --seed {seed}
           where DATA is the train folder of the data set below.
From       statistics of {fitted} real training films (principal components of their aligned grey
           values and of the warps that align them). Each film here is a random draw from these,
           with random texture and grain added.
Data       D. Kermany, K. Zhang, M. Goldbaum, "Labeled Optical Coherence Tomography (OCT) and Chest
           X-Ray Images for Classification", Mendeley Data v2 (2018), doi:10.17632/rscbjbr9sj.2
           Licence CC BY 4.0, https://creativecommons.org/licenses/by/4.0/
           Changed: see above; the films here are made under the same licence.
Chosen     A draw was kept only if a logistic regression on 64-pixel real films gave it a
           probability of pneumonia of {normal} for NORMAL, {pneumonia} for PNEUMONIA.
           So the folder names say which class a film was drawn from, and classifiers look better
           here than they are.
No copy    A draw was refused if its correlation with any of the {total} training films, at 224
           pixels after taking off the mean film, was above {film}, or above {detail} for the
           detail (finer than a blur of 4 pixels) alone. Largest written: {worst:.2f}, {sharp:.2f}.
Marked     Every film carries the word SYNTHETIC in its picture and as its JPEG comment.
"""


@dataclass(frozen=True)
class ClassModel:
    """The statistics of one class: components of grey values and warps, and residual texture."""

    grey: PCA
    shape: PCA
    texture: Array


@dataclass(frozen=True)
class Judge:
    """Unit vectors of all training images, and a plain classifier fitted to them."""

    mean: Array
    images: NDArray[np.float32]
    details: NDArray[np.float32]
    classifier: Pipeline

    def measure(self, image: Array) -> tuple[float, float, float]:
        """Measure the largest correlation with a training image, that of details, P(pneumonia)."""
        whole = self.images @ _unit((image - self.mean)[None])[0]
        detail = self.details @ _unit(_detail(image[None]))[0]
        probability = self.classifier.predict_proba(_small(image[None]))[0, 1]
        return float(whole.max()), float(detail.max()), float(probability)


def read_images(folder: Path) -> NDArray[np.uint8]:
    """Decode every readable image of a class folder, in order of names."""
    images = []
    for path in sorted(folder.iterdir()):
        try:
            images.append(decode_radiograph(path.read_bytes(), SIZE))
        except (ImageError, IsADirectoryError) as exc:
            click.echo(f"skipped {path.name}: {exc}", err=True)
    if len(images) < 6 * GREY_PARTS:
        raise click.ClickException(
            f"Expected at least {6 * GREY_PARTS} images in {folder}, found {len(images)}."
        )
    return np.stack(images)


def _small(images: NDArray[Any]) -> NDArray[np.float32]:
    rows = [np.asarray(Image.fromarray(f.astype(np.uint8)).resize((64, 64), 2)) for f in images]
    return np.stack(rows).reshape(len(rows), -1).astype(np.float32)


def _detail(images: NDArray[Any]) -> NDArray[np.float32]:
    grey = images.astype(np.float32)
    return np.asarray(grey - gaussian_filter(grey, (0, 4, 4)), dtype=np.float32)


def _unit(images: NDArray[Any]) -> NDArray[np.float32]:
    rows = images.reshape(len(images), -1).astype(np.float32)
    rows = rows - rows.mean(1, keepdims=True)
    return np.asarray(rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6))


def fit_judge(normal: NDArray[np.uint8], pneumonia: NDArray[np.uint8]) -> Judge:
    """Prepare the check against copies on every image, and fit the plain classifier."""
    images = np.concatenate([normal, pneumonia])
    mean = images.mean(0)
    labels = np.repeat([0, 1], [len(normal), len(pneumonia)])
    model = make_pipeline(
        PCA(120, random_state=0),
        StandardScaler(),
        LogisticRegression(C=0.01, class_weight="balanced", max_iter=500),
    ).fit(_small(images), labels)
    whole = np.concatenate([_unit(images[i : i + 500] - mean) for i in range(0, len(images), 500)])
    fine = np.concatenate([_unit(_detail(images[i : i + 500])) for i in range(0, len(images), 500)])
    return Judge(mean, whole, fine, model)


def _cosines(waves: int, size: int) -> Array:
    return np.cos(np.pi * np.arange(waves) * ((np.arange(size)[:, None] + 0.5) / size))


def _offsets(warp: Array, size: int) -> Array:
    """Compute the displacement (2, size, size) of a warp with coefficients in pixels of 224."""
    base = _cosines(warp.shape[-1], size)
    return np.asarray(base @ warp @ base.T * (size / SIZE))


def _apply(images: NDArray[Any], warps: Array) -> NDArray[np.float32]:
    size = images.shape[1]
    grid = np.mgrid[:size, :size].astype(float)
    out = np.empty(images.shape, np.float32)
    for image, warp, row in zip(images, warps, out, strict=True):
        map_coordinates(image, grid + _offsets(warp, size), output=row, order=1, mode="nearest")
    return out


def _even_contrast(images: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    rest = images - gaussian_filter(images, (0, window, window))
    spread = np.sqrt(gaussian_filter(rest * rest, (0, window, window))) + 6
    return np.asarray(rest / spread, dtype=np.float32)


def align(images: NDArray[np.uint8]) -> tuple[Array, Array]:
    """Warp all images to their common mean, coarse to fine (Gauss-Newton on cosine warps).

    Returns:
        Coefficients (N, 2, WAVES, WAVES), and each image's correlation with the mean (N,).
    """
    half = images.reshape(-1, COARSE, 2, COARSE, 2).mean((2, 4), dtype=np.float32)
    warps = np.zeros((len(images), 2, WAVES, WAVES))
    for waves, blur, window, stiffness, rounds in STAGES:
        evened = _even_contrast(gaussian_filter(half, (0, blur, blur)), window)
        base = _cosines(waves, COARSE)
        bend = (np.add.outer(np.arange(waves) ** 2, np.arange(waves) ** 2) ** 1.5).ravel()
        for step in range(4 * rounds):
            moved = _apply(evened, warps)
            if step % 4 == 0:
                mean = moved.mean(0)
                slopes = [np.einsum("yx,yi,xj->ijyx", g, base, base) for g in np.gradient(mean)]
                jacobian = np.concatenate(slopes).reshape(2 * waves * waves, -1)
                hessian = jacobian @ jacobian.T
                scale = np.trace(hessian) / len(hessian)
                prior = (np.tile(bend, 2) * stiffness + 1e-3) * scale
            now = warps[:, :, :waves, :waves].reshape(len(images), -1) * (COARSE / SIZE)
            pull = (mean - moved).reshape(len(images), -1) @ jacobian.T - now * prior
            move = np.linalg.solve(hessian + np.diag(prior), pull.T).T * (0.7 * SIZE / COARSE)
            warps[:, :, :waves, :waves] += move.reshape(-1, 2, waves, waves)
            if step % 4 == 3:
                warps -= warps.mean(0)
    return warps, np.asarray(_unit(moved) @ _unit(mean[None])[0], dtype=np.float64)


def fit_class(images: NDArray[np.uint8], warps: Array, correlations: Array) -> ClassModel:
    """Describe the well-aligned images of one class that lie within the mean image's view."""
    grid = np.mgrid[:SIZE:4, :SIZE:4]
    positions = np.stack([grid + _offsets(w, SIZE)[:, ::4, ::4] for w in warps])
    outside = ((positions < -1) | (positions > SIZE)).any(1).mean((1, 2))
    kept = (outside < 0.12) & (correlations > np.quantile(correlations, 0.3))
    flat = _apply(images[kept].astype(np.float32), warps[kept]).reshape(kept.sum(), -1)
    middle, reach = flat.mean(0), SPREADS * flat.std(0)
    flat = np.clip(flat, middle - reach, middle + reach)  # removes markers and tubes
    grey = PCA(GREY_PARTS, svd_solver="full").fit(flat)
    left = flat - grey.inverse_transform(grey.transform(flat))
    shape = PCA(SHAPE_PARTS, svd_solver="full").fit(warps[kept].reshape(kept.sum(), -1))
    texture = gaussian_filter(left.std(0).reshape(SIZE, SIZE).astype(np.float64), 4)
    return ClassModel(grey, shape, texture)


def _draw(model: PCA, shrink: float, rng: np.random.Generator) -> Array:
    scores = rng.standard_normal(model.n_components_) * np.sqrt(model.explained_variance_)
    return np.asarray(model.mean_ + shrink * scores @ model.components_, dtype=np.float64)


def _invert(offsets: Array) -> Array:
    """Compute the source position in the aligned image of each unaligned pixel."""
    grid = np.mgrid[:SIZE, :SIZE].astype(float)
    back = np.zeros_like(offsets)
    for _ in range(25):
        samples = [map_coordinates(o, grid + back, order=1, mode="nearest") for o in offsets]
        back = 0.5 * back - 0.5 * np.stack(samples)
    return np.asarray(grid + gaussian_filter(back, (0, 2, 2)))


def _trim(source: Array) -> tuple[slice, slice] | None:
    """Find the largest plain crop inside the model's area; None if it is too small."""
    bad: NDArray[np.bool_] = np.any((source < 0) | (source > SIZE - 1), axis=0)
    top, bottom, left, right = 0, SIZE, 0, SIZE
    while np.mean(window := bad[top:bottom, left:right]) > 0.004:
        sides = [window[0].mean(), window[-1].mean(), window[:, 0].mean(), window[:, -1].mean()]
        side = int(np.argmax(sides))
        top, bottom = top + (side == 0), bottom - (side == 1)
        left, right = left + (side == 2), right - (side == 3)
        if min(bottom - top, right - left) < 0.8 * SIZE:
            return None
    return slice(top, bottom), slice(left, right)


def draw_image(model: ClassModel, rng: np.random.Generator) -> Image.Image | None:
    """Draw one marked image, about 512 pixels wide; None if its crop would be too small."""
    grey = _draw(model.grey, SHRINK_GREY, rng).reshape(SIZE, SIZE)
    warp = _draw(model.shape, SHRINK_SHAPE, rng).reshape(2, WAVES, WAVES)
    height, width = int(rng.integers(440, 500)), int(rng.integers(500, 560))
    noise = rng.standard_normal((3, height, width))
    source = _invert(_offsets(warp, SIZE))
    if (crop := _trim(source)) is None:
        return None
    rows, columns = crop
    samples = np.meshgrid(
        np.linspace(rows.start, rows.stop - 1, height),
        np.linspace(columns.start, columns.stop - 1, width),
        indexing="ij",
    )
    positions = np.stack([map_coordinates(s, samples, order=1) for s in source])
    image = map_coordinates(grey, positions, order=3, mode="nearest")
    for blur, amount in ((3.0, 0.9), (12.0, 0.35)):
        image = image + amount * (image - gaussian_filter(image, blur))
    spread = map_coordinates(model.texture, positions, order=1, mode="nearest")
    for layer, (blur, amount) in zip(noise, ((4.0, 0.30), (2.0, 0.20), (0.8, 0.12)), strict=True):
        soft = gaussian_filter(layer, blur)
        image = image + amount * spread * soft / soft.std()
    marked = Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    font = ImageFont.load_default(size=16)
    ImageDraw.Draw(marked).text((10, 8), "SYNTHETIC", fill=235, font=font)
    return marked


def encode(marked: Image.Image) -> bytes:
    """Encode as JPEG with the comment SYNTHETIC."""
    out = io.BytesIO()
    marked.save(out, "JPEG", quality=88, optimize=True, comment=b"SYNTHETIC")
    return out.getvalue()


def draw_class(name: str, model: ClassModel, judge: Judge, rng: np.random.Generator) -> list[Drawn]:
    """Draw PER_CLASS images that are neither copies nor twins and match their class."""
    low, high = WANTED[name]
    kept: list[Drawn] = []
    seen = np.zeros((0, SIZE * SIZE), np.float32)
    for _ in range(MAX_DRAWS):
        marked = draw_image(model, rng)
        if marked is None:
            continue
        data = encode(marked)
        image = decode_radiograph(data, SIZE).astype(np.float64)
        whole, detail, probability = judge.measure(image)
        vector = _unit((image - judge.mean)[None])
        twin = float((seen @ vector[0]).max(initial=-1))
        if whole > CORRELATION_LIMIT or detail > DETAIL_LIMIT or twin > TWIN_LIMIT:
            continue
        if low <= probability <= high:
            seen = np.concatenate([seen, vector])
            kept.append((data, (whole, detail, probability)))
        if len(kept) == PER_CLASS:
            return kept
    raise click.ClickException(f"{MAX_DRAWS} draws gave {len(kept)} of {PER_CLASS} {name} images.")


def find_class_folders(data: Path) -> tuple[Path, Path]:
    """Find the two class folders of DATA, or of its train folder.

    Raises:
        click.ClickException: They do not exist.
    """
    for base in (data / "train", data):
        if all((base / name).is_dir() for name in CLASSES):
            return base / CLASSES[0], base / CLASSES[1]
    raise click.ClickException(f"Expected folders NORMAL and PNEUMONIA in {data}, found none.")


def fit_models(images: list[NDArray[np.uint8]], rng: np.random.Generator) -> list[ClassModel]:
    """Align a sample of both classes together, then describe each class."""
    count = min(FITTED_PER_CLASS, *(len(f) for f in images))
    some = [f[np.sort(rng.choice(len(f), count, replace=False))] for f in images]
    warps, correlations = align(np.concatenate(some))
    parts = (slice(0, count), slice(count, None))
    return [fit_class(f, warps[p], correlations[p]) for f, p in zip(some, parts, strict=True)]


def write(
    output: Path, drawn: list[list[Drawn]], seed: int, images: list[NDArray[np.uint8]]
) -> None:
    """Write the images and SYNTHETIC.txt, and print the measurements of each image."""
    for name, kept in zip(CLASSES, drawn, strict=True):
        (output / name).mkdir(parents=True, exist_ok=True)
        for number, (jpeg, (whole, detail, probability)) in enumerate(kept, 1):
            path = output / name / f"synthetic_{name.lower()}_{number:02}.jpeg"
            path.write_bytes(jpeg)
            click.echo(f"{path} {len(jpeg)} B {whole:.3f} {detail:.3f} {probability:.3f}")
    note = NOTE.format(
        seed=seed,
        fitted=2 * min(FITTED_PER_CLASS, *(len(f) for f in images)),
        total=sum(len(f) for f in images),
        normal="{} to {}".format(*WANTED["NORMAL"]),
        pneumonia="{} to {}".format(*WANTED["PNEUMONIA"]),
        film=CORRELATION_LIMIT,
        detail=DETAIL_LIMIT,
        worst=max(m[0] for kept in drawn for _, m in kept),
        sharp=max(m[1] for kept in drawn for _, m in kept),
    )
    (output / "SYNTHETIC.txt").write_text(note, encoding="utf-8", newline="\n")


@click.command(epilog="Example: python examples/make_synthetic.py DATA -o examples/xrays --seed 1")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for NORMAL, PNEUMONIA and SYNTHETIC.txt; existing files are replaced.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the draws."
)
def main(data: Path, output: Path, seed: int) -> None:
    """Make synthetic chest X-rays from the statistics of the real training images in DATA.

    DATA has the folders NORMAL and PNEUMONIA, or a folder train that has them. Needs about 4 GB of
    memory and a few minutes. Prints for each image its size, its largest correlation with any
    training image (whole, then details), and a plain classifier's probability of pneumonia.
    """
    with threadpool_limits(1):  # the order of sums, and so the bytes, must not depend on cores
        rng = np.random.default_rng(seed)
        images = [read_images(folder) for folder in find_class_folders(data)]
        models = fit_models(images, rng)
        judge = fit_judge(*images)
        drawn = [
            draw_class(name, model, judge, rng) for name, model in zip(CLASSES, models, strict=True)
        ]
    write(output, drawn, seed, images)


if __name__ == "__main__":
    main()
