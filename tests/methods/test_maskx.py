"""Mask^X R-CNN learns how to make mask weights from box weights of base categories, and makes those of novel ones."""

import numpy as np
import pytest
import torch
from mmcv import ConfigDict
from mmdet.models import build_detector

from pipeline import methods
from pipeline.declaration import config
from pipeline.methods.maskx.knobs import Knobs
from pipeline.training import starting_weights
from pipeline.training.precision import use_autocast
from tests.models.conftest import batch, build, configuration, total, train_losses

ROOM = methods.method("maskx")
FEW = {"rcnn_samples": 12, "rpn_post_nms": 40}
ALL = [{"box_head": "own", "mlp_layers": 0}, {"box_head": "shared", "mlp_layers": 0}]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small(num_classes=6, architecture=None, **knobs):
    return build("maskx", FEW | (architecture or {}), num_classes, "released", **{"mlp_layers": 0} | knobs)


def step(model, data):
    """Train one step; every trainable parameter has a finite gradient."""
    losses = train_losses(model, data)
    loss = total(losses)
    model.zero_grad()
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or torch.isfinite(parameter.grad).all(), name
    return losses


def noisy(data):
    """Novel objects with noise for masks."""
    rng = np.random.default_rng(0)
    for masks, flags in zip(data["gt_masks"], data["gt_is_novel"], strict=True):
        masks.masks[flags.numpy()] = rng.integers(0, 2, masks.masks[flags.numpy()].shape)
    return data


def overlapping(data):
    """Every novel object around a base one, where the released code would take its mask for the base RoI's."""
    for boxes, labels, flags in zip(data["gt_bboxes"], data["gt_labels"], data["gt_is_novel"], strict=True):
        labels[:], flags[:] = (
            torch.tensor([1, 0] * (len(labels) // 2)),
            torch.tensor([False, True] * (len(labels) // 2)),
        )
        boxes[1::2] = boxes[::2] + torch.tensor([-1.0, -1.0, 1.0, 1.0])
    return data


@pytest.mark.parametrize("knobs", [*ALL, {"box_head": "own", "mlp_layers": 1, "mask_loss_rois": "base_gt"}])
@pytest.mark.parametrize("place", [dict, overlapping])
def test_masks_of_novel_objects_change_nothing(knobs, place):
    found = []
    for change in (dict, noisy):
        model = small(**knobs, architecture={"mask_roi_size": 4})
        losses = step(model, change(place(batch(images=1, novel=(0, 1, 2) if place is dict else (0,)))))
        gradients = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({"loss": losses["loss_mask"]} | gradients | dict(model.named_buffers()))
    assert found[0]["loss"] > 0 and found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize(("objects", "novel"), [(0, ()), (4, range(6)), (1, ())])
@pytest.mark.parametrize("knobs", ALL)
def test_batches_without_objects_or_masks(knobs, objects, novel):
    losses = step(small(**knobs), batch(images=2, objects=objects, novel=novel))
    assert bool(losses["loss_mask"] > 0) == bool(objects and not novel)


def test_no_roi_at_all():
    model, data = small(), batch(images=1, objects=0)
    model.train()
    losses = model.roi_head.forward_train(
        model.extract_feat(data["img"]),
        data["img_metas"],
        [torch.zeros(0, 5)],
        *(data[part] for part in ("gt_bboxes", "gt_labels")),
        gt_masks=data["gt_masks"],
        gt_is_novel=data["gt_is_novel"],
    )
    loss = total(losses)
    loss.backward()
    assert loss == 0 and all(torch.isfinite(p.grad).all() for p in model.roi_head.parameters() if p.grad is not None)


def test_a_single_class():
    assert step(small(num_classes=1), batch(num_classes=1, novel=()))["loss_mask"] > 0


def test_half_precision():
    model = small(mlp_layers=1, architecture={"mask_roi_size": 4})
    use_autocast(model, ROOM.autocast, "cpu", "bf16")
    assert all(torch.isfinite(sum(v) if isinstance(v, list) else v).all() for v in step(model, batch()).values())


@pytest.mark.parametrize("knobs", ALL)
def test_the_mask_loss_reaches_the_transfer_and_not_the_detector_s_weights(knobs):
    for detach in (True, False):
        model = small(**knobs, detach_weights=detach)
        loss = train_losses(model, batch(novel=(0,)))["loss_mask"]
        head = model.roi_head
        inputs = [head.mask_head.transfer[0].weight, head.bbox_head.fc_cls.weight, head.bbox_head.fc_reg.weight]
        transfer, *detector = torch.autograd.grad(loss, inputs, allow_unused=True)
        assert transfer.abs().amax() > 0 and [gradient is None for gradient in detector] == [detach, detach]


def test_what_describes_a_class_in_the_released_order():
    head = small(num_classes=2).roi_head.bbox_head
    width = head.fc_cls.in_features
    with torch.no_grad():
        head.fc_cls.weight.copy_(torch.arange(3.0)[:, None].expand(3, width))
        head.fc_reg.weight.copy_(10 + torch.arange(8.0)[:, None].expand(8, width))
    both = head.class_vectors()
    assert both.shape == (2, 5 * width) and both[:, ::width].tolist() == [[0, 10, 11, 12, 13], [1, 14, 15, 16, 17]]
    assert torch.equal(head.class_vectors("classes"), both[:, :width])
    assert torch.equal(head.class_vectors("boxes"), both[:, width:])


def test_a_regressor_of_every_cell_counts_with_its_mean():
    head = small(box_head="shared", num_classes=3).roi_head.bbox_head
    width = head.fc_cls.in_features
    assert head.fc_reg.in_features == 49 * width
    expected = head.fc_reg.weight.view(3, 4, width, 7, 7).mean((-2, -1))
    torch.testing.assert_close(head.class_vectors("boxes").view(3, 4, width), expected)


def test_two_layers_on_every_cell_see_boxes():
    head = small().roi_head.bbox_head
    features = torch.randn(3, 16, 7, 7)
    first, second = head.shared_fcs
    expected = second(first(features.flatten(1)).clamp(min=0)).clamp(min=0)
    scores, deltas, seen = head.forward_with_features(features)
    torch.testing.assert_close(seen, expected)
    torch.testing.assert_close(scores, head.fc_cls(expected))
    torch.testing.assert_close(deltas, head.fc_reg(expected))


def test_the_predicted_class_makes_the_mask():
    """And a novel class, which no mask was seen of, has weights of its own."""
    model = small().eval()
    head = model.roi_head
    with torch.no_grad():
        pyramid = model.extract_feat(batch(images=1)["img"])
        rois = torch.tensor([[0.0, 10, 10, 60, 60]]).repeat(2, 1)
        head.bbox_head.fc_cls.weight.normal_()
        logits = head.detection_masks(pyramid, rois, torch.tensor([0, 1]), torch.tensor([0, 1]))
        swapped = head.detection_masks(pyramid, rois, torch.tensor([1, 0]), torch.tensor([1, 0]))
    assert logits.shape == (2, 1, 28, 28) and not torch.allclose(logits[0], logits[1])
    torch.testing.assert_close(logits, swapped.flip(0))


def test_the_class_agnostic_branch_adds_one_map():
    architecture = {"mask_roi_size": 4}
    for layers, widths in ((1, [64]), (3, [64, 64, 64])):
        mask_head = small(architecture=architecture, mlp_layers=layers).roi_head.mask_head
        linear = [layer for layer in mask_head.mlp if isinstance(layer, torch.nn.Linear)]
        assert [layer.out_features for layer in linear] == widths and linear[0].in_features == 16 * 64
        features, vectors = torch.randn(2, 16, 4, 4), torch.randn(6, mask_head.transfer[0].in_features)
        with torch.no_grad():
            common = mask_head.mlp(mask_head.features(features).flatten(1)).view(2, 1, 8, 8)
            every = mask_head(features, torch.tensor([0, 3]), vectors)
            mask_head.mlp = None
            torch.testing.assert_close(every - mask_head(features, torch.tensor([0, 3]), vectors), common)


def test_layers_start_as_the_released_ones():
    head = build("maskx", {"mask_roi_size": 4}, 40, "released").roi_head
    for weight, std in (
        (head.mask_head.mlp[0].weight, 0.001),
        (head.mask_head.transfer[0].weight, (2 / 16) ** 0.5),  # whatever the number of inputs
        (head.bbox_head.fc_cls.weight, 0.01),
        (head.bbox_head.fc_reg.weight, 0.001),
        (head.bbox_head.shared_fcs[0].weight, (1 / (16 * 49)) ** 0.5),
        (head.bbox_head.shared_fcs[1].weight, (1 / 64) ** 0.5),
    ):
        assert weight.std().item() == pytest.approx(std, rel=5 / (2 * weight.numel()) ** 0.5), weight.shape
    assert head.bbox_head.shared_fcs[0].weight.abs().amax() <= (3 / (16 * 49)) ** 0.5


def test_sizes_of_the_full_model():
    full = configuration("maskx", ROOM.preset("released"), {}, num_classes=80)["roi_head"]
    assert full["bbox_head"]["fc_out_channels"] == 1024 and full["mask_head"]["described_by"] == 5120
    assert full["mask_head"]["mlp_layers"] == 1 and full["mask_head"]["num_convs"] == 4


@pytest.mark.parametrize("knob", sorted(Knobs.model_fields.keys() - {"recipe", "seeds", "mask_format"}))
def test_every_knob_changes_the_model(knob):
    knobs = ROOM.preset("released")
    kind, value = Knobs.model_fields[knob].annotation, getattr(knobs, knob)
    if kind in (bool, int):
        other = not value if kind is bool else value + 1
    else:
        other = next(choice for choice in kind.__args__ if choice != value)
    assert configuration("maskx", ROOM.preset("released", **{knob: other})) != configuration("maskx", knobs)


@pytest.mark.parametrize(("dataset", "box_head", "layers"), [("generated", "shared", 0), ("coco2017", "own", 1)])
def test_a_small_profile_does_without_the_largest_layer(dataset, box_head, layers):
    knobs = config.resolve("maskx_r50_1x_nonvoc2voc", dataset, 0).knobs
    assert (knobs.box_head, knobs.mlp_layers, knobs.mask_loss_rois) == (box_head, layers, "base_positives")


def test_the_weights_of_the_shared_detector_fit():
    training, detector = (
        config.resolve("maskx_r50_1x_nonvoc2voc", "generated", 0),
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
    assert found and all(mask.shape == (128, 128) for _, mask in found) and any(mask.any() for _, mask in found)
    model.roi_head.test_cfg.score_thr = 1.0
    assert predicted(model, data) == []


def predicted(model, data):
    with torch.no_grad():
        results = model(return_loss=False, rescale=True, img=[data["img"]], img_metas=[data["img_metas"]])
    return [
        pair for boxes, masks in results for each in zip(boxes, masks, strict=True) for pair in zip(*each, strict=True)
    ]


@pytest.mark.parametrize("knobs", [*ALL, {"box_head": "own", "mlp_layers": 1}])
def test_what_the_inside_shows_is_what_detections_get(knobs):
    from pipeline.methods.maskx import look_inside

    model, data = small(num_classes=3, **knobs, architecture={"mask_roi_size": 4}).eval(), batch(images=1)
    boxes, labels = data["gt_bboxes"][0], data["gt_labels"][0] % 3
    shown = look_inside.compute(model, data["img"], boxes, labels)
    head = model.roi_head
    with torch.no_grad():
        x, rois = model.extract_feat(data["img"]), torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
        of_class = [
            head.detection_masks(x, rois, torch.full_like(labels, one), torch.full_like(labels, one)).sigmoid()
            for one in range(3)
        ]
        weights = head.mask_head.transfer(head.bbox_head.class_vectors())
    rows = torch.arange(len(boxes))
    maps = torch.stack(of_class)[:, :, 0]
    np.testing.assert_allclose(shown["masks"], maps[labels, rows], atol=1e-6)
    others = (maps[(labels + 1) % 3, rows] + maps[(labels + 2) % 3, rows]) / 2
    np.testing.assert_allclose(shown["others"], others, atol=1e-5)
    np.testing.assert_allclose(shown["weights"], weights[labels], atol=1e-6)
    empty = look_inside.compute(model, data["img"], boxes[:0], labels[:0])
    assert {len(values) for values in empty.values()} == {0} and empty.keys() == shown.keys()
