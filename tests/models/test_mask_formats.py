"""The RoI head trains on polygons as on bitmaps: no objects, novel objects without a mask, oracle supervision."""

import numpy as np
import pytest
import torch
from mmdet.core import PolygonMasks

from pipeline.tasks.instances.packed_coco import NO_MASK, rectangles

from .conftest import batch, build, total, train_losses


def as_polygons(masks):
    covers = [rectangles(mask) or NO_MASK for mask in masks.masks]
    polygons = [[np.array(polygon, float) for polygon in cover] for cover in covers]
    return PolygonMasks(polygons, masks.height, masks.width)


def both_formats(images=2, objects=4, **options):
    bitmaps, polygons = batch(images, objects=objects, **options), batch(images, objects=objects, **options)
    polygons["gt_masks"] = [as_polygons(masks) for masks in polygons["gt_masks"]]
    return bitmaps, polygons


def losses_of(data, **knobs):
    torch.manual_seed(3)  # of the box samplers
    return train_losses(build(sigma=1.0, min_keys=1, **knobs), data, epoch=9)


def test_polygons_give_nearly_the_losses_of_bitmaps():
    bitmaps, polygons = both_formats()
    expected, got = losses_of(bitmaps), losses_of(polygons)
    for name in ("loss_mask", "loss_contrastive"):
        assert got[name] != expected[name]
        assert got[name].item() == pytest.approx(expected[name].item(), rel=0.1)
    for name in ("loss_cls", "loss_bbox"):
        assert torch.equal(got[name], expected[name])


@pytest.mark.parametrize("objects", [0, 3])
@pytest.mark.parametrize("novel", [(), tuple(range(6))], ids=["all base", "all novel"])
def test_batches_without_objects_or_masks_train(objects, novel):
    _, polygons = both_formats(objects=objects, novel=novel)
    model = build(min_keys=1)
    total(train_losses(model, polygons, epoch=9)).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_polygons_of_novel_objects_change_nothing():
    _, polygons = both_formats()
    first = losses_of(polygons)
    square = np.array([0.0, 0, 100, 0, 100, 100, 0, 100])
    for masks, novel in zip(polygons["gt_masks"], polygons["gt_is_novel"], strict=True):
        masks.masks = [[square] if is_novel else mask for mask, is_novel in zip(masks.masks, novel, strict=True)]
    assert any(novel.any() for novel in polygons["gt_is_novel"])
    second = losses_of(polygons)
    assert all(torch.equal(first[name], second[name]) for name in ("loss_mask", "loss_contrastive"))


@pytest.mark.parametrize("prior", ["bitmaps", "polygons"])
@pytest.mark.parametrize("masks", ["bitmaps", "polygons"])
def test_oracle_supervision_takes_priors_of_either_format(masks, prior):
    data = dict(zip(("bitmaps", "polygons"), both_formats(), strict=True))
    whole = dict(zip(("bitmaps", "polygons"), both_formats(novel=()), strict=True))
    chosen = data[masks] | {"gt_prior_masks": whole[prior]["gt_masks"]}
    losses = losses_of(chosen, supervision="oracle")
    assert torch.isfinite(losses["loss_contrastive"]) and losses["loss_contrastive"] > 0
