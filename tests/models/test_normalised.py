"""Small models with norms in neck, box head and mask branches: what holds without them holds with them."""

import json

import numpy as np
import pytest
import torch
from mmdet.core import BitmapMasks

from pipeline import methods
from pipeline.methods.shared import two_stage
from pipeline.methods.shared.sizes import Sizes

from .conftest import METHODS, SMALL, batch, build, configuration, total, train_losses
from .test_weaknesses import finite_step

NORMALISED = {"normalise": True}
NORMS = ("norm_cfg", "encoder_norm")


def test_the_full_model_has_no_trace_of_it():
    for method in METHODS:
        full = json.dumps(configuration(method, sizes={}))
        assert full == json.dumps(configuration(method, sizes={"normalise": False}))
        assert not any(f'"{key}"' in full for key in NORMS)


def without_norms(config):
    if isinstance(config, dict):
        return {key: without_norms(value) for key, value in config.items() if key not in NORMS}
    return [without_norms(item) for item in config] if isinstance(config, list) else config


def test_norms_are_all_that_it_adds():
    for method in METHODS:
        small, normalised = configuration(method), configuration(method, sizes=SMALL | NORMALISED)
        assert normalised != small and without_norms(normalised) == small


@pytest.mark.parametrize("channels", [1, 3, 4, 6, 18, 31, 32, 256])
def test_groups_divide_the_channels_and_are_not_small(channels):
    groups = two_stage.within_rois(Sizes(normalise=True), channels)["norm_cfg"]["num_groups"]
    assert channels % groups == 0 and channels // groups >= min(channels, two_stage.GROUP)
    assert groups == channels / two_stage.GROUP or channels % two_stage.GROUP


def test_mask_branches_look_closer_and_nothing_else_does():
    released = methods.method("contrastmask").preset("released")
    near, far = (configuration(knobs=released, sizes=SMALL | sizes) for sizes in ({"mask_finest_scale": 112}, {}))
    for extractor in ("mask_roi_extractor", "cl_roi_extractor"):
        assert near["roi_head"][extractor].pop("finest_scale") == 112
        assert far["roi_head"][extractor].pop("finest_scale") == Sizes().finest_scale
    assert near == far


def test_a_model_whose_widths_no_group_divides_trains():
    width = {"neck_channels": 18, "box_channels": 18, "mask_channels": 18, "contrast_channels": 18}
    finite_step(build(architecture=NORMALISED | width), batch(images=1))


def proposals_of_nothing(images, objects):
    """What `forward_train` of a RoI head is given where the RPN proposes nothing: ground truth alone is sampled."""
    data = batch(images=1, objects=objects, novel=())
    if not objects:
        data["gt_masks"] = [BitmapMasks([], 128, 128)]
    keys = ("gt_bboxes", "gt_labels")
    return [data["img_metas"], [torch.zeros(0, 5)], *(data[key] for key in keys)], data


@pytest.mark.parametrize("objects", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_no_roi_and_a_single_one_are_normal(method, objects):
    model = build(method, NORMALISED, min_keys=1) if method == "contrastmask" else build(method, NORMALISED)
    image = batch(images=1)["img"]
    train_losses(model, batch(images=1))  # tells the parts where the training stands
    arguments, data = proposals_of_nothing(1, objects)
    model.zero_grad()
    losses = model.roi_head.forward_train(
        model.extract_feat(image), *arguments, gt_masks=data["gt_masks"], gt_is_novel=data["gt_is_novel"]
    )
    found = total(losses)
    assert torch.isfinite(found) and bool(found > 0) == bool(objects)
    found.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.roi_head.parameters() if p.grad is not None)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values()), "statistics of nothing"


@pytest.mark.parametrize("method", METHODS)
def test_images_without_objects(method):
    losses = finite_step(build(method, NORMALISED), batch(images=2, objects=0))
    assert losses["loss_mask"] == losses["loss_bbox"] == 0


def test_no_base_object_in_the_batch():
    assert finite_step(build(architecture=NORMALISED), batch(novel=range(6)))["loss_mask"] == 0


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_masks_of_novel_objects_change_no_loss_gradient_or_statistic(recipe):
    clean, noisy = batch(novel=(0, 1, 2)), batch(novel=(0, 1, 2))
    rng = np.random.default_rng(0)
    for masks, flags in zip(noisy["gt_masks"], noisy["gt_is_novel"], strict=True):
        masks.masks[flags.numpy()] = rng.integers(0, 2, masks.masks[flags.numpy()].shape)
    found = []
    for data in (clean, noisy):
        model = build(architecture=NORMALISED, recipe=recipe, min_keys=1)
        torch.manual_seed(0)
        loss = total(train_losses(model, data, epoch=9))
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({"loss": loss.detach()} | gradients | dict(model.named_buffers()))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_what_a_mask_branch_makes_of_a_roi_depends_on_no_other_roi():
    """Else it would matter which RoIs are computed, in training and in testing alike."""
    model = build(architecture=NORMALISED, projector_norm="none").train()
    features = torch.randn(5, SMALL["neck_channels"], 14, 14)
    for branch in (model.roi_head.cl_head.encoder, model.roi_head.mask_head.convs):
        parts = branch if isinstance(branch, torch.nn.ModuleList) else [branch]
        every, alone = features, features[2:3]
        for part in parts:
            every, alone = part(every), part(alone)
        torch.testing.assert_close(every[2:3], alone, rtol=1e-5, atol=1e-5)
