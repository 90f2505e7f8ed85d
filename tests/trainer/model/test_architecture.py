"""A network as a list of steps: its own layers, all its weights, in their order."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from trainer.model.architecture import draw_architecture, list_stages
from trainer.model.networks import BUILDERS


@pytest.mark.parametrize("name", BUILDERS)
def test_no_weight_that_is_learnt_is_left_out(name):
    network = BUILDERS[name](0, augment=0.0)
    learnt = sum(weight.shape.num_elements() for weight in network.trainable_weights)
    assert sum(stage.weights for stage in list_stages(name)) == learnt


def test_steps_of_one_kind_and_size_are_told_together():
    stages = list_stages("vgg16")
    assert sum(stage.times for stage in stages if stage.name == "Convolution") == 13
    assert [stage.title for stage in stages if stage.side_px == 6] == [
        "Halve: largest of four",
        "3 × Convolution",
    ]
    assert (stages[0].size, stages[-1].size) == ("224 × 224 × 1", "1 number")


@pytest.mark.parametrize("name", BUILDERS)
def test_the_figure_names_every_step_and_is_always_the_same(name):
    svg = draw_architecture(name)
    assert svg == draw_architecture(name)
    shown = ["".join(node.itertext()) for node in ET.fromstring(svg).iter() if "text" in node.tag]
    for stage in list_stages(name):
        assert stage.title in shown
        assert stage.size in shown
