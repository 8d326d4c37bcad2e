"""What works on all images at once gives what MMDetection gives image by image."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcv import ConfigDict
from mmcv.ops import batched_nms
from mmdet.core import BitmapMasks, PolygonMasks, mask_target
from mmdet.core.bbox.assigners import MaxIoUAssigner
from mmdet.core.bbox.samplers import RandomSampler
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

from pipeline.methods.shared import assignment, mask_targets
from pipeline.methods.shared.draws import draw, step_generator
from pipeline.methods.shared.padded import Padded
from pipeline.methods.shared.rpn_head import suppressed

from .conftest import batch, build

SIDE = 24


def drawn_boxes(seed, count, quarter=4):
    """Boxes [count, 4] with corners on a grid of quarters: many overlap alike, and sums of them are exact."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, (SIDE - 1) * quarter // 4, (count, 2)) * (4 / quarter)
    return torch.tensor(np.hstack([corners, corners + rng.integers(1, 9, (count, 2))]), dtype=torch.float32)


images = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=4)
seeds = st.integers(0, 2**32 - 1)


@given(
    images, seeds, st.sampled_from([(0.5, 0.5, 0.5), (0.7, 0.3, 0.3), (0.7, 0.3, 0.0)]), st.booleans(), st.booleans()
)
def test_boxes_are_assigned_as_by_the_stock_assigner(counts, seed, thresholds, low_quality, candidates):
    stock = MaxIoUAssigner(
        *thresholds, match_low_quality=low_quality, ignore_iof_thr=0.5, ignore_wrt_candidates=candidates
    )
    boxes, objects, ignored = (
        [drawn_boxes([seed, kind, image], count[kind]) for image, count in enumerate(counts)] for kind in range(3)
    )
    for regions in (None, ignored):
        found = assignment.assign(
            stock, Padded.of(boxes), Padded.of(objects), None if regions is None else Padded.of(regions)
        )
        for image, (mine, own) in enumerate(zip(boxes, objects, strict=True)):
            wanted = stock.assign(mine, own, None if regions is None else regions[image]).gt_inds
            assert found[image, : len(mine)].equal(wanted)
            assert (found[image, len(mine) :] == -1).all()


@given(seeds, st.integers(1, 30), st.sampled_from([0.25, 0.5, 1.0]))
def test_samples_are_the_stock_ones_where_nothing_is_drawn_and_as_many_where_it_is(seed, number, share):
    rng = np.random.default_rng(seed)
    assigned = torch.from_numpy(rng.choice([-1, 0, 0, 1, 2], (3, 24)))
    sampler = RandomSampler(number, share, add_gt_as_proposals=False)
    mine = assignment.sample(sampler, assigned, None)
    for image, row in enumerate(assigned):
        expected = int(number * share)
        for drawn, candidates in zip(mine, ((row > 0), (row == 0)), strict=True):
            chosen = drawn.indices[image][drawn.valid[image]]
            every = candidates.nonzero()[:, 0]
            assert len(chosen) == drawn.count[image] == min(len(every), expected)
            assert chosen.equal(chosen.sort().values) and candidates[chosen].all()
            if len(every) <= expected:
                assert chosen.equal(every)
            expected = number - len(chosen)


def test_every_candidate_is_drawn_equally_often():
    candidates = (torch.arange(12) % 3 != 0).expand(6000, -1)
    numbers = torch.rand(candidates.shape, generator=step_generator(0, 0, 0, torch.device("cpu"), "test/"))
    drawn = draw(candidates, numbers, 5, torch.full((6000,), 2))
    times = torch.bincount(drawn.indices[drawn.valid], minlength=12)
    assert (drawn.count == 2).all() and not times[::3].any()
    expected, deviation = 6000 * 2 / 8, (6000 * 2 / 8 * 6 / 8) ** 0.5
    assert (times[candidates[0]] - expected).abs().max() < 5 * deviation


def test_a_step_draws_the_same_again_and_each_purpose_something_else():
    cpu = torch.device("cpu")
    drawn = [
        torch.rand(4, generator=step_generator(*step, cpu, purpose))
        for step in ((0, 0, 5), (0, 0, 5), (0, 0, 6), (0, 1, 5), (1, 0, 5))
        for purpose in ("rpn/", "rois/")
    ]
    assert drawn[0].equal(drawn[2]) and drawn[1].equal(drawn[3])
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 8


@given(
    seeds, st.integers(1, 3), st.integers(1, 25), st.sampled_from([0.3, 0.5, 0.7]), st.integers(1, 12), st.booleans()
)
def test_boxes_of_all_images_are_suppressed_as_one_image_after_the_other(seed, count, number, threshold, most, flat):
    boxes = torch.stack([drawn_boxes([seed, image], number) for image in range(count)])
    rng = np.random.default_rng(seed)
    if flat:
        boxes[rng.random((count, number)) < 0.3, 2] = 0  # ends before it begins
    scores = torch.from_numpy(rng.permutation(count * number)).float().view(count, number)
    level = torch.from_numpy(rng.integers(0, 3, number)).float()
    valid = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    found = suppressed(Padded(boxes, valid), scores, level, threshold, most)
    for image in range(count):
        kept = valid[image]
        config = {"type": "nms", "iou_threshold": threshold}
        wanted = boxes.new_zeros(0, 5)
        if kept.any():
            wanted, _ = batched_nms(boxes[image][kept], scores[image][kept], level[kept], config)
        assert found.rows[image][found.valid[image]].equal(wanted[:most])


def stock_rpn(head, **sampler):
    """MMDetection's own head with the weights of ours."""
    config = {name: copy.deepcopy(getattr(head, name)) for name in ("train_cfg", "test_cfg")}
    config["train_cfg"]["sampler"].update(sampler)
    stock = RPNHead(
        in_channels=head.in_channels,
        feat_channels=head.feat_channels,
        anchor_generator={
            "type": "AnchorGenerator",
            "scales": [6],
            "ratios": [1.0],
            "strides": [4, 8, 16],
        },
        bbox_coder={"type": "DeltaXYWHBBoxCoder"},
        loss_cls={"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        loss_bbox={"type": "L1Loss", "loss_weight": 1.0},
        **config,
    )
    stock.load_state_dict(head.state_dict())
    return stock


def different_images():
    """Images with 4, 0 and 1 objects, the last one padded."""
    data = batch(images=3)
    for name in ("gt_bboxes", "gt_labels", "gt_is_novel"):
        data[name] = [data[name][0], data[name][1][:0], data[name][2][:1]]
    data["gt_masks"] = [data["gt_masks"][0], data["gt_masks"][1][[]], data["gt_masks"][2][[0]]]
    data["img_metas"][2] |= {"img_shape": (90, 100, 3), "pad_shape": (96, 112, 3)}
    return data


def test_losses_and_proposals_of_the_rpn_are_the_stock_ones():
    model, data = build("mask_rcnn", {"rpn_samples": 10**4}), different_images()
    head, stock = model.rpn_head, stock_rpn(model.rpn_head)
    torch.nn.init.normal_(head.rpn_cls.weight), torch.nn.init.normal_(head.rpn_reg.weight, std=0.3)
    stock.load_state_dict(head.state_dict())
    pyramid = [level.detach() for level in model.extract_feat(data["img"])]
    arguments = data["img_metas"], data["gt_bboxes"]
    mine, proposals = head.forward_train(pyramid, *arguments, proposal_cfg=model.train_cfg.rpn_proposal)
    wanted, listed = stock.forward_train(pyramid, *arguments, proposal_cfg=model.train_cfg.rpn_proposal)
    for name, value in mine.items():
        torch.testing.assert_close(value, sum(wanted[name]), rtol=1e-6, atol=1e-6)
    sum(mine.values()).backward()
    sum(sum(values) for values in wanted.values()).backward()
    for (name, weight), other in zip(head.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, other.grad, rtol=1e-5, atol=1e-6, msg=name)
    for image, boxes in enumerate(listed):
        torch.testing.assert_close(proposals.rows[image][proposals.valid[image]], boxes, rtol=0, atol=1e-5)


def test_sampled_rois_are_the_stock_ones_where_nothing_is_drawn():
    head = build("mask_rcnn", {"rcnn_samples": 400, "rcnn_positive_fraction": 0.5}).roi_head
    data = different_images()
    rng = np.random.default_rng(0)
    proposals = []
    for count, own in zip((60, 30, 0), data["gt_bboxes"], strict=True):
        corners = torch.from_numpy(rng.uniform(0, 80, (count, 2))).float()
        moved = own.repeat(5, 1) + torch.from_numpy(rng.normal(0, 3, (5 * len(own), 4))).float()
        boxes = torch.cat([torch.cat([corners, corners + 30], 1), moved])
        proposals.append(torch.cat([boxes, torch.rand(len(boxes), 1)], 1))
    found = head._sample(proposals, data["gt_bboxes"], data["gt_labels"])
    for mine, boxes, own, labels in zip(found, proposals, data["gt_bboxes"], data["gt_labels"], strict=True):
        assigned = head.bbox_assigner.assign(boxes, own, None, labels)
        stock = head.bbox_sampler.sample(assigned, boxes, own, labels)
        for name in ("bboxes", "pos_bboxes", "neg_bboxes", "pos_gt_bboxes", "pos_gt_labels", "pos_assigned_gt_inds"):
            assert getattr(mine, name).equal(getattr(stock, name)), name
        assert mine.pos_is_gt.equal(stock.pos_is_gt.bool())
    assert [len(mine.pos_bboxes) > 0 for mine in found] == [True, False, True]


@pytest.mark.parametrize("positives", [0, 7])
def test_losses_of_the_box_head_are_the_stock_ones(positives):
    head = build("mask_rcnn").roi_head.bbox_head
    scores, deltas = torch.randn(20, 7), torch.randn(20, 24)
    labels = torch.full((20,), 6)
    labels[:positives] = torch.arange(positives) % 6
    weights = torch.ones(20)
    targets = torch.randn(20, 4) * (labels < 6)[:, None]
    gradients = []
    for loss in (type(head).loss, BBoxHead.loss):
        outputs = [tensor.clone().requires_grad_() for tensor in (scores, deltas)]
        found = loss(
            head, *outputs, torch.zeros(20, 5), labels, weights, targets, (labels < 6)[:, None].float().expand(-1, 4)
        )
        sum(value for name, value in found.items() if name != "acc").backward()
        gradients.append((found, [tensor.grad for tensor in outputs]))
    (mine, own), (wanted, stock) = gradients
    assert mine.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-6, atol=1e-7)
    for ours, theirs in zip(own, stock, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sizes", [[8, 20, 200, 60, 10], [8, 9], []])
def test_features_and_gradients_of_rois_are_the_stock_ones(sizes):
    extractor = build("mask_rcnn").roi_head.bbox_roi_extractor
    rois = torch.tensor([[i % 2, 3.0, 5, 3 + size, 5 + size] for i, size in enumerate(sizes)]).view(-1, 5)
    results = []
    for forward in (type(extractor).forward, SingleRoIExtractor.forward):
        torch.manual_seed(1)
        pyramid = [torch.randn(2, 16, 128 // stride, 128 // stride, requires_grad=True) for stride in (4, 8, 16)]
        features = forward(extractor, pyramid, rois)
        (features * torch.arange(features.numel()).view_as(features)).sum().backward()
        results.append([features, *(level.grad for level in pyramid)])
    for mine, wanted in zip(*results, strict=True):
        assert mine.equal(wanted)


@pytest.mark.parametrize("polygons", [False, True])
def test_mask_targets_are_the_stock_ones(polygons):
    rng = np.random.default_rng(0)
    boxes, owners, masks = [], [], []
    for height, width, count, own in ((40, 60, 5, 3), (50, 50, 0, 2), (60, 40, 4, 1)):
        corners = rng.uniform(-5, 40, (count, 2))
        boxes.append(torch.tensor(np.hstack([corners, corners + rng.uniform(1, 30, (count, 2))]), dtype=torch.float32))
        owners.append(torch.from_numpy(rng.integers(0, own, count)))
        if polygons:
            triangles = [[rng.uniform(0, 40, 6)] for _ in range(own)]
            masks.append(PolygonMasks(triangles, height, width))
        else:
            masks.append(BitmapMasks((rng.random((own, height, width)) < 0.6).astype(np.uint8), height, width))
    for size in (7, 28):
        found = mask_targets.crop(boxes, owners, masks, size)
        assert found.equal(mask_target(boxes, owners, masks, ConfigDict(mask_size=size)).bool())
        assert found.any()


def test_what_is_not_equivalent_is_refused():
    assigner, sampler = MaxIoUAssigner(0.5, 0.5), RandomSampler(8, 0.5)
    assignment.require_supported(assigner, sampler)
    for bad in (MaxIoUAssigner(0.5, (0.1, 0.5)), MaxIoUAssigner(0.5, 0.5, gt_max_assign_all=False)):
        with pytest.raises(ValueError, match="MaxIoUAssigner"):
            assignment.require_supported(bad, sampler)
    with pytest.raises(ValueError, match="RandomSampler"):
        assignment.require_supported(assigner, RandomSampler(8, 0.5, neg_pos_ub=3))
