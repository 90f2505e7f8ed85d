"""What the tests share: a tiny real model, encoded films, and a way to run the command line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from batch_scorer.card import CARD_KEY, output_names, write_card
from tests import needs
from tests.cards import make_tiny_card
from tests.needs import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXAMPLES = REPOSITORY / "examples" / "xrays"
SLOW = ("cloud", "ray", "slow")
"""The markers of what ``make test`` leaves out; pyproject.toml describes each."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Write expected texts anew.")
    parser.addoption("--quick", action="store_true", help="Leave out what takes long (make test).")
    parser.addoption(
        "--complete",
        action="store_true",
        help="Fail at once where a program that tests need is missing (make test-all).",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--complete") and (missing := needs.missing_programs()):
        raise pytest.UsageError(f"missing: {', '.join(missing)}; make test-all installs them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is asked for or cannot run; files with slow tests come first.

    A long file that comes last keeps one worker busy while the others wait.
    """
    slow = {item.path for item in items if any(map(item.get_closest_marker, SLOW))}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if reason := _why_left_out(item, quick=config.getoption("--quick")):
            item.add_marker(pytest.mark.skip(reason=reason))


def _why_left_out(item: pytest.Item, *, quick: bool) -> str | None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if not needs.is_here(name):
                return f"needs {name}: {needs.NEEDS[name].hint}"
    if quick and (markers := [name for name in SLOW if item.get_closest_marker(name)]):
        return f"{markers[0]}: make test-all"
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was left out: how many tests, by reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if reasons:
        terminalreporter.section("left out")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5d}  {reason}")


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """A film as file content."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def make_film(brightness: int = 120, seed: int = 0, shape: tuple[int, int] = (96, 128)) -> bytes:
    """A noisy grey film; the tiny model calls it pneumonia when it is bright."""
    noise = np.random.default_rng(seed).integers(-20, 20, shape)
    return encode(np.clip(brightness + noise, 0, 255).astype(np.uint8))


def save_tiny_model(
    path: Path,
    name: str = "tiny",
    slope: float = 8.0,
    size_px: int = 32,
    **changes: object,
) -> Path:
    """A real ONNX model with a card: probability = sigmoid(slope * (mean / 255 - 0.5))."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["share"]),
        helper.make_node("Sub", ["share", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "slope"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("slope", TensorProto.FLOAT, [], [slope]),
    ]
    card = make_tiny_card(name, size_px=size_px, slope=slope, **changes)
    if card.typicality:  # distance from mid-grey: 0 there, 2 at black and white
        nodes += [
            helper.make_node("Abs", ["centred"], ["distance"]),
            helper.make_node("Mul", ["distance", "four"], ["atypicality"]),
        ]
        constants.append(helper.make_tensor("four", TensorProto.FLOAT, [], [4.0]))
    if card.etiology:
        nodes.append(helper.make_node("Identity", ["share"], ["viral"]))
    if card.evidence:  # each place's share of the logit: their mean is the logit
        side = size_px // card.evidence.height
        nodes += [
            helper.make_node("Reshape", ["x", "patches"], ["patched"]),
            helper.make_node("ReduceMean", ["patched", "within"], ["means"], keepdims=0),
            helper.make_node("Div", ["means", "white"], ["shares"]),
            helper.make_node("Sub", ["shares", "half"], ["differences"]),
            helper.make_node("Mul", ["differences", "slope"], ["evidence"]),
        ]
        shape = [-1, card.evidence.height, side, card.evidence.width, side]
        constants += [
            helper.make_tensor("patches", TensorProto.INT64, [5], shape),
            helper.make_tensor("within", TensorProto.INT64, [2], [2, 4]),
        ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", size_px, size_px, 1])],
        [
            helper.make_tensor_value_info(
                output, TensorProto.FLOAT, ["n", "h", "w"] if output == "evidence" else ["n"]
            )
            for output in sorted(output_names(card))
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CARD_KEY: write_card(card)})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six films in two classes: bright ones are PNEUMONIA."""
    root = tmp_path / "xrays"
    for index, (label, brightness) in enumerate(
        [("NORMAL", 60), ("NORMAL", 80), ("NORMAL", 100), *[("PNEUMONIA", 180)] * 3]
    ):
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"film_{index}.png").write_bytes(make_film(brightness, seed=index))
    return root


@pytest.fixture
def cxr(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``cxr`` as a user does: another process, its exit code and its output."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "batch_scorer", *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )

    return run
