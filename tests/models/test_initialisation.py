"""Initial weights: their distribution and size, where the versions of MMDetection or the sources differ."""

import math

import pytest
import torch
from mmcv import Config
from mmdet.models import build_head

from pipeline import methods

from .conftest import SMALL_BACKBONE, build, configuration

# Standard deviations of the classifier (256 -> 81) and the regressor (256 -> 320). MMDetection 2.14: the Xavier rule,
# sqrt(2 / (inputs + outputs)), of every linear layer of the head comes after the fixed ones; 2.28: fixed ones.
STD = {"xavier": (math.sqrt(2 / (256 + 81)), math.sqrt(2 / (256 + 320))), "normal": (0.01, 0.001)}


def initialised(part, recipe="released", **knobs):
    """A part of the full-size RoI head with fresh weights."""
    torch.manual_seed(0)
    knobs = methods.method("contrastmask").preset(recipe, **knobs)
    backbone = SMALL_BACKBONE | {"depth": 50}
    config = configuration(knobs=knobs, sizes={}, backbone=backbone, num_classes=80)["roi_head"][part]
    head = build_head(Config({"head": config}).head)
    head.init_weights()
    return head


def assert_normal(weight, std):
    """Mean, spread and tails of a centred normal distribution, within five standard errors."""
    values = weight.detach().double().flatten()
    assert abs(values.mean()) < 5 * std / math.sqrt(values.numel())
    assert values.std() == pytest.approx(std, rel=5 / math.sqrt(2 * values.numel()))
    assert (values.abs() > 2 * std).double().mean() == pytest.approx(0.0455, abs=5 * math.sqrt(0.0455 / values.numel()))


@pytest.mark.parametrize("init", STD)
def test_box_classifier_and_regressor(init):
    head = initialised("bbox_head", box_init=init)
    for layer, std in zip((head.fc_cls, head.fc_reg), STD[init], strict=True):
        assert_normal(layer.weight, std)
        assert not layer.bias.any()


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_both_recipes_start_as_the_released_version_does(recipe):
    assert STD["xavier"] == pytest.approx((0.0770, 0.0589), abs=1e-4)
    assert_normal(initialised("bbox_head", recipe).fc_cls.weight, STD["xavier"][0])


def test_a_regressor_that_is_not_pooled_follows_its_own_size():
    torch.manual_seed(0)
    head = build(recipe="released").roi_head.bbox_head
    outputs, inputs = head.fc_reg.weight.shape
    assert inputs == 16 * 7 * 7
    assert_normal(head.fc_reg.weight, math.sqrt(2 / (inputs + outputs)))


def test_fusion_convolution():
    """Spec section 4: Kaiming, fan out, normal; no bias. The RoI head passes it on to the CL head."""
    fusion = initialised("cl_head").fusion
    assert_normal(fusion.weight, math.sqrt(2 / 256))
    assert not fusion.bias.any()
    small = build(recipe="released").roi_head.cl_head.fusion
    assert not small.bias.any()


def test_layers_of_the_encoder_keep_their_own_rule():
    """Kaiming of the convolution module: fan out of a 3x3 convolution; the fusion's rule would have no factor 9."""
    assert_normal(initialised("cl_head").encoder[0].conv.weight, math.sqrt(2 / (256 * 9)))
