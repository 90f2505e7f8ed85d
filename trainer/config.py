"""The recipe of each network and the configuration of one training run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Recipe:
    """The default training settings of one network.

    ``title`` and ``summary`` go into the model card. ``policy`` is a Keras dtype policy.
    ``flip_tta`` averages the scores of an image and its mirror image. ``augmentation`` is the
    strength of all random changes: 1 is the normal strength, 0 turns them off.
    """

    title: str
    summary: str
    epochs: int
    batch_size: int
    learning_rate: float
    policy: str
    flip_tta: bool = False
    weight_decay: float = 1e-4
    label_smoothing: float = 0.05
    augmentation: float = 1.0


RECIPES = {
    "mlp": Recipe(
        "Multilayer perceptron",
        "Four dense layers (32, 32, 64, 128) on the film at 64 by 64.",
        epochs=12,
        batch_size=64,
        learning_rate=7e-4,
        policy="float32",
        weight_decay=6e-4,  # these and the rate: the best of six trials of `cxr train --search`
        label_smoothing=0.03,
        augmentation=0.3,
    ),
    "cnn": Recipe(
        "Convolutional network",
        "Six convolutions with batch normalisation on the film at 96 by 96, read as it is "
        "and mirrored.",
        epochs=12,
        batch_size=32,
        learning_rate=1e-3,
        policy="float32",
        flip_tta=True,  # validation log loss: 0.0801 without, 0.0775 with; the MLP gets worse
    ),
    "vgg16": Recipe(
        "VGG16",
        "The thirteen convolutions of VGG16 with a pooled head on the film at 96 by 96.",
        epochs=6,
        batch_size=64,
        learning_rate=1e-4,  # from random weights, use 5e-4 and ten epochs
        policy="mixed_bfloat16",
    ),
}


TUNABLE_SETTINGS = {
    "learning_rate": (1e-6, 1.0),
    "weight_decay": (0.0, 1.0),
    "label_smoothing": (0.0, 0.5),
    "augmentation": (0.0, 3.0),
}
"""The recipe settings that a training run may change, each with its lowest and highest value."""
DTYPE_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
"""Keras's dtype policy for each ``--compute`` format. Weights are float32 in both."""


@dataclass(frozen=True)
class FitConfig:
    """Everything that defines one training run.

    On one machine, the same config and data give the same run unless the run was interrupted.
    ``changes`` overrides settings of the network's recipe: those in ``TUNABLE_SETTINGS``, and
    ``policy``.
    """

    model: str
    epochs: int
    batch_size: int
    seed: int
    backend: str
    vgg16_weights: str
    changes: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The network's recipe with ``changes`` applied."""
        return replace(RECIPES[self.model], **self.changes)  # type: ignore[arg-type]

    @property
    def pretrained(self) -> bool:
        """True if VGG16 starts from published weights."""
        return self.vgg16_weights != "none"

    @property
    def command(self) -> str:
        """The command line that repeats this training."""
        return self.format_command("DATA", "RUN")

    def format_command(self, data: str, run: str) -> str:
        """Format the command line of this training, reading ``data`` and writing to ``run``."""
        weights = f" --vgg16-weights {self.vgg16_weights}" if self.model == "vgg16" else ""
        compute = next(
            (
                f" --compute {name}"
                for name in DTYPE_POLICIES
                if DTYPE_POLICIES[name] == self.recipe.policy
            ),
            "",
        )
        changed = "".join(
            f" --set {name}={self.changes[name]}"
            for name in TUNABLE_SETTINGS
            if name in self.changes
        )
        return (
            f"cxr train {data} -o {run} --model {self.model} --epochs {self.epochs} "
            f"--batch-size {self.batch_size} --seed {self.seed} --backend {self.backend}{weights}"
            f"{compute}{changed}"
        )
