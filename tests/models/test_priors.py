"""The contrastive loss with masks, points and scribbles as the prior of novel RoIs, and nothing else of the model."""

import numpy as np
import pytest
import torch
from mmdet.core import BitmapMasks

from pipeline.methods.contrastmask import prior_points
from pipeline.methods.contrastmask.prior_head import cells_near

from .conftest import batch, build, total, train_losses
from .test_mask_formats import as_polygons

OTHERS = ("loss_cls", "loss_bbox", "loss_mask")


def data_of(prior=None, seed=0, kind="points", **options):
    """A batch; with a prior, what the training steps of it add, from the true masks."""
    data, true = batch(novel=(0, 1, 2), seed=seed, **options), batch(novel=(), seed=seed, **options)
    if prior == "masks":
        novel = data["gt_is_novel"]
        shown = [
            masks.masks * flags.numpy()[:, None, None] for masks, flags in zip(true["gt_masks"], novel, strict=True)
        ]
        data["gt_prior_masks"] = [BitmapMasks(masks, *masks.shape[1:]) for masks in shown]
        data["gt_prior_given"] = [flags.clone() for flags in novel]
    elif prior == "points":
        data["gt_prior_points"] = [
            torch.stack([laid(mask, box, flag, kind) for mask, box, flag in zip(*image, strict=True)])
            for image in zip([m.masks for m in true["gt_masks"]], data["gt_bboxes"], data["gt_is_novel"], strict=True)
        ]
    return data


def laid(mask, box, novel, kind, places=80):
    points = torch.full((2, places, 2), torch.nan)
    if novel:
        for side, line in zip(points, prior_points.marks(mask, box.tolist(), kind), strict=True):
            walked = prior_points.walk(line, box.tolist())
            side[: len(walked)] = torch.from_numpy(walked)
    return points


def results(data, recipe="paper", **knobs):
    """Losses by name and the gradients of all parameters, of a training step."""
    model = build(recipe=recipe, sigma=1.0, min_keys=1, **knobs)
    torch.manual_seed(3)
    losses = train_losses(model, data, epoch=9)
    total(losses).backward()
    return losses, [parameter.grad for parameter in model.parameters()], model.roi_head.statistics


def same(one, other):
    losses, gradients, _ = one
    assert losses.keys() == other[0].keys()
    return all(torch.equal(losses[name], other[0][name]) for name in losses if name.startswith("loss_c")) and all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b))
        for a, b in zip(gradients, other[1], strict=True)
    )


# What it equals

FILE = {"prior": "file", "prior_file": "any.json"}


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_true_masks_of_a_file_are_the_oracle(recipe):
    whole = batch(novel=(0, 1, 2)) | {"gt_prior_masks": batch(novel=())["gt_masks"]}
    expected = results(whole, recipe, supervision="oracle")
    got = results(data_of("masks"), recipe, **FILE)
    assert same(got, expected) and got[0]["loss_contrastive"] > 0
    assert not same(got, results(data_of(), recipe))


def test_a_prior_that_says_nothing_is_the_cam():
    expected = results(data_of())
    empty = data_of("masks")
    for flags in empty["gt_prior_given"]:
        flags.zero_()
    assert same(results(empty, **FILE), expected)
    unmarked = data_of("points")
    for points in unmarked["gt_prior_points"]:
        points.fill_(torch.nan)
    for rest in ("none", "cam"):
        got = results(unmarked, prior="points", prior_rest=rest)
        assert same(got, expected) and got[2]["prior_rois"] == 0


@pytest.mark.parametrize("kind", ["points", "scribbles"])
@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_points_change_the_contrastive_loss_alone(recipe, kind):
    plain, marked, both = (
        results(data, recipe, **chosen)
        for data, chosen in (
            (data_of(), {}),
            (data_of("points", kind=kind), {"prior": kind}),
            (data_of("points", kind=kind), {"prior": kind, "prior_rest": "cam"}),
        )
    )
    assert all(torch.equal(plain[0][name], other[0][name]) for name in OTHERS for other in (marked, both))
    values = {each[0]["loss_contrastive"].item() for each in (plain, marked, both)}
    assert len(values) == 3 and all(np.isfinite(value) for value in values)
    assert marked[2]["prior_rois"] == marked[2]["kept_novel_rois"] + marked[2]["dropped_novel_rois"] > 0


def test_masks_change_the_contrastive_loss_alone_and_only_where_given():
    before = results(data_of("masks"), **FILE)
    other = data_of("masks")
    for masks, flags in zip(other["gt_prior_masks"], other["gt_is_novel"], strict=True):
        masks.masks[~flags.numpy()] = 1  # of base objects: never looked at
    assert same(results(other, **FILE), before)
    for masks in other["gt_prior_masks"]:
        masks.masks = np.roll(masks.masks, 9, 2)
    after = results(other, **FILE)
    assert all(torch.equal(before[0][name], after[0][name]) for name in OTHERS)
    assert before[0]["loss_contrastive"] != after[0]["loss_contrastive"]


@pytest.mark.parametrize("rest", ["none", "cam"])
def test_with_points_no_mask_of_a_novel_object_changes_a_bit(rest):
    clean, noisy = data_of("points"), data_of("points")
    rng = np.random.default_rng(0)
    for masks, flags in zip(noisy["gt_masks"], noisy["gt_is_novel"], strict=True):
        masks.masks[flags.numpy()] = rng.integers(0, 2, masks.masks[flags.numpy()].shape)
    assert any(flags.any() for flags in clean["gt_is_novel"])
    chosen = {"prior": "points", "prior_rest": rest}
    before = results(clean, **chosen)
    assert same(results(noisy, **chosen), before)
    for points in noisy["gt_prior_points"]:
        points += 9
    assert not same(results(noisy, **chosen), before)


# Every kind of batch


@pytest.mark.parametrize("prior", ["masks", "points"])
@pytest.mark.parametrize("objects", [0, 3])
@pytest.mark.parametrize("sizes", [{}, {"contrast_roi_size": 28}], ids=["small", "full"])
def test_batches_without_objects_train(prior, objects, sizes):
    if objects:
        data = data_of(prior, objects=objects)
    else:
        data = batch(objects=0)
        added = {
            "masks": {"gt_prior_masks": data["gt_masks"], "gt_prior_given": data["gt_is_novel"]},
            "points": {"gt_prior_points": [torch.full((0, 2, 1, 2), torch.nan)] * 2},
        }
        data |= added[prior]
    model = build(
        architecture=sizes, recipe="released", min_keys=1, **(FILE if prior == "masks" else {"prior": "points"})
    )
    total(train_losses(model, data, epoch=9)).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_polygons_are_taken_for_bitmaps():
    data = data_of("masks")
    expected = results(data, **FILE)[0]["loss_contrastive"]
    data["gt_prior_masks"] = [as_polygons(masks) for masks in data["gt_prior_masks"]]
    assert results(data, **FILE)[0]["loss_contrastive"].item() == pytest.approx(expected.item(), rel=0.1)


def test_points_of_images_need_not_be_as_many():
    data = data_of("points")
    expected = results(data, prior="points")
    data["gt_prior_points"][1] = torch.cat([data["gt_prior_points"][1], torch.full((4, 2, 7, 2), torch.nan)], 2)
    assert same(results(data, prior="points"), expected)


def test_a_batch_without_the_prior_is_refused():
    with pytest.raises(ValueError, match="gt_prior_masks or gt_prior_points is missing"):
        results(data_of(), prior="points")


# Cells


def test_cells_belong_to_the_side_whose_point_is_near():
    generator = torch.Generator().manual_seed(0)
    size, radius = 14, 0.2
    boxes = torch.tensor([[10.0, 20, 40, 90], [0, 0, 5, 5], [3, 3, 60, 9]])
    corner, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    points = corner[:, None, None] + torch.rand(3, 2, 4, 2, generator=generator) * extent[:, None, None]
    points[0, 0, 2:] = points[1, 1] = torch.nan
    got = cells_near(boxes, points, radius, size)
    for roi in range(3):
        for row in range(size):
            for column in range(size):
                cell = torch.tensor([column + 0.5, row + 0.5]) / size
                nearest = [
                    min(
                        [float(((p - corner[roi]) / extent[roi] - cell).norm()) for p in side if not p.isnan().any()],
                        default=np.inf,
                    )
                    for side in points[roi]
                ]
                wanted = [d <= radius and d < e for d, e in (nearest, nearest[::-1])]
                assert got[:, roi, row, column].tolist() == wanted
    assert got[0].any() and got[1].any() and not got[1, 1].any()


def test_a_point_marks_enough_cells_to_take_part():
    """Of the pinned radius, at the coarsest size that a profile has, wherever in a cell it lies: D16 wants five."""
    places = torch.rand(500, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 0.7 + 0.15
    near = cells_near(torch.tensor([[0.0, 0, 1, 1]]).expand(500, 4), places.expand(500, 2, 1, 2) * 1.0, 0.125, 14)
    assert not near.any()  # a point of both sides is of neither
    places = torch.cat([places, torch.full_like(places, torch.nan)], 1)
    near = cells_near(torch.tensor([[0.0, 0, 1, 1]]).expand(500, 4), places, 0.125, 14)
    assert near[0].flatten(1).sum(1).min() >= 5
