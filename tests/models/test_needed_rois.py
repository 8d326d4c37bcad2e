"""Leaving out the RoIs that no loss reads changes no loss and no gradient."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv
import pytest
import torch
from mmdet.models import build_detector

from pipeline import methods
from pipeline.methods.shared import partial_roi_head

from .conftest import batch, build, configuration, total, train_losses

CASES = [
    ("mask_rcnn", "paper", {}),
    ("mask_rcnn", "released", {}),
    ("cam", "released", {"detach_mask_cam": True}),
    ("cam", "released", {}),
    ("contrastmask", "paper", {}),
    ("contrastmask", "paper", {"detach_cl_features": False, "cl_features": "enhanced"}),
    ("contrastmask", "paper", {"cl_loss_weight": 0.0}),
    ("contrastmask", "released", {}),
    ("contrastmask", "released", {"cl_loss_weight": 0.0}),
    ("contrastmask", "released", {"cl_loss_weight": 0.0, "architecture": {"normalise": True}}),
    ("contrastmask", "released", {"roi_features": "shared", "detach_cl_features": False}),
]


def step(method, recipe, knobs, data):
    """Losses and gradients of one step, and of how many RoIs the mask head and the encoder see features."""
    model, seen = build(method, recipe=recipe, **knobs), {}
    parts = {"mask head": model.roi_head.mask_head}
    if method == "contrastmask":
        parts["encoder"] = model.roi_head.cl_head.encoder
    for name, part in parts.items():
        part.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: len(inputs[0])}))
    torch.manual_seed(1)
    losses = train_losses(model, data, epoch=4)
    total(losses).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return losses, gradients, seen


@pytest.mark.parametrize("novel", [(0,), range(6)])
@pytest.mark.parametrize(("method", "recipe", "knobs"), CASES)
def test_losses_and_gradients_are_those_of_all_rois(method, recipe, knobs, novel, monkeypatch):
    data = batch(novel=novel)
    few = step(method, recipe, knobs, data)
    monkeypatch.setattr(partial_roi_head, "needed", lambda chosen: partial_roi_head.EVERY)
    every = step(method, recipe, knobs, data)
    assert few[0].keys() == every[0].keys()
    for name, value in every[0].items():
        torch.testing.assert_close(few[0][name], value, rtol=1e-5, atol=1e-6, msg=name)
    for name, gradient in every[1].items():
        torch.testing.assert_close(
            few[1][name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()) + 1e-8, msg=name
        )
    # those that a loss reads, of all positives
    assert few[2]["mask head"] < every[2]["mask head"]
    if len(novel) == 6:
        assert few[2]["mask head"] == 0
    if method == "contrastmask":
        needed = few[2]["mask head"] if knobs.get("cl_loss_weight") == 0 else every[2]["encoder"]
        assert few[2]["encoder"] == needed


def test_all_rois_count_where_a_batch_norm_mixes_them():
    config = configuration("mask_rcnn", methods.method("mask_rcnn").preset("released"))
    config["roi_head"]["mask_head"]["norm_cfg"] = {"type": "BN"}
    model, seen = build_detector(mmcv.ConfigDict(config)), []
    model.roi_head.mask_head.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    train_losses(model, batch())
    statistics = model.roi_head.statistics
    assert seen == [int(statistics["positive_rois"])] and seen[0] > int(statistics["mask_loss_rois"])
