"""ShapeProp: message passing, what its losses see, gradients and routes, empty cases, prediction."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import methods
from pipeline.declaration import experiments
from pipeline.methods.shapeprop import roi_head as roi_heads
from pipeline.methods.shapeprop.mask_head import ShapePropMaskHead, positive_share
from pipeline.methods.shapeprop.model import latent_channels
from pipeline.methods.shapeprop.propagation import normalised, propagate
from pipeline.methods.shapeprop.shape_head import ShapeHead
from pipeline.methods.shared import partial_roi_head
from pipeline.methods.shared.sizes import Sizes
from pipeline.training.precision import use_autocast
from tests.models.conftest import batch, build, configuration, total, train_losses

METHOD = methods.method("shapeprop")
few = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


# Message passing


def by_hand(latent, weights, steps):
    """Message passing cell by cell, in float64."""
    latent, weights = latent.double().numpy(), weights.double().numpy()
    rois, channels, height, width = latent.shape
    weights = weights.reshape(rois, -1, 9, height, width)
    for _ in range(steps):
        new = np.zeros_like(latent)
        for r, c, y, x in np.ndindex(latent.shape):
            cell = weights[r, c % weights.shape[1], :, y, x]
            for k, weight in enumerate(cell / (cell.sum() + 1e-5)):
                v, u = y + k // 3 - 1, x + k % 3 - 1
                if 0 <= v < height and 0 <= u < width:
                    new[r, c, y, x] += weight * latent[r, c, v, u]
        latent = new
    return torch.from_numpy(latent)


@few
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(0, 4), st.booleans())
def test_message_passing_is_that_of_single_cells(rois, channels, height, width, steps, shared):
    latent = torch.randn(rois, channels, height, width)
    weights = torch.rand(rois, 9 * (1 if shared else channels), height, width)
    torch.testing.assert_close(
        propagate(latent, weights, steps), by_hand(latent, weights, steps).float(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("sets", [1, 2])
def test_gradients_of_message_passing_are_those_of_differences(sets):
    latent = torch.randn(2, 2, 3, 4, requires_grad=True)
    weights = torch.rand(2, 9 * sets, 3, 4, requires_grad=True)
    upstream = torch.randn(2, 2, 3, 4)

    def plain(latent, weights):
        height, width = latent.shape[-2:]
        share = normalised(weights)
        for _ in range(3):
            around = F.unfold(latent.flatten(0, 1)[:, None], 3, padding=1).view(2, 2, 9, height, width)
            latent = (around * share).sum(2)
        return (latent * upstream).sum()

    expected = torch.autograd.grad(plain(latent, weights), (latent, weights))
    found = torch.autograd.grad((propagate(latent, weights, 3) * upstream).sum(), (latent, weights))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@few
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.floats(0.1, 1))
def test_activation_leaks_at_the_border_alone_and_never_grows(height, width, steps, weight):
    passed = propagate(torch.ones(1, 1, height, width), torch.full((1, 9, height, width), weight), steps)
    assert (passed >= 0).all() and (passed <= 1).all()
    once = propagate(torch.ones(1, 1, height, width), torch.full((1, 9, height, width), weight), 1)[0, 0]
    rows = torch.tensor([3 - (y == 0) - (y == height - 1) for y in range(height)])
    columns = torch.tensor([3 - (x == 0) - (x == width - 1) for x in range(width)])
    torch.testing.assert_close(once, rows[:, None] * columns / 9.0, rtol=1e-4, atol=1e-4)


def test_message_passing_without_rois_weights_or_steps():
    latent = torch.randn(2, 3, 4, 4, requires_grad=True)
    nothing = torch.zeros(2, 27, 4, 4, requires_grad=True)
    passed = propagate(latent, nothing, 4)
    passed.sum().backward()
    assert not passed.any() and torch.isfinite(nothing.grad).all() and torch.isfinite(latent.grad).all()
    assert torch.equal(propagate(latent, nothing, 0), latent)
    empty = propagate(torch.zeros(0, 3, 4, 4, requires_grad=True), torch.zeros(0, 27, 4, 4), 4)
    empty.sum().backward()
    assert empty.shape == (0, 3, 4, 4)


def test_message_passing_keeps_float32_in_lower_precision():
    latent, weights = torch.randn(2, 3, 4, 4), torch.rand(2, 27, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(propagate(latent, weights, 4), by_hand(latent, weights, 4).float())


# Shape as the mask head sees it


@few
@given(st.floats(1e-3, 1e3), st.integers(1, 5))
def test_a_shape_is_scaled_to_its_maximum(factor, side):
    shape = torch.randn(3, 1, side, side) * factor
    scaled = positive_share(shape)
    assert (scaled >= 0).all() and (scaled <= 1).all()
    most = shape.amax((-2, -1)).clamp(min=0)
    torch.testing.assert_close(scaled.amax((-2, -1)), most / (most + 1e-5))
    assert torch.equal(scaled > 0, shape > 0)


def test_a_shape_without_a_positive_cell_is_zero_without_a_gradient():
    shape = -torch.rand(2, 1, 5, 5)
    shape[1, 0, 2, 2] = 3
    shape.requires_grad_()
    (positive_share(shape) * torch.rand(2, 1, 5, 5)).sum().backward()
    assert torch.isfinite(shape.grad).all() and not shape.grad[0].any() and shape.grad[1].any()


def test_the_encoded_shape_is_appended_behind_the_roi_feature():
    head = ShapePropMaskHead(in_channels=5, shape_convs=2, shape_channels=3, num_convs=1, conv_out_channels=4)
    assert head.convs[0].conv.weight.shape == (4, 8, 3, 3)
    seen = []
    head.convs[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features, shapes = torch.randn(2, 5, 6, 6), torch.randn(2, 1, 3, 3)
    assert head(features, shapes).shape == (2, 1, 12, 12)
    assert torch.equal(seen[0][:, :5], features)
    encoded = F.interpolate(head.encode(shapes), size=(6, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen[0][:, 5:], encoded)
    assert (encoded < 0).any()  # no ReLU after the last convolution


# Shape head


def test_saliency_is_the_map_of_the_rois_own_category_as_it_is():
    head = ShapeHead(num_classes=3, in_channels=4, num_convs=1, channels=5, latent_channels=2)
    maps, _ = head.activate(torch.randn(3, 4, 5, 5))
    assert maps.shape == (3, 4, 5, 5)
    saliency = head.saliency(maps, torch.tensor([2, 3, 0]))
    assert torch.equal(saliency[:, 0], torch.stack([maps[0, 2], maps[1, 3], maps[2, 0]]))
    loss = head.activation_loss(maps, torch.tensor([2, 3, 0]))
    torch.testing.assert_close(loss, F.cross_entropy(maps.mean((-2, -1)), torch.tensor([2, 3, 0])))


@pytest.mark.parametrize("steps, expected", [(None, 7), (3, 3)])
def test_as_many_steps_as_the_longer_side_unless_told(steps, expected, monkeypatch):
    from pipeline.methods.shapeprop import shape_head

    seen = []
    monkeypatch.setattr(shape_head, "propagate", lambda x, w, n: seen.append(n) or x)
    head = ShapeHead(num_classes=2, in_channels=4, num_convs=1, channels=5, latent_channels=2, steps=steps)
    head(torch.randn(1, 4, 5, 7), torch.tensor([1]))
    assert seen == [expected]


def test_initial_weights_are_those_of_the_authors():
    """Kaiming-normal by fan-out: hot where there is one output channel; 1x1 layers uniform by fan-in without a gain."""
    head = ShapeHead(num_classes=80)
    head.init_weights()
    mask_head = ShapePropMaskHead(num_convs=4)
    mask_head.init_weights()

    def std(layer):
        return layer.weight.std().item()

    assert std(head.activation_convs[1].conv) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.05)
    assert std(head.encoder[0].conv) == pytest.approx((2 / (24 * 9)) ** 0.5, rel=0.2)
    assert std(head.decoder[2].conv) == pytest.approx((2 / 9) ** 0.5, rel=0.2)  # 0.47
    assert std(mask_head.conv_logits) == pytest.approx(2**0.5, rel=0.15)  # 1.41
    assert std(mask_head.shape_encoder[3].conv) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.05)
    for layer in (head.class_maps, head.weight_maps):
        assert std(layer) == pytest.approx((1 / 256) ** 0.5, rel=0.05)
        assert float(layer.weight.abs().max()) <= (3 / 256) ** 0.5
    biases = [p for part in (head, mask_head) for name, p in part.named_parameters() if name.endswith("bias")]
    assert len(biases) == 26 and not any(bias.any() for bias in biases)


def test_propagation_loss_is_of_the_rois_with_a_mask_alone():
    head = ShapeHead(num_classes=2, in_channels=4, num_convs=1, channels=4, latent_channels=2)
    shapes, targets = torch.randn(3, 1, 4, 4), torch.rand(3, 4, 4) > 0.5
    in_loss = torch.tensor([True, False, True])
    expected = F.binary_cross_entropy_with_logits(shapes[in_loss, 0], targets[in_loss].float())
    torch.testing.assert_close(head.propagation_loss(shapes, targets, in_loss), expected)
    none = head.propagation_loss(shapes.requires_grad_(), targets, torch.zeros(3, dtype=torch.bool))
    none.backward()
    assert none == 0 and not shapes.grad.any()


# The detector


def model_of(**knobs):
    return build("shapeprop", **{"mask_loss_rois": "base_positives", **knobs})


def gradients(losses, model, *names):
    model.zero_grad()
    sum(losses[name] for name in names).backward(retain_graph=True)
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def finite_step(model, data, **options):
    losses = train_losses(model, data, **options)
    model.zero_grad()
    total(losses).backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in trained if p.grad is None or not torch.isfinite(p.grad).all()] == []
    return losses


def test_masks_of_novel_objects_reach_nothing():
    found = []
    for noise in (0, 1, 2):
        data = batch()
        for masks, flags in zip(data["gt_masks"], data["gt_is_novel"], strict=True):
            drawn = np.random.default_rng(noise).random(masks.masks.shape) < 0.5 * noise
            masks.masks[flags.numpy()] = drawn[flags.numpy()]
        assert any(flags.any() for flags in data["gt_is_novel"])
        model = model_of()
        torch.manual_seed(1)
        losses = finite_step(model, data)
        found.append((losses, [p.grad for p in model.parameters() if p.grad is not None]))
    for losses, grads in found[1:]:
        assert all(torch.equal(torch.as_tensor(losses[name]), torch.as_tensor(found[0][0][name])) for name in losses)
        assert all(map(torch.equal, grads, found[0][1]))


def test_class_maps_learn_from_every_sampled_roi_and_shapes_from_base_ones_alone(monkeypatch):
    seen = {}
    spied = ("activation_loss", "propagation_loss")
    for name in spied:
        real = getattr(ShapeHead, name)
        monkeypatch.setattr(
            ShapeHead, name, lambda self, *a, name=name, real=real: seen.update({name: a}) or real(self, *a)
        )
    model, data = model_of(), batch(images=2, novel=(0, 1, 2))
    sampled, real, pooled = {}, model.roi_head._sample, model.roi_head._pooled
    model.roi_head._sample = lambda *a: sampled.setdefault("rois", real(*a))
    model.roi_head._pooled = lambda *a: sampled.setdefault("features", pooled(*a))
    losses = train_losses(model, data)
    maps, labels = seen["activation_loss"]
    expected = torch.cat(
        [torch.cat([r.pos_gt_labels, torch.full((len(r.neg_bboxes),), 6, dtype=torch.long)]) for r in sampled["rois"]]
    )
    assert torch.equal(labels, expected) and len(maps) == sum(len(r.bboxes) for r in sampled["rois"])
    assert 6 in labels and {0, 1, 2} & set(labels.tolist())  # background and novel RoIs
    shapes, targets, in_loss = seen["propagation_loss"]
    base = int(sum((r.pos_gt_labels > 2).sum() for r in sampled["rois"]))
    assert int(in_loss.sum()) == base == int(model.roi_head.statistics["mask_loss_rois"])
    assert targets.shape[-1] == 14 and targets[in_loss].any()
    counts = [len(r.bboxes) for r in sampled["rois"]]
    rows = [
        row[: len(r.pos_bboxes)]
        for row, r in zip(torch.arange(sum(counts)).split(counts), sampled["rois"], strict=True)
    ]
    rows = torch.cat(rows)[torch.cat([r.pos_gt_labels for r in sampled["rois"]]) > 2]
    alone = model.roi_head.shape_head(sampled["features"][rows], labels[rows])
    torch.testing.assert_close(shapes[in_loss], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["loss_activating"], F.cross_entropy(maps.mean((-2, -1)), labels))


def test_leaving_out_the_rois_that_no_loss_reads_changes_nothing(monkeypatch):
    def step():
        model = model_of()
        torch.manual_seed(1)
        losses = finite_step(model, batch(novel=(0, 1, 2)))
        return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    some = step()
    monkeypatch.setattr(roi_heads, "needed", lambda chosen: partial_roi_head.EVERY)
    every = step()
    for name, value in every[0].items():
        torch.testing.assert_close(some[0][name], value, rtol=1e-5, atol=1e-6)
    for name, gradient in every[1].items():
        close = 1e-5 * float(gradient.abs().max()) + 1e-8
        torch.testing.assert_close(some[1][name], gradient, rtol=1e-4, atol=close, msg=name)


def test_no_gradient_is_stopped():
    model, data = model_of(), batch()
    losses = train_losses(model, data)
    shape, mask = "roi_head.shape_head.", "roi_head.mask_head."
    of_maps = gradients(losses, model, "loss_activating")
    assert {n for n in of_maps if n.startswith("roi_head")} == {
        f"{shape}{part}{end}"
        for part in ("class_maps", *(f"activation_convs.{n}.conv" for n in range(3)))
        for end in (".weight", ".bias")
    }
    every = {name for name, _ in model.named_parameters() if name.startswith(shape)}
    for name in ("loss_propagating", "loss_mask"):
        reached = gradients(losses, model, name)
        assert every <= reached and any(n.startswith("backbone") for n in reached)
        assert any(n.startswith(mask) for n in reached) == (name == "loss_mask")
        assert not any(n.startswith("roi_head.bbox_head") for n in reached)


def test_base_gt_counts_boxes_of_objects_alone():
    counts = {}
    for rule in ("base_positives", "base_gt"):
        model = model_of(mask_loss_rois=rule)
        torch.manual_seed(1)
        train_losses(model, batch())
        counts[rule] = int(model.roi_head.statistics["mask_loss_rois"])
    base = int(sum((~flags).sum() for flags in batch()["gt_is_novel"]))
    assert counts["base_gt"] <= base < counts["base_positives"]


@pytest.mark.parametrize("case", ["no objects", "all novel", "one class", "one image", "no proposals"])
def test_empty_cases_have_losses_with_a_graph(case):
    number = 1 if case == "one class" else 6
    model = model_of(num_classes=number)
    data = batch(
        images=1 if case == "one image" else 2,
        objects=0 if case == "no objects" else 3,
        num_classes=number,
        novel=range(6) if case == "all novel" else (),
    )
    if case == "no proposals":
        real = model.roi_head._sample
        model.roi_head._sample = lambda proposals, boxes, labels, ignored=None: real(
            [torch.zeros(0, 5)] * 2, [b[:0] for b in boxes], [b[:0] for b in labels], ignored
        )
    losses = finite_step(model, data)
    none = case in ("no objects", "all novel", "no proposals")
    for name in ("loss_mask", "loss_propagating"):
        assert (losses[name] == 0) == none and losses[name].requires_grad
    assert (losses["loss_activating"] == 0) == (case == "no proposals")


def test_a_dead_shape_is_finite():
    model = model_of()
    last = model.roi_head.shape_head.decoder[2].conv
    torch.nn.init.constant_(last.weight, 0)
    torch.nn.init.constant_(last.bias, -1)
    finite_step(model, batch())


@pytest.mark.parametrize("sizes", [{}, {"normalise": True}])
def test_lower_precision_is_finite_and_near(sizes):
    losses = {}
    for precision in ("fp32", "bf16"):
        model = model_of(architecture=sizes)
        use_autocast(model, METHOD.autocast, "cpu", precision)
        torch.manual_seed(1)
        losses[precision] = finite_step(model, batch())
    for name in ("loss_activating", "loss_propagating", "loss_mask"):
        assert losses["bf16"][name].dtype == torch.float32
        assert losses["bf16"][name].item() == pytest.approx(losses["fp32"][name].item(), rel=0.1)
    casts = [path for path, _ in METHOD.autocast if path.startswith("roi_head.shape_head")]
    assert all(model.get_submodule(path) is not None for path in casts) and len(casts) == 6


def test_masks_of_one_image_are_learned_by_heart():
    model, data = model_of(architecture={"normalise": True}), batch(images=1, novel=(), seed=3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for iteration in range(35):
        losses = train_losses(model, data, iteration)
        optimiser.zero_grad()
        total(losses).backward()
        optimiser.step()
        history.append([losses[name].item() for name in ("loss_activating", "loss_propagating", "loss_mask")])
    assert np.isfinite(history).all()
    early, late = np.mean(history[:5], axis=0), np.mean(history[-5:], axis=0)
    assert (late < [0.7 * early[0], 0.6 * early[1], 0.6 * early[2]]).all(), (early, late)


# Testing


def predicted(model, data, **options):
    with torch.no_grad():
        return model.eval()(
            return_loss=False, rescale=True, img=[data["img"]], img_metas=[data["img_metas"]], **options
        )


def test_detections_have_the_masks_of_their_category_and_refined_box():
    model, data = model_of(), batch()
    model.roi_head.test_cfg.score_thr = 0.01
    seen = []
    forward = ShapeHead.forward
    model.roi_head.shape_head.forward = lambda features, labels: (
        seen.append((features, labels)) or forward(model.roi_head.shape_head, features, labels)
    )
    results = predicted(model, data)
    boxes = [torch.from_numpy(np.concatenate(found)) for found, _ in results]
    ((features, labels),) = seen
    assert sum(map(len, boxes)) == len(labels) == len(features) > 0
    for found, masks in results:
        assert [len(each) for each in found] == [len(each) for each in masks]
        assert all(mask.shape == (128, 128) and mask.dtype == bool for each in masks for mask in each)
    by_class = [torch.from_numpy(np.repeat(range(6), [len(each) for each in found])) for found, _ in results]
    assert sorted(torch.cat(by_class).tolist()) == sorted(labels.tolist())
    # another category is another saliency, and another mask
    x = model.extract_feat(data["img"])
    rois = torch.cat([torch.zeros(len(boxes[0]), 1), boxes[0][:, :4].float()], 1)[:4]
    one, other = (model.roi_head.detection_masks(x, rois, torch.full((len(rois),), c), None) for c in (0, 1))
    assert not torch.allclose(one, other)


def test_no_detection_has_no_mask():
    model = model_of()
    model.roi_head.test_cfg.score_thr = 1.0
    for boxes, masks in predicted(model, batch()):
        assert not sum(map(len, boxes)) and not sum(map(len, masks)) and len(masks) == 6


def test_augmented_testing_and_counting_of_operations():
    model, data = model_of(), batch(images=1)
    model.roi_head.test_cfg.score_thr = 0.01
    metas = [[{**data["img_metas"][0], "flip": flip, "flip_direction": "horizontal"}] for flip in (False, True)]
    with torch.no_grad():
        (found,) = model.eval()(
            return_loss=False, rescale=True, img=[data["img"], data["img"].flip(-1)], img_metas=metas
        )
        assert sum(map(len, found[0])) == sum(map(len, found[1])) > 0
        model.forward_dummy(data["img"])


def test_a_look_inside_sees_what_training_and_the_mask_head_do():
    from pipeline.methods.shapeprop import look_inside

    model, data = model_of().eval(), batch(images=1, novel=(0, 1))
    seen, head = {}, model.roi_head.mask_head
    encode = head.encode
    head.encode = lambda shapes: seen.setdefault("shapes", positive_share(shapes)) is None or encode(shapes)
    boxes, labels = data["gt_bboxes"][0], data["gt_labels"][0]
    shown = look_inside.compute(model, data["img"], boxes, labels)
    with torch.no_grad():
        rois = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
        model.roi_head.detection_masks(model.extract_feat(data["img"]), rois, labels, None)
    np.testing.assert_allclose(shown["shapes"], seen["shapes"][:, 0], atol=1e-6)
    assert shown["saliency"].shape == shown["held"].shape == (4, 14, 14)
    assert shown["saliency"].min() == 0 and shown["saliency"].max() == 1
    assert 0 < shown["held"].min() and shown["held"].max() < 1


# Declaration


def test_every_knob_changes_the_configuration():
    plain = METHOD.preset("paper")

    def of(knobs):
        return METHOD.model(knobs, Sizes(), {"type": "ResNet", "depth": 50}, 80)

    turned = {
        "mask_loss_rois": "base_gt",
        "propagation_steps": 3,
        "propagation_weights": "shared",
        "branch_features": "shared",
        "box_head": "fc",
        "activation_loss_weight": 0.5,
        "propagation_loss_weight": 0.5,
        "settings": "authors",
    }
    own = set(METHOD.knobs.model_fields) - {"seeds", "recipe", "box_init", "mask_format"}
    assert own == set(turned)
    for knob, value in turned.items():
        assert of(plain.model_copy(update={knob: value})) != of(plain), knob


@pytest.mark.parametrize(
    "knobs",
    [{"propagation_weights": "shared"}, {"branch_features": "shared"}, {"box_head": "fc"}, {"propagation_steps": 2}],
)
def test_every_form_trains_and_tests(knobs):
    model, data = model_of(**knobs), batch()
    finite_step(model, data)
    predicted(model, data)


def test_sizes_follow_those_of_the_mask_head():
    assert [latent_channels(Sizes(mask_channels=width)) for width in (256, 128, 48, 32)] == [24, 12, 8, 8]
    full = configuration("shapeprop", METHOD.preset("paper"), {}, num_classes=80)["roi_head"]
    assert full["shape_head"]["latent_channels"] == 24 and full["shape_head"]["channels"] == 256
    assert full["mask_head"]["shape_convs"] == full["shape_head"]["num_convs"] == 4
    assert "norm_cfg" not in full["shape_head"] and full["mask_loss_rois"] == "base_positives"


def test_the_rows_of_table_1_are_declared_with_the_authors_rule():
    from pipeline.declaration import config

    declared = experiments.load()
    for backbone in ("r50", "r101"):
        for direction in ("nonvoc2voc", "voc2nonvoc"):
            run = declared.run(f"shapeprop_{backbone}_1x_{direction}")
            assert (run.method, run.backbone, run.schedule, run.direction) == ("shapeprop", backbone, "1x", direction)
            knobs = config.load_knobs(run, declared.profiles["full"])
            assert knobs.mask_loss_rois == "base_positives" and knobs.settings == "common"
