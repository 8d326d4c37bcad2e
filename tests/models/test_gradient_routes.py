"""What each loss reaches, in both presets."""

import pytest
import torch

from .conftest import batch, build, train_losses

GROUPS = {
    "backbone": "backbone.",
    "neck": "neck.",
    "rpn": "rpn_head.",
    "shared": "roi_head.bbox_head.shared_convs",
    "cls_convs": "roi_head.bbox_head.cls_convs",
    "classifier": "roi_head.bbox_head.fc_cls",
    "regressor": "roi_head.bbox_head.fc_reg",
    "mask_head": "roi_head.mask_head.",
    "encoder": "roi_head.cl_head.encoder",
    "projector": "roi_head.cl_head.projector",
    "fusion": "roi_head.cl_head.fusion",
}
MASK_ROUTE = {"backbone", "neck", "shared", "cls_convs", "mask_head", "encoder"}


def reached(model, loss):
    """Return the groups of parameters with a gradient that is not zero."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    touched = {name for name, g in zip(names, gradients, strict=True) if g is not None and g.abs().sum() > 0}
    return {group for group, prefix in GROUPS.items() if any(name.startswith(prefix) for name in touched)}


def losses_of(**knobs):
    model = build(**{"min_keys": 1, **knobs})
    return model, train_losses(model, batch(), epoch=4)


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_contrastive_loss_reaches_encoder_and_projector_only(recipe):
    model, losses = losses_of(recipe=recipe)
    assert losses["loss_contrastive"] != 0
    assert reached(model, losses["loss_contrastive"]) == {"encoder", "projector"}


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_mask_loss_reaches_the_box_head_through_the_cam_but_not_the_classifier(recipe):
    model, losses = losses_of(recipe=recipe)
    expected = MASK_ROUTE | ({"fusion"} if recipe == "released" else set())
    assert reached(model, losses["loss_mask"]) == expected


def test_box_losses_are_as_usual():
    model, losses = losses_of()
    assert reached(model, losses["loss_cls"]) == {"backbone", "neck", "shared", "cls_convs", "classifier"}
    assert reached(model, losses["loss_bbox"]) == {"backbone", "neck", "shared", "regressor"}


def test_each_detachment_can_be_lifted():
    model, losses = losses_of(detach_cl_features=False)
    assert reached(model, losses["loss_contrastive"]) == {"backbone", "neck", "encoder", "projector"}
    model, losses = losses_of(detach_classifier=False)
    assert "classifier" in reached(model, losses["loss_mask"])
    model, losses = losses_of(detach_mask_cam=True)
    assert reached(model, losses["loss_mask"]) == MASK_ROUTE - {"shared", "cls_convs"}


def test_queries_are_part_of_the_gradient_unless_detached():
    gradients = []
    for detached in (False, True):
        model, losses = losses_of(detach_queries=detached)
        weight = model.roi_head.cl_head.projector[-1].weight
        gradients.append(torch.autograd.grad(losses["loss_contrastive"], weight)[0])
    assert not torch.allclose(*gradients)


def test_without_cam_the_mask_loss_stays_off_the_box_head():
    model = build("mask_rcnn")
    losses = train_losses(model, batch())
    assert reached(model, losses["loss_mask"]) == {"backbone", "neck", "mask_head"}


def test_every_trainable_parameter_gets_a_gradient():
    for recipe in ("paper", "released"):
        model, losses = losses_of(recipe=recipe)
        total = sum(sum(v) if isinstance(v, list) else v.sum() for k, v in losses.items() if "loss" in k)
        total.backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
