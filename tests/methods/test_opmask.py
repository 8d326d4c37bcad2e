"""OPMask trains on masks of base categories alone, whatever a batch lacks, and segments what it detects."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv import ConfigDict
from mmdet.models import build_detector

from pipeline import methods
from pipeline.declaration import config
from pipeline.methods.opmask.knobs import Knobs
from pipeline.training import starting_weights
from pipeline.training.precision import use_autocast
from tests.joined import joined
from tests.models.conftest import SMALL, batch, build, configuration, total, train_losses

ROOM = methods.method("opmask")
FEW = {"rcnn_samples": 12, "rpn_post_nms": 40}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small(num_classes=6, **knobs):
    return build("opmask", FEW, num_classes, "released", **knobs)


def step(model, data):
    """Train one step; every trainable parameter has a finite gradient."""
    losses = train_losses(model, data)
    loss = total(losses)
    model.zero_grad()
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or torch.isfinite(parameter.grad).all(), name
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers())
    return losses


def noisy(data):
    """Novel objects with noise for masks."""
    rng = np.random.default_rng(0)
    for masks, flags in zip(data["gt_masks"], data["gt_is_novel"], strict=True):
        masks.masks[flags.numpy()] = rng.integers(0, 2, masks.masks[flags.numpy()].shape)
    return data


@pytest.mark.parametrize("knobs", [{}, {"box_head": "shared"}, {"mask_loss_rois": "base_gt"}])
def test_masks_of_novel_objects_change_nothing(knobs):
    found = []
    for change in (dict, noisy):
        model = small(**knobs)
        losses = step(model, change(batch(novel=(0, 1, 2))))
        gradients = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({"loss": losses["loss_mask"]} | gradients | dict(model.named_buffers()))
    assert found[0]["loss"] > 0 and found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_novel_rois_shape_the_statistics_and_the_gradient_but_not_the_loss_itself():
    model = small()
    seen = {}
    forward, loss = model.roi_head.mask_head.forward, model.roi_head.mask_head.loss

    def watched(features, *rest):
        seen["features"] = features.detach().requires_grad_()
        return forward(seen["features"], *rest)

    def counted(logits, targets, in_loss):
        seen["in_loss"] = in_loss
        return loss(logits, targets, in_loss)

    model.roi_head.mask_head.forward, model.roi_head.mask_head.loss = watched, counted
    losses = train_losses(model, batch(novel=(0, 1, 2)))
    outside = ~seen["in_loss"]
    assert outside.any() and seen["in_loss"].any() and len(outside) == len(seen["features"])
    (gradient,) = torch.autograd.grad(losses["loss_mask"], seen["features"])
    assert gradient[outside].abs().amax() > 0


@pytest.mark.parametrize(("objects", "novel"), [(0, ()), (4, range(6)), (1, ())])
@pytest.mark.parametrize("images", [1, 2])
def test_batches_without_objects_or_masks(images, objects, novel):
    losses = step(small(), batch(images=images, objects=objects, novel=novel))
    assert bool(losses["loss_mask"] > 0) == bool(objects and not novel)


def test_no_roi_at_all():
    model = small()
    data = batch(images=1, objects=0)
    model.train()
    features = model.extract_feat(data["img"])
    before = {name: value.clone() for name, value in model.roi_head.named_buffers() if "running" in name}
    losses = model.roi_head.forward_train(
        features,
        data["img_metas"],
        [torch.zeros(0, 5)],
        *(data[part] for part in ("gt_bboxes", "gt_labels")),
        gt_masks=data["gt_masks"],
        gt_is_novel=data["gt_is_novel"],
    )
    loss = total(losses)
    loss.backward()
    assert loss == 0 and all(torch.isfinite(p.grad).all() for p in model.roi_head.parameters() if p.grad is not None)
    assert all(torch.equal(value, before[name]) for name, value in model.roi_head.named_buffers() if name in before)


def test_a_single_class():
    assert step(small(num_classes=1), batch(num_classes=1, novel=()))["loss_mask"] > 0


def test_a_constant_map_is_no_number_of_its_neighbours():
    model = small()
    torch.nn.init.zeros_(model.roi_head.bbox_head.fc_cls.weight)
    assert step(model, batch(novel=()))["loss_mask"] > 0


def test_half_precision():
    model = small()
    use_autocast(model, ROOM.autocast, "cpu", "bf16")
    assert all(torch.isfinite(sum(v) if isinstance(v, list) else v).all() for v in step(model, batch()).values())


def test_the_mask_loss_reaches_the_trunk_of_the_box_head_and_neither_of_its_last_layers():
    model = small()
    losses = train_losses(model, batch(novel=(0,)))
    head = model.roi_head.bbox_head
    inputs = [head.shared_convs[0].conv.weight, head.fc_cls.weight, head.fc_reg.weight]
    trunk, *last = torch.autograd.grad(losses["loss_mask"], inputs, allow_unused=True)
    assert trunk.abs().amax() > 0 and last == [None, None]


def test_maps_are_normalised_before_they_are_enlarged():
    """Else every enlarged map would touch 0 and 1."""
    maps = torch.randn(20, 1, 7, 7)
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    expected = F.interpolate((maps - low) / (high - low), size=14, mode="bilinear", align_corners=False)
    torch.testing.assert_close(small().roi_head._prior(maps, 14)[0], expected)
    assert (expected.amax((1, 2, 3)) < 1).any()


def test_sizes_of_the_full_model_and_of_a_small_one():
    full = configuration("opmask", ROOM.preset("released"), {}, num_classes=80)["roi_head"]
    assert (full["bbox_head"]["num_shared_convs"], full["bbox_head"]["conv_out_channels"]) == (4, 1024)
    assert full["mask_head"]["num_convs"] == 7
    head = small().roi_head
    assert [conv.conv.out_channels for conv in head.bbox_head.shared_convs] == [32, 64]
    assert len(head.mask_head.convs) == 5
    assert all(conv.conv.bias is None for conv in (*head.bbox_head.shared_convs, *head.mask_head.convs))


def test_layers_start_as_the_released_ones():
    torch.manual_seed(0)
    head = build("opmask", {"neck_channels": 64, "mask_channels": 64, "box_channels": 64}, 40, "released").roi_head
    for weight, std in (
        (head.mask_head.conv_logits.weight, 0.001),
        (head.mask_head.upsample.weight, (2 / (64 * 4)) ** 0.5),  # torch counts the inputs of a deconvolution
        (head.mask_head.convs[2].conv.weight, (2 / (9 * 64)) ** 0.5),
        (head.bbox_head.shared_convs[0].conv.weight, (2 / (9 * 128)) ** 0.5),
        (head.bbox_head.fc_cls.weight, 0.01),
        (head.bbox_head.fc_reg.weight, 0.001),
    ):
        assert weight.std().item() == pytest.approx(std, rel=4 / (2 * weight.numel()) ** 0.5), weight.shape
        assert abs(weight.mean().item()) < 5 * std / weight.numel() ** 0.5


@pytest.mark.parametrize("knob", sorted(Knobs.model_fields.keys() - {"recipe", "seeds", "mask_format", "settings"}))
def test_every_knob_changes_the_model(knob):
    knobs = ROOM.preset("released")
    kind, value = Knobs.model_fields[knob].annotation, getattr(knobs, knob)
    other = not value if kind is bool else next(choice for choice in kind.__args__ if choice != value)
    assert configuration("opmask", ROOM.preset("released", **{knob: other})) != configuration("opmask", knobs)


def test_the_weights_of_the_shared_detector_fit():
    training, detector = (
        config.resolve("opmask_r50_1x_nonvoc2voc", "generated", 0),
        config.resolve_detector("r50", "generated"),
    )
    methods.register(training.method, training.knobs)
    model, weights = (build_detector(ConfigDict(each.model)).state_dict() for each in (training, detector))
    assert starting_weights._misfit(weights, model) is None and len(weights) > 100


def test_one_image_is_learnt_and_then_segmented():
    model = small(box_head="shared")
    data = batch(images=1, novel=(), seed=3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for iteration in range(40):
        losses = train_losses(model, data, iteration)
        optimiser.zero_grad()
        total(losses).backward()
        optimiser.step()
        history.append(float(losses["loss_mask"].detach()))
    assert np.mean(history[-5:]) < 0.7 * np.mean(history[:5])
    model.eval()
    model.roi_head.test_cfg.score_thr = 0.05
    found = predicted(model, data)
    assert found and all(mask.shape == (128, 128) and mask.any() for _, mask in found)
    model.roi_head.test_cfg.score_thr = 1.0
    assert predicted(model, data) == []


def predicted(model, data):
    with torch.no_grad():
        results = model(return_loss=False, rescale=True, img=[data["img"]], img_metas=[data["img_metas"]])
    return [
        pair for boxes, masks in results for each in zip(boxes, masks, strict=True) for pair in zip(*each, strict=True)
    ]


# Processes


def norm_step(rank, shares, variance, over):
    from pipeline.methods.opmask.batch_norm import RoIBatchNorm

    layer = RoIBatchNorm(4, variance=variance, over_processes=over)
    x = shares[rank].clone().requires_grad_()
    y = layer(x)
    gradients = torch.autograd.grad((y * y.detach().cos()).sum(), [x, layer.weight, layer.bias])
    return [y.detach(), *gradients, layer.running_mean, layer.running_var]


@pytest.mark.parametrize("counts", [(3, 2), (5, 0)])
def test_processes_normalise_as_one_does(counts):
    shares = torch.randn(sum(counts), 4, 3, 3).mul(2).add(1).split(counts)
    (y, x, weight, bias, mean, variance) = norm_step(0, [torch.cat(shares)], "unbiased", True)
    found = joined(norm_step, 2, shares, "unbiased", True)
    torch.testing.assert_close(torch.cat([each[0] for each in found]), y)
    torch.testing.assert_close(torch.cat([each[1] for each in found]), x)
    torch.testing.assert_close(found[0][2] + found[1][2], weight)
    torch.testing.assert_close(found[0][3] + found[1][3], bias)
    for each in found:
        torch.testing.assert_close(each[4], mean)
        torch.testing.assert_close(each[5], variance)


def test_the_knobs_of_the_norm_reach_it():
    shares = torch.randn(4, 4, 3, 3).split(2)
    biased, unbiased = (joined(norm_step, 2, shares, kind, True)[0][5] for kind in ("biased", "unbiased"))
    before = 0.9 * torch.ones(4)
    torch.testing.assert_close((unbiased - before) * 35 / 36, biased - before)
    alone = joined(norm_step, 2, shares, "biased", False)
    torch.testing.assert_close(alone[1][0], norm_step(0, [shares[1]], "biased", True)[0])
    assert not torch.allclose(alone[0][4], alone[1][4])


def model_step(rank):
    """The second process has no object in its image."""
    from pipeline.training.data_parallel import averaged

    model = small()
    data = batch(images=1, objects=0 if rank else 4, novel=(0,), seed=rank)
    model.train()
    model.roi_head.set_progress(0, 0.0, 0, rank)
    parallel = averaged(model)
    losses, _ = model._parse_losses(parallel(return_loss=True, **data))
    losses.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | dict(
        model.roi_head.named_buffers()
    )


def test_a_process_without_objects_waits_for_nobody_and_nobody_for_it():
    first, second = joined(model_step, 2)
    assert "roi_head.mask_head.convs.0.conv.weight" in first and first.keys() == second.keys()
    for name, value in first.items():
        assert torch.isfinite(value).all() and torch.equal(value, second[name]), name


def test_the_room_says_what_the_declaration_needs():
    assert ROOM.detector == "two_stage" and ROOM.sizes is methods.method("two_stage").sizes
    assert dataclasses.asdict(ROOM)["label"] == "OPMask" and SMALL["box_shared_convs"] == 2


@pytest.mark.parametrize("box_head", ["own", "shared"])
def test_what_the_inside_shows_is_what_detections_get(box_head):
    from pipeline.methods.opmask import look_inside

    model, data = small(box_head=box_head).eval(), batch(images=1)
    torch.nn.init.normal_(model.roi_head.mask_head.conv_logits.weight)
    boxes, labels, seen = data["gt_bboxes"][0], data["gt_labels"][0], {}
    forward = model.roi_head.mask_head.forward
    model.roi_head.mask_head.forward = lambda x, prior, *rest: (
        seen.setdefault("cams", prior) is None or forward(x, prior, *rest)
    )
    shown = look_inside.compute(model, data["img"], boxes, labels)
    with torch.no_grad():
        x, rois = model.extract_feat(data["img"]), torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
        logits = model.roi_head._mask_features(x, rois, model.roi_head._refined_cam(x, rois, labels))["mask_pred"]
    np.testing.assert_allclose(shown["masks"], logits[:, 0].sigmoid(), atol=1e-6)
    np.testing.assert_allclose(shown["cams"], seen["cams"][:, 0], atol=1e-6)
    assert shown["cams"].shape == (len(boxes), 14, 14) and 0 <= shown["cams"].min() < shown["cams"].max() <= 1
    assert {len(maps) for maps in look_inside.compute(model, data["img"], boxes[:0], labels[:0]).values()} == {0}
