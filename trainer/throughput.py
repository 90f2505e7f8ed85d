"""How fast a training was, from what its run folder noted: a sentence for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer import run_folder

if TYPE_CHECKING:
    from pathlib import Path


def describe_speed(folder: Path, name: str, n_images: int) -> str:
    """Epochs, images, minutes and images a second of one training, over all its resumed parts.

    Compiling, and judging the validation images after each epoch, count as part of the training.

    Args:
        folder: Its run folder.
        name: The network.
        images: In the training part.
    """
    epochs = len(run_folder.read_history(folder)[run_folder.MONITORED_METRIC])
    seconds = run_folder.read_seconds(folder)
    return (
        f"{name}: {epochs} epochs of {n_images:,} films in {seconds / 60:.1f} minutes, "
        f"{epochs * n_images / max(seconds, 0.1):,.0f} films a second"
    )


def describe_total_time(run: Path, names: tuple[str, ...], whole_s: float) -> str:
    """Minutes of all trainings together, and of the whole command.

    Args:
        run: With one folder for each network.
        names: The networks.
        whole_s: Seconds since the command started.
    """
    trained = sum(run_folder.read_seconds(run / name) for name in names)
    return (
        f"all {len(names)} networks trained in {trained / 60:.1f} minutes; this command took "
        f"{whole_s / 60:.1f}, with reading and evaluating"
    )
