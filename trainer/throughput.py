"""Training speed from the times recorded in a run folder, as sentences for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer import run_folder

if TYPE_CHECKING:
    from pathlib import Path


def describe_speed(folder: Path, name: str, n_images: int) -> str:
    """Describe epochs, images, minutes and images per second of one training.

    The time covers all resumed parts, with compilation and the evaluation of validation images
    after each epoch.

    Args:
        folder: The run folder of the network.
        name: The network.
        n_images: Number of training images.
    """
    epochs = len(run_folder.read_history(folder)[run_folder.MONITORED_METRIC])
    seconds = run_folder.read_seconds(folder)
    return (
        f"{name}: {epochs} epochs of {n_images:,} images in {seconds / 60:.1f} minutes, "
        f"{epochs * n_images / max(seconds, 0.1):,.0f} images per second"
    )


def describe_total_time(run: Path, names: tuple[str, ...], whole_s: float) -> str:
    """Describe the minutes of all trainings together and of the whole command.

    Args:
        run: The folder that holds one run folder per network.
        names: The networks.
        whole_s: Seconds since the command started.
    """
    trained = sum(run_folder.read_seconds(run / name) for name in names)
    return (
        f"all {len(names)} networks trained in {trained / 60:.1f} minutes; the whole command took "
        f"{whole_s / 60:.1f} minutes, with reading and evaluating"
    )
