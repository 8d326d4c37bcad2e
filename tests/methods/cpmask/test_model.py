"""CPMask as a detector: what a step reads, trains and leaves alone; edge cases; detections."""

import logging
from dataclasses import replace

import mmcv
import numpy as np
import pytest
import torch
from mmdet.core import BitmapMasks
from mmdet.models import build_detector
from mmdet.models.dense_heads import FCOSHead

from benchmarks.host_reads import HostReads
from pipeline import methods
from pipeline.declaration import config, experiments
from pipeline.methods.cpmask import look_inside
from pipeline.methods.shared import mask_targets, partial_roi_head
from pipeline.methods.shared.cpmask.roi_head import training_rois
from pipeline.methods.shared.sizes import Sizes
from pipeline.training.data_parallel import averaged
from pipeline.training.precision import use_autocast
from tests.joined import joined
from tests.models.conftest import SMALL, SMALL_BACKBONE, batch, total, train_losses
from tests.models.conftest import build as build_any

METHODS = ("cpmask", "cpmask_fcos")
MASK_LOSSES = ("loss_mask", "loss_boundary", "loss_affinity")


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def build(method="cpmask", recipe="paper", **options):
    return build_any(method, recipe=recipe, **options)


def step(model, data):
    """Losses and gradients of a step, all finite and every parameter reached."""
    torch.manual_seed(1)
    model.zero_grad()
    losses = train_losses(model, data)
    total(losses).backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert all(torch.isfinite(total({name: value})) for name, value in losses.items() if "loss" in name)
    assert [name for name, grad in gradients.items() if grad is None or not torch.isfinite(grad).all()] == []
    return losses, {name: grad.clone() for name, grad in gradients.items()}


def statistics(model):
    norm = model.roi_head.mask_head.affinity.norm
    return torch.stack([norm.running_mean, norm.running_var])


@pytest.mark.parametrize("rois", ["base_gt", "base_positives", "fcos"])
def test_novel_masks_change_nothing(rois):
    method, knobs = ("cpmask_fcos", {}) if rois == "fcos" else ("cpmask", {"mask_loss_rois": rois})
    data, found = batch(novel=(0, 1, 2)), []
    assert any(flags.any() and not flags.all() for flags in data["gt_is_novel"])
    for noisy in (False, True):
        rng = np.random.default_rng(3)
        masks = []
        for flags, each in zip(data["gt_is_novel"], data["gt_masks"], strict=True):
            noise = rng.random(each.masks.shape) < 0.5
            mixed = np.where(flags.numpy()[:, None, None] & noisy, noise, each.masks)
            masks.append(BitmapMasks(mixed.astype(np.uint8), each.height, each.width))
        model = build(method, **knobs)
        found.append((*step(model, data | {"gt_masks": masks}), statistics(model)))
    for name in found[0][0]:
        assert torch.equal(total({f"loss {name}": found[0][0][name]}), total({f"loss {name}": found[1][0][name]})), name
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])
    assert torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize("knobs", [{"mask_loss_rois": "base_gt"}, {"mask_loss_rois": "base_positives"}])
def test_computing_every_roi_as_on_a_gpu_gives_the_same(knobs, monkeypatch):
    data, found = batch(novel=(0, 1, 2)), []
    for every in (False, True):
        if every:
            monkeypatch.setattr(partial_roi_head, "needed", lambda chosen: partial_roi_head.EVERY)
        model, seen = build(**knobs), []
        model.roi_head.mask_head.convs[0].register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        found.append((*step(model, data), statistics(model), len(seen[0])))
    few, all_ = found
    assert few[3] < all_[3]
    for name in MASK_LOSSES:
        torch.testing.assert_close(few[0][name], all_[0][name], rtol=1e-4, atol=1e-5, msg=name)
    for name, expected in all_[1].items():
        slack = 1e-3 * float(expected.abs().max()) + 1e-6
        torch.testing.assert_close(few[1][name], expected, rtol=1e-3, atol=slack, msg=name)
    torch.testing.assert_close(few[2], all_[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("images", [1, 3])
def test_the_host_waits_once_for_a_gpu(images, monkeypatch):
    """For how many RoIs each level of the pyramid has; which RoIs have masks it need not know."""
    monkeypatch.setattr(partial_roi_head, "needed", lambda chosen: partial_roi_head.EVERY)
    head, data = build().roi_head.train(), batch(images=images)
    with torch.no_grad():
        x = [torch.randn(images, 16, 128 // stride, 128 // stride) for stride in (4, 8, 16)]
    boxes, owners = training_rois("base_gt", None, data["gt_bboxes"])
    reads = HostReads()
    with reads:
        losses = head.mask_losses(x, boxes, owners, data["gt_masks"], data["gt_is_novel"])
        sum(losses.values()).backward()
    assert reads.count() == 1, reads.found


def test_all_boxes_of_base_objects_count_however_few_are_drawn():
    data = batch(objects=5, novel=(0,))
    base = int(sum((~flags).sum() for flags in data["gt_is_novel"]))
    for method, few in (("cpmask", {"rcnn_samples": 2}), ("cpmask_fcos", {})):
        model = build(method, architecture=few)
        train_losses(model, data)
        assert model.roi_head.statistics["mask_loss_rois"] == base
        assert model.roi_head.statistics["mask_rois"] == 10
    drawn = build(architecture={"rcnn_samples": 2}, mask_loss_rois="base_positives")
    train_losses(drawn, data)
    assert drawn.roi_head.statistics["mask_rois"] <= 2


def test_targets_are_the_objects_own_masks(monkeypatch):
    data, seen = batch(images=2, novel=(1,)), {}
    model = build()
    original = model.roi_head.mask_head.loss
    monkeypatch.setattr(
        model.roi_head.mask_head, "loss", lambda *given: seen.update(targets=given[3]) or original(*given)
    )
    train_losses(model, data)
    owners = [torch.arange(len(boxes)) for boxes in data["gt_bboxes"]]
    expected = mask_targets.crop(data["gt_bboxes"], owners, data["gt_masks"], 28)
    assert torch.equal(seen["targets"], expected[~torch.cat(data["gt_is_novel"])])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["no base object", "no object", "one image without", "one class"])
def test_edge_cases_have_finite_losses_with_a_graph(method, case):
    given = {
        "no base object": {"novel": range(6)},
        "no object": {"objects": 0},
        "one image without": {"images": 1, "objects": 1, "novel": ()},
        "one class": {"num_classes": 1, "novel": ()},
    }[case]
    model, data = build(method, num_classes=given.get("num_classes", 6)), batch(**given)
    if case == "one image without":
        empty = batch(images=1, objects=0)
        data = {name: torch.cat([v, empty[name]]) if name == "img" else v + empty[name] for name, v in data.items()}
    before = statistics(model)
    losses, _ = step(model, data)
    for name in MASK_LOSSES:
        assert losses[name].requires_grad and (losses[name] == 0) == case.startswith("no "), name
    assert torch.equal(statistics(model), before) == case.startswith("no ")


def test_features_that_died_are_finite():
    model = build()
    torch.nn.init.constant_(model.roi_head.mask_head.transform.gn.weight, 0)
    torch.nn.init.constant_(model.roi_head.mask_head.transform.gn.bias, -1)
    step(model, batch())


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_near_full_precision(method):
    data, found = batch(), []
    for precision in ("fp32", "bf16"):
        model = build(method)
        use_autocast(model, methods.method(method).autocast, "cpu", precision)
        found.append(step(model, data)[0])
    for name in MASK_LOSSES:
        assert found[1][name].dtype == torch.float32
        assert float(found[1][name].detach()) == pytest.approx(float(found[0][name].detach()), rel=0.1, abs=0.02), name
    assert any(found[1][name] != found[0][name] for name in MASK_LOSSES)


def _step(rank):
    model = build()
    wrapped = averaged(model)
    data = batch(novel=range(6) if rank else (0,), seed=rank)
    torch.manual_seed(rank)
    for _ in range(2):
        wrapped.zero_grad()
        for part in model.modules():
            if hasattr(part, "set_progress"):
                part.set_progress(0, 0.0, 0, rank)
        total(wrapped(return_loss=True, **data)).backward()
    gradients = {name: value.grad for name, value in model.roi_head.mask_head.named_parameters()}
    return gradients, statistics(model)


def test_two_processes_one_of_them_without_a_base_object():
    """Neither waits for ever; gradients are means, batch statistics each one's own."""
    first, second = joined(_step, 2)
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    assert any(gradient.any() for gradient in first[0].values())
    fresh = statistics(build())
    assert torch.equal(second[1], fresh) and not torch.equal(first[1], fresh)


def test_it_learns_the_masks_of_one_image():
    """From fixed features, so that it is the mask head that does."""
    model = build(architecture={"mask_roi_size": 7, "mask_convs": 2}).train()
    data = batch(images=1, objects=3, novel=(), seed=2)
    with torch.no_grad():
        x = model.extract_feat(data["img"])
    head, owners = model.roi_head, [torch.arange(3)]
    optimizer = torch.optim.AdamW(head.mask_head.parameters(), lr=4e-3)
    history = []
    for _ in range(80):
        losses = head.mask_losses(x, data["gt_bboxes"], owners, data["gt_masks"], data["gt_is_novel"])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    assert history[-1]["loss_mask"] < 0.5 * history[0]["loss_mask"]
    assert history[-1]["loss_boundary"] < 0.7 * history[0]["loss_boundary"]
    model.eval()
    with torch.no_grad():
        rois = torch.cat([torch.zeros(3, 1), data["gt_bboxes"][0]], 1)
        masks = head.detection_masks(x, rois, None, None)[:, 0] > 0
    expected = mask_targets.crop(data["gt_bboxes"], owners, data["gt_masks"], 14)
    overlap = (masks & expected).sum((1, 2)) / (masks | expected).sum((1, 2))
    assert (overlap > 0.7).all(), overlap


@pytest.mark.parametrize("method", METHODS)
def test_detections_have_masks_and_none_is_no_error(method):
    model, data = build(method).eval(), batch(images=2)
    scores = model.roi_head.test_cfg
    scores.score_thr, scores.max_per_img = 0.0, 5
    with torch.no_grad():
        for boxes, masks in model.simple_test(data["img"], data["img_metas"], rescale=True):
            assert sum(map(len, boxes)) == sum(map(len, masks)) == 5
            assert all(len(b) == len(m) for b, m in zip(boxes, masks, strict=True))
            assert {mask.shape for of_class in masks for mask in of_class} == {(128, 128)}
        scores.score_thr = 1.0
        for boxes, masks in model.simple_test(data["img"], data["img_metas"]):
            assert sum(map(len, boxes)) == sum(map(len, masks)) == 0 and len(masks) == 6


def test_the_score_of_fcos_is_the_root_of_the_product():
    model, data = build("cpmask_fcos").eval(), batch(images=1)
    model.bbox_head.test_cfg.score_thr = 0.0
    with torch.no_grad():
        outputs = model.bbox_head(model.extract_feat(data["img"]))
        ((ours, labels),) = model.bbox_head.get_bboxes(*outputs, img_metas=data["img_metas"])
        ((theirs, others),) = FCOSHead.get_bboxes(model.bbox_head, *outputs, img_metas=data["img_metas"])
    assert torch.equal(ours, theirs) and torch.equal(labels, others)
    best = torch.cat([(s.sigmoid() * c.sigmoid()).flatten() for s, c in zip(outputs[0], outputs[2], strict=True)]).max()
    assert float(ours[0, 4]) == pytest.approx(float(best.sqrt()), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_operations_are_counted_of_the_masks_too(method):
    model = build(method).eval()
    with torch.no_grad():
        outputs = model.forward_dummy(batch(images=1)["img"])
    assert outputs[-1][-1].shape[1:] == (1, 28, 28)


def test_test_time_augmentation_averages_on_two_stages_and_is_refused_on_one():
    data = batch(images=1)
    views = [data["img"], data["img"]], [data["img_metas"], data["img_metas"]]
    model = build().eval()
    model.roi_head.test_cfg.score_thr = 0.0
    with torch.no_grad():
        ((boxes, masks),) = model.aug_test(*views, rescale=True)
    assert sum(map(len, boxes)) == sum(map(len, masks)) > 0
    with pytest.raises(NotImplementedError, match="no test-time augmentation"):
        build("cpmask_fcos").eval().aug_test(*views)


# Configuration


def model_of(method, sizes=SMALL, backbone=SMALL_BACKBONE, **knobs):
    room = methods.method(method)
    return room.model(room.preset("paper", **knobs), Sizes(**sizes), backbone, 6)


KNOBS = {
    "boundary_loss_weight": 0.1,
    "affinity_loss_weight": 0.1,
    "affinity_gradient": False,
    "affinity_norm_init": "zeros",
    "mask_loss_rois": "base_positives",
    "box_init": "normal",
}


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_changes_the_model(knob):
    for method in METHODS:
        if knob in methods.method(method).knobs.model_fields:
            assert model_of(method, **{knob: KNOBS[knob]}) != model_of(method), method


def test_presets():
    for method in METHODS:
        room = methods.method(method)
        assert room.preset("released").affinity_gradient is False
        pinned = room.load_knobs(room.pinned(), "knobs.yaml", scale={"recipe": "released"})
        assert pinned.affinity_gradient is True
    assert pinned.mask_format == "bitmap"
    cpmask = methods.method("cpmask")
    profile = {"recipe": "released", "mask_loss_rois": "base_positives"}
    assert cpmask.load_knobs(cpmask.pinned(), "knobs.yaml", scale=profile).mask_loss_rois == "base_gt"


def test_the_full_size_is_the_authors():
    declared = experiments.load()
    full = config.resolve("cpmask_fcos_r50_1x_voc2nonvoc", "coco2017", 0, declared).model
    head = full["bbox_head"]
    assert head["strides"] == [8, 16, 32, 64, 128] and head["stacked_convs"] == 4
    assert [upper for _, upper in head["regress_ranges"]][:-1] == [64, 128, 256, 512]
    assert full["roi_head"]["mask_roi_extractor"]["finest_scale"] == 112
    assert full["test_cfg"]["score_thr"] == 0.03 and full["test_cfg"]["nms"]["iou_threshold"] == 0.6
    mask_head = full["roi_head"]["mask_head"]
    assert mask_head["norm_groups"] == 32 and mask_head["num_convs"] == mask_head["boundary_convs"] == 4
    assert mask_head["boundary_loss_weight"] == mask_head["affinity_loss_weight"] == 0.5
    shared = config.resolve("cpmask_r50_1x_voc2nonvoc", "coco2017", 0, declared)
    baseline = config.resolve("mask_rcnn_r50_1x_nonvoc2voc", "coco2017", 0, declared)
    assert shared.model["roi_head"]["mask_head"] == mask_head
    same = {name: part for name, part in shared.model.items() if name != "roi_head"}
    assert same == {name: part for name, part in baseline.model.items() if name != "roi_head"}
    for part in ("bbox_head", "mask_roi_extractor"):
        assert shared.model["roi_head"][part] == baseline.model["roi_head"][part]
    assert shared.optimisation == baseline.optimisation


def test_the_authors_settings_are_a_switch():
    declared = experiments.load()
    run = replace(declared.run("cpmask_fcos_r50_1x_voc2nonvoc"), overrides={"settings": "authors"})
    changed = replace(declared, runs=declared.runs | {run.name: run})
    optimisation = config.resolve(run.name, "coco2017", 0, changed).optimisation
    assert optimisation["optimizer"]["lr"] == 0.01 and optimisation["warmup_iterations"] == 1000
    assert optimisation["optimizer"]["paramwise_cfg"] == {"norm_decay_mult": 0.0}


def test_a_detector_on_boxes_alone_gives_the_first_weights_of_fcos():
    room = methods.method("one_stage")
    methods.register("one_stage", room.knobs())
    boxes = build_detector(mmcv.ConfigDict(room.model(room.knobs(), Sizes(**SMALL), SMALL_BACKBONE, 6)))
    theirs, ours = boxes.state_dict(), build("cpmask_fcos").state_dict()
    assert {name: value.shape for name, value in theirs.items()}.items() <= {
        n: v.shape for n, v in ours.items()
    }.items()
    assert {name.split(".")[0] for name in ours.keys() - theirs.keys()} == {"roi_head"}
    collect = {"type": "Collect", "keys": ["img", "gt_bboxes", "gt_labels", "gt_masks", "gt_is_novel"]}
    assert room.steps([{"type": "Pad"}, collect], None, "any")[1]["keys"] == ["img", "gt_bboxes", "gt_labels"]
    losses = boxes(return_loss=True, **{name: batch()[name] for name in ("img", "img_metas", "gt_bboxes", "gt_labels")})
    assert set(losses) == {"loss_cls", "loss_bbox", "loss_centerness"}


@pytest.mark.parametrize("method", METHODS)
def test_what_the_inside_shows_is_what_detections_get(method):
    model, data = build(method).eval(), batch(images=1)
    norm = model.roi_head.mask_head.conv_logits
    torch.nn.init.normal_(norm.weight)
    boxes = data["gt_bboxes"][0]
    found = look_inside.compute(model, data["img"], boxes)
    rois = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
    with torch.no_grad():
        logits = model.roi_head.detection_masks(model.extract_feat(data["img"]), rois, None, None)
    np.testing.assert_allclose(found["masks"], logits[:, 0].sigmoid().numpy(), rtol=1e-5, atol=1e-6)
    size = {"masks": 28, "boundaries": 28, "gates": 14, "attention": 14}
    for name, side in size.items():
        assert found[name].shape == (len(boxes), side, side) and (found[name] >= 0).all() and (found[name] <= 1).all()
    has_foreground = (found["masks"][:, ::2, ::2] > 0.5).any((1, 2))
    assert has_foreground.any()
    np.testing.assert_allclose(found["attention"].sum((1, 2)), has_foreground.astype(float), atol=1e-5)
    assert {
        shape[0] for shape in (maps.shape for maps in look_inside.compute(model, data["img"], boxes[:0]).values())
    } == {0}
