"""ShapeMask on RetinaNet: its detector's numbers, what may leak, what may be empty, where it starts from.

What the mask head does, whatever the detector, test_shapemask.py looks at; what every method must have,
test_every_method.py.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mmcv import ConfigDict
from mmdet.core import BitmapMasks
from mmdet.models import build_detector

from pipeline import methods
from pipeline.declaration import config, experiments
from pipeline.methods.shared.shapemask import geometry
from pipeline.methods.shared.sizes import Sizes
from tests.models.conftest import SMALL, SMALL_BACKBONE, _one_thread, batch, total, train_losses  # noqa: F401

ROOM = methods.method("shapemask_retina")
TINY = {**SMALL, "normalise": True, "mask_convs": 1}
MASK_LOSSES = ("loss_prior", "loss_coarse", "loss_mask")


def knobs(**changed):
    return ROOM.load_knobs(ROOM.pinned() | changed, "knobs.yaml")


def build(num_classes=6, sizes=(), backbone=SMALL_BACKBONE, **changed):
    chosen = knobs(**changed)
    methods.register("shapemask_retina", chosen)
    torch.manual_seed(0)
    model = build_detector(ConfigDict(ROOM.model(chosen, Sizes(**TINY | dict(sizes)), backbone, num_classes)))
    model.init_weights()
    torch.nn.init.uniform_(model.roi_head.mask_head.prior.centres)
    return model


def numbers(losses):
    return {name: sum(value) if isinstance(value, list) else value for name, value in losses.items()}


def test_masks_of_novel_objects_change_no_gradient_and_base_ones_do():
    def found(noisy):
        model, data = build(), batch(images=2, size=64, objects=5, novel=(0, 1, 2))
        flagged = torch.cat(data["gt_is_novel"])
        assert flagged.any() and not flagged.all()
        for masks, flags in zip(data["gt_masks"], data["gt_is_novel"], strict=True):
            chosen = {"novel": flags, "base": ~flags, None: flags & ~flags}[noisy].numpy()
            masks.masks[chosen] = np.random.default_rng(1).integers(0, 2, masks.masks[chosen].shape)
        total(train_losses(model, data)).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    clean, novel, base = found(None), found("novel"), found("base")
    assert clean.keys() == novel.keys() and all(torch.equal(clean[name], novel[name]) for name in clean)
    assert any(not torch.equal(clean[name], base[name]) for name in clean if "fine" in name)


@pytest.mark.parametrize("without", [(0,), (0, 1)])
def test_images_without_objects(without):
    model, data = build(), batch(images=2, size=64, objects=2, novel=())
    for image in without:
        for name in ("gt_bboxes", "gt_labels", "gt_is_novel"):
            data[name][image] = data[name][image][:0]
        data["gt_masks"][image] = BitmapMasks(np.zeros((0, 64, 64), np.uint8), 64, 64)
    losses = train_losses(model, data)
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert all((numbers(losses)[name] == 0) == (len(without) == 2) for name in MASK_LOSSES)


def test_one_class():
    losses = numbers(train_losses(build(num_classes=1), batch(size=64, num_classes=1, novel=())))
    assert all(value > 0 for value in losses.values())


@pytest.mark.parametrize("shown", [0, 4])
def test_images_with_and_without_detections(shown):
    model = build(sizes={"score_threshold": 0.0, "max_detections": 4} if shown else {"score_threshold": 1.0}).eval()
    data = batch(size=64)
    with torch.no_grad():
        found = model.simple_test(data["img"], data["img_metas"], rescale=True)
    for boxes, masks in found:
        assert sum(map(len, boxes)) == sum(map(len, masks)) == shown
        assert all(mask.shape == (64, 64) for of_class in masks for mask in of_class)


def test_masks_of_detections_are_in_their_outer_boxes():
    model, data = build().eval(), batch(images=1, size=64)
    seen, box = {}, torch.tensor([[10.0, 10.0, 40.0, 30.0, 0.9]])
    extract = model.roi_head.mask_roi_extractor.forward
    model.roi_head.mask_roi_extractor.forward = lambda x, rois: (
        seen.update(levels=len(x), rois=rois) or extract(x, rois)
    )
    with torch.no_grad():
        x = model.extract_feat(data["img"])
        masks = model.roi_head.segment(x, [box], [torch.tensor([3])], data["img_metas"], rescale=False)
    assert [len(of_class) for of_class in masks[0]] == [0, 0, 0, 1, 0, 0]
    torch.testing.assert_close(seen["rois"][:, 1:], geometry.outer(box[:, :4], 1.25, 64, 64))
    assert seen["levels"] == len(x)  # all of the pyramid


def test_views_are_refused_and_operations_counted():
    model, data = build().eval(), batch(images=1, size=64)
    with pytest.raises(NotImplementedError, match="no test-time augmentation; test one view"):
        model.aug_test([data["img"]], [data["img_metas"]])
    with torch.no_grad():
        assert model.forward_dummy(data["img"])[-1][-1].shape[1:] == (1, 28, 28)


# The detector


def test_losses_of_boxes_are_the_authors():
    """Focal loss and 50 times Huber's mean over four numbers, each by the positive anchors of all images and one."""
    model, data = build(), batch(images=2, size=64, objects=3)
    data["gt_bboxes"][1], data["gt_labels"][1] = data["gt_bboxes"][1][:0], data["gt_labels"][1][:0]
    head, metas = model.bbox_head, data["img_metas"]
    with torch.no_grad():
        scores, deltas = head(model.eval().extract_feat(data["img"]))
        found = numbers(head.loss(scores, deltas, data["gt_bboxes"], data["gt_labels"], metas))
        anchors, valid = head.get_anchors([level.shape[-2:] for level in scores], metas, "cpu")
        labels, _, targets, weights, *_ = head.get_targets(
            anchors, valid, data["gt_bboxes"], metas, gt_labels_list=data["gt_labels"], label_channels=6
        )
    logits = torch.cat([s.permute(0, 2, 3, 1).reshape(2, -1, 6) for s in scores], 1).double()
    errors = torch.cat([d.permute(0, 2, 3, 1).reshape(2, -1, 4) for d in deltas], 1) - torch.cat(targets, 1)
    labels, counted = torch.cat(labels, 1), torch.cat(weights, 1) > 0
    positive = labels < 6
    assert positive[0].any() and not positive[1].any() and torch.equal(counted.all(-1), positive)
    one_hot = torch.nn.functional.one_hot(labels, 7)[..., :6].bool()
    p = torch.where(one_hot, logits.sigmoid(), 1 - logits.sigmoid())  # of what is true
    focal = (torch.where(one_hot, 0.25, 0.75) * (1 - p) ** 1.5 * -p.log()).sum() / (positive.sum() + 1)
    absolute = errors[positive].abs().double()
    huber = torch.where(absolute < 0.1, 0.5 * absolute**2, 0.1 * (absolute - 0.05)).sum()
    assert float(found["loss_cls"]) == pytest.approx(float(focal), rel=1e-4)
    assert float(found["loss_bbox"]) == pytest.approx(float(50 * huber / (4 * (positive.sum() + 1))), rel=1e-4)


def test_levels_share_convolutions_and_not_their_norm():
    head = build().bbox_head
    for towers in (head.cls_convs, head.reg_convs):
        first, second = towers[0][0], towers[1][0]
        assert first.conv is second.conv and first.bn is not second.bn


def test_a_detector_on_boxes_alone_gives_the_first_weights():
    room = methods.method("retina")
    methods.register("retina", room.knobs())
    boxes = build_detector(ConfigDict(room.model(room.knobs(), Sizes(**TINY), SMALL_BACKBONE, 6)))
    theirs, ours = boxes.state_dict(), build().state_dict()
    assert all(ours[name].shape == value.shape for name, value in theirs.items())
    assert {name.split(".")[0] for name in ours.keys() - theirs.keys()} == {"roi_head"}
    data = batch(size=64)
    losses = boxes(return_loss=True, **{name: data[name] for name in ("img", "img_metas", "gt_bboxes", "gt_labels")})
    assert set(losses) == {"loss_cls", "loss_bbox"}


# Configuration


def full(name="shapemask_retina_r101_1x_nonvoc2voc", **overrides):
    declared = experiments.load()
    run = declared.run(name)
    run = replace(run, overrides=dict(run.overrides) | overrides)
    return config.resolve(name, "coco2017", 0, replace(declared, runs=declared.runs | {name: run}))


def test_the_full_size_is_the_authors():
    model = full().model
    head, roi_head = model["bbox_head"], model["roi_head"]
    assert head["anchor_generator"]["strides"] == [8, 16, 32, 64, 128] and head["stacked_convs"] == 4
    assert head["loss_cls"]["alpha"] == 0.25 and head["loss_cls"]["gamma"] == 1.5
    assert roi_head["mask_roi_extractor"]["featmap_strides"] == [8, 16, 32, 64, 128]
    assert roi_head["mask_roi_extractor"]["finest_scale"] == 112 and roi_head["stride"] == 8
    shared = config.resolve("shapemask_r101_1x_nonvoc2voc", "coco2017", 0).model["roi_head"]
    assert shared["mask_head"] == roi_head["mask_head"]  # the priors of both are one
    authors = {"type": "BN", "eps": 1e-4, "momentum": 0.003}  # 0.997 of the average stays, a step
    assert model["neck"]["type"] == "FPN" and model["neck"]["norm_cfg"] == model["bbox_head"]["norm_cfg"] == authors
    small = config.resolve("shapemask_retina_r101_1x_nonvoc2voc", "generated", 0).model
    assert small["neck"]["norm_cfg"] == small["bbox_head"]["norm_cfg"] == {"type": "BN"}


def test_nas_fpn_stands_in_the_place_of_the_pyramid():
    wide = full("shapemask_nasfpn_r101_3x_nonvoc2voc")
    assert wide.model["neck"]["type"] == "NASFPN" and wide.model["neck"]["stack_times"] == 7
    assert {**wide.model, "neck": 0} == {**full().model, "neck": 0}
    small = config.resolve("shapemask_nasfpn_r101_3x_nonvoc2voc", "generated", 0)
    assert small.model["neck"]["type"] == "FPN"  # which its initial weights have


def test_nas_fpn_trains():
    backbone = {"type": "ResNet", "depth": 18, "base_channels": 4, "stem_channels": 4, "norm_eval": False}
    sizes = {"strides": [4, 8, 16, 32, 64], "neck_channels": 8, "roi_levels": 4, "mask_channels": 8, "normalise": False}
    model = build(sizes=sizes, backbone=backbone, neck="nas_fpn", priors="few", instances=2)
    losses = train_losses(model, batch(images=2, size=128, objects=2, novel=()))
    total(losses).backward()
    assert type(model.neck).__name__ == "NASFPN" and model.neck.lateral_convs[0].conv.weight.grad.abs().sum() > 0
    assert all(value.isfinite() for value in numbers(losses).values())


def test_every_knob_changes_the_configuration():
    plain = ROOM.preset("paper")

    def of(chosen):
        return ROOM.model(chosen, Sizes(), {"type": "ResNet", "depth": 101}, 80)

    turned = {
        "instances": 5,
        "few_objects": "pad",
        "jitter": 0.1,
        "outer_box": 1.5,
        "priors": "few",
        "prior_loss_weight": 0.5,
        "mask_norm": "batch",
        "neck": "nas_fpn",
    }
    own = set(ROOM.knobs.model_fields) - {"seeds", "recipe", "mask_format", "settings"}
    assert own == set(turned)
    for knob, value in turned.items():
        assert of(ROOM.preset("paper", **{knob: value})) != of(plain), knob
    assert full(settings="authors").optimisation != full().optimisation


def test_both_methods_begin_with_the_same_priors():
    of = [config.resolve(f"{name}_r101_1x_nonvoc2voc", "generated", 0) for name in ("shapemask", "shapemask_retina")]
    assert of[0].priors == of[1].priors == "nonvoc2voc_shapemask"
    selection = experiments.load().selection(["table1"], "generated")
    assert selection["priors"]["nonvoc2voc_shapemask"] == {"method": "shapemask", "direction": "nonvoc2voc"}
    assert selection["weights"]["retina_r101"]["direction"] == "boxes"
