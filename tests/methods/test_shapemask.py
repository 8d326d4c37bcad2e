"""ShapeMask in training and testing: what may leak, what may be empty, what it learns."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv import ConfigDict
from mmdet.core import BitmapMasks
from mmdet.models import build_detector

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.declaration import config, recipe, strict
from pipeline.errors import ExperimentError
from pipeline.methods.shapemask import clusters
from pipeline.methods.shared.shapemask import batch_norm, geometry, head, priors, roi_head
from pipeline.methods.shared.sizes import Sizes
from pipeline.training.data_parallel import averaged
from pipeline.training.precision import use_autocast
from tests.joined import joined
from tests.models.conftest import SMALL, SMALL_BACKBONE, _one_thread, batch, total, train_losses  # noqa: F401

ROOM = methods.method("shapemask")
TINY = {**SMALL, "normalise": True, "mask_convs": 1, "rcnn_samples": 12}
LOSSES = ("loss_prior", "loss_coarse", "loss_mask")


def knobs(**changed):
    return ROOM.load_knobs(ROOM.pinned() | changed, "knobs.yaml")


def build(num_classes=6, sizes=(), **changed):
    """A small detector with fresh weights, and discs of several sizes for priors."""
    chosen = knobs(**changed)
    methods.register("shapemask", chosen)
    of = strict.check(Sizes, TINY | dict(sizes), "profile")
    torch.manual_seed(0)
    model = build_detector(ConfigDict(ROOM.model(chosen, of, SMALL_BACKBONE, num_classes)))
    model.init_weights()
    centres = model.roi_head.mask_head.prior.centres
    place = torch.linspace(-1, 1, centres.shape[-1])
    radii = torch.linspace(0.5, 1.2, centres.shape[1])
    centres.copy_((place[:, None] ** 2 + place**2 < radii[:, None, None] ** 2).float())
    return model


def gradients(model):
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


# Leaks


@pytest.mark.parametrize("rois", ["base_gt", "base_positives"])
def test_masks_of_novel_objects_change_no_loss_and_no_gradient(rois):
    found = []
    for noise in (False, True):
        model, data = build(mask_loss_rois=rois), batch(objects=5)
        assert any(flags.any() for flags in data["gt_is_novel"])
        if noise:
            random = np.random.default_rng(1)
            for masks, flags in zip(data["gt_masks"], data["gt_is_novel"], strict=True):
                masks.masks[flags.numpy()] = random.integers(0, 2, (int(flags.sum()), *masks.masks.shape[1:]))
        losses = train_losses(model, data)
        total(losses).backward()
        found.append((losses, gradients(model)))
    (clean, clean_gradients), (noisy, noisy_gradients) = found
    assert all(torch.equal(clean[name], noisy[name]) for name in LOSSES) and clean["loss_mask"] > 0
    assert all(torch.equal(clean_gradients[name], noisy_gradients[name]) for name in clean_gradients)


def test_novel_instances_are_in_the_batch_norm_and_in_no_loss():
    model = build()
    train_losses(model, data := batch(objects=3, novel=range(6)))
    assert model.roi_head.mask_head.coarse.decoder.norms[0].running_mean.abs().sum() > 0
    losses = train_losses(model, data)
    assert all(losses[name] == 0 for name in LOSSES)


def annotations(segmentation_of_novel=None):
    """Two images: three squares and a triangle of category 1 in boxes of different sizes, and one of category 2."""
    squares = [(10, 10, 20), (50, 40, 30), (5, 60, 40)]
    listed = [
        {"category_id": 1, "bbox": [x, y, s, s], "segmentation": [[x, y, x + s, y, x + s, y + s, x, y + s]]}
        for x, y, s in squares
    ]
    listed.append({"category_id": 1, "bbox": [20, 20, 40, 40], "segmentation": [[20, 20, 60, 20, 20, 60]]})
    listed.append({"category_id": 2, "bbox": [0, 0, 50, 50], "segmentation": segmentation_of_novel})
    listed.append({"category_id": 1, "bbox": [0, 0, 50, 50], "segmentation": None})
    listed.append({"category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 1, "segmentation": [[0, 0, 50, 0, 0, 50]]})
    for number, annotation in enumerate(listed):
        annotation |= {"id": number + 1, "image_id": 1 + number % 2}
    return {"images": [{"id": i, "height": 110, "width": 120} for i in (1, 2)], "annotations": listed}


def test_masks_of_novel_objects_change_no_prior(tmp_path):
    found = []
    for segmentation in (None, [[0, 0, 50, 0, 50, 9]]):
        file = tmp_path / "train.json"
        file.write_text(json.dumps(annotations(segmentation)))
        clusters.write(file, [1], 14, [2, 6], tmp_path / "out")
        with np.load(tmp_path / "out" / priors.FILE) as arrays:
            found.append(dict(arrays))
        assert len(clusters.base_masks(file, [1], 14)) == 4
    assert found[0].keys() == found[1].keys() == {"centres_2", "centres_6"}
    assert all((found[0][name] == found[1][name]).all() for name in found[0])
    two = found[0]["centres_2"][found[0]["centres_2"].mean((1, 2)).argsort()]
    assert two[0].mean() < 0.6 and (two[1] == 1).all()  # the triangle, the squares


def test_the_stage_makes_the_centres_of_its_scale_from_base_categories(tmp_path, monkeypatch):
    """Of the drawn data: category 1, a person, is novel for nonvoc2voc, whose base categories have no mask here."""
    (tmp_path / "train.json").write_text(json.dumps(annotations([[0, 0, 50, 0, 50, 9]])))
    monkeypatch.setattr(paths, "split_train", lambda dataset, direction: tmp_path / "train.json")
    clusters.make("generated", "voc2nonvoc", tmp_path / "voc2nonvoc")
    with np.load(tmp_path / "voc2nonvoc" / priors.FILE) as arrays:
        assert {name: arrays[name].shape for name in arrays.files} == {
            "centres_8": (8, 14, 14),
            "centres_4": (4, 14, 14),
        }
    assert json.loads((tmp_path / "voc2nonvoc" / "source.json").read_text())["masks"] == 5  # categories 1 and 2
    with pytest.raises(ExperimentError, match="no object of a base category has a mask"):
        clusters.make("generated", "nonvoc2voc", tmp_path / "nonvoc2voc")


def test_more_masks_than_are_clustered_are_thinned_out(tmp_path):
    file = tmp_path / "train.json"
    file.write_text(json.dumps(annotations()))
    assert len(clusters.base_masks(file, [1], 14, most=2)) == 2


def test_without_a_base_mask_no_prior_is_made(tmp_path):
    file = tmp_path / "train.json"
    file.write_text(json.dumps(annotations()))
    with pytest.raises(ExperimentError, match="no object of a base category has a mask"):
        clusters.write(file, [3], 14, [2], tmp_path)


# Nothing there


@pytest.mark.parametrize("few", ["repeat", "pad"])
@pytest.mark.parametrize("without", [(0,), (0, 1)])
def test_images_without_objects(few, without):
    model, data = build(few_objects=few), batch(objects=2, novel=())
    for image in without:
        for name in ("gt_bboxes", "gt_labels", "gt_is_novel"):
            data[name][image] = data[name][image][:0]
        data["gt_masks"][image] = BitmapMasks(np.zeros((0, 128, 128), np.uint8), 128, 128)
    before = model.roi_head.mask_head.fine.decoder.norms[0].running_var.clone()
    losses = train_losses(model, data)
    total(losses).backward()
    assert all(value is not None and value.isfinite().all() for value in gradients(model).values())
    if len(without) == 2:
        assert all(losses[name] == 0 and losses[name].requires_grad for name in LOSSES)
        assert torch.equal(before, model.roi_head.mask_head.fine.decoder.norms[0].running_var)
    else:
        assert all(losses[name] > 0 for name in LOSSES)


@pytest.mark.parametrize("rois", ["base_gt", "base_positives"])
def test_without_a_base_object_the_losses_are_zero_with_a_graph(rois):
    model = build(mask_loss_rois=rois)
    losses = train_losses(model, batch(objects=2, novel=range(6)))
    assert all(losses[name] == 0 for name in LOSSES)
    sum(losses[name] for name in LOSSES).backward()
    parts = dict(model.roi_head.mask_head.named_parameters())
    assert all(value.grad is not None and (value.grad == 0).all() for value in parts.values())


def test_an_object_without_foreground_is_no_explosion():
    """In the released code such a batch is divided by 1e-20."""
    data = batch(objects=2, novel=())
    for masks in data["gt_masks"]:
        masks.masks[:] = 0
    losses = train_losses(build(), data)
    assert all(losses[name].isfinite() and losses[name] < 1e5 for name in LOSSES)


def test_one_class():
    losses = train_losses(build(num_classes=1), batch(num_classes=1, novel=()))
    assert all(losses[name] > 0 for name in LOSSES)


@pytest.mark.parametrize("shown", [0, 4])
def test_images_with_and_without_detections(shown):
    model = build(sizes={"score_threshold": 0.0, "max_detections": 4} if shown else {"score_threshold": 1.0}).eval()
    data = batch()
    with torch.no_grad():
        found = model.simple_test(data["img"], data["img_metas"], rescale=True)
    for boxes, masks in found:
        assert sum(map(len, boxes)) == sum(map(len, masks)) == shown
        assert all(mask.shape == (128, 128) for of_class in masks for mask in of_class)


def test_a_mask_fills_the_outer_box_and_no_more():
    model = build().eval()
    decoder = model.roi_head.mask_head.fine.decoder
    torch.nn.init.constant_(decoder.predict.bias, 50.0)
    data, box = batch(images=1), torch.tensor([[40.0, 40.0, 80.0, 60.0, 0.9]])
    with torch.no_grad():
        x = model.extract_feat(data["img"])
        meta = data["img_metas"][0] | {"scale_factor": np.full(4, 0.5, np.float32), "ori_shape": (256, 256, 3)}
        twice = box * torch.tensor([2, 2, 2, 2, 1])
        masks = model.roi_head._segment(x, [twice], [torch.tensor([3])], None, [meta], rescale=True)
    rows, columns = np.nonzero(masks[0][3][0])
    # 1.25 times 40 x 20 about (60, 50) is 35 to 85, 37.5 to 62.5; in the image of twice the size:
    assert abs(columns.min() - 70) <= 1 and abs(columns.max() - 169) <= 1
    assert abs(rows.min() - 75) <= 1 and abs(rows.max() - 124) <= 1


def test_augmented_views_are_refused():
    with pytest.raises(NotImplementedError, match="no test-time augmentation"):
        build().roi_head.aug_test_mask([], [], torch.zeros(1, 5), torch.zeros(1))


# Numbers


def test_half_precision_is_finite():
    model = build()
    use_autocast(model, ROOM.autocast, "cpu", "bf16")
    losses = train_losses(model, batch())
    total(losses).backward()
    assert all(losses[name].dtype == torch.float32 and losses[name] > 0 for name in LOSSES)
    assert all(value.isfinite().all() for value in gradients(model).values())
    exact = train_losses(build(), batch())
    assert all(abs(losses[name] - exact[name]) < 0.02 * exact[name] for name in LOSSES)


def test_it_learns_the_masks_of_one_image():
    model, data = build(jitter=0.0, instances=3), batch(images=1, size=64, objects=3, novel=())
    with torch.no_grad():  # features stay what they are; the mask head alone learns
        x = [level.detach() for level in model.eval().extract_feat(data["img"])]
    mask_head = model.roi_head.mask_head.train()
    optimizer = torch.optim.AdamW(mask_head.parameters(), lr=0.01)
    boxes = data["gt_bboxes"][0]
    for _ in range(150):
        losses = model.roi_head._mask_losses(
            x, [], None, data["gt_masks"], data["gt_is_novel"], {"objects": data["gt_bboxes"]}
        )
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    mask_head.eval()
    with torch.no_grad():
        found = model.roi_head._mask_features(x, torch.cat([torch.zeros(3, 1), boxes], 1), None)
    frames = geometry.outer(boxes, 1.25, 64, 64)
    masks = torch.from_numpy(data["gt_masks"][0].masks)
    for name, cells in (("coarse", 14), ("mask_pred", 28)):
        true = geometry.mask_targets(masks, torch.arange(3), frames, cells) >= 0.5
        ours = found[name].view(3, cells, cells) > 0
        overlap = (ours & true).sum((1, 2)) / (ours | true).sum((1, 2))
        assert (overlap > 0.75).all(), (name, overlap)


def _normalised(rank, counts):
    maps, module = _maps_and_module()
    first = sum(counts[:rank])
    mine = maps[first : first + counts[rank]].requires_grad_()
    wrapped = averaged(module)
    wrapped(mine).square().sum().mul(len(counts)).backward()  # gradients are the mean over processes
    state = {name: value.grad for name, value in module.named_parameters()} | dict(module.named_buffers())
    return mine.grad / len(counts), state


def _maps_and_module():
    torch.manual_seed(0)
    decoder = head.Decoder(4, 2, 2, 1, {"momentum": 0.1})
    decoder.init_weights()
    for conv in decoder.convs:
        torch.nn.init.normal_(conv.weight)
    torch.nn.init.normal_(decoder.predict.weight)
    return torch.randn(5, 4, 6, 6), decoder


@pytest.mark.parametrize("counts", [(2, 3), (5, 0)])
def test_two_processes_are_one(counts):
    """Even where one of them has no instance."""
    shares = joined(_normalised, len(counts), counts)
    maps, decoder = _maps_and_module()
    maps.requires_grad_()
    decoder(maps).square().sum().backward()
    torch.testing.assert_close(torch.cat([share[0] for share in shares]), maps.grad, rtol=1e-3, atol=1e-4)
    expected = {name: value.grad for name, value in decoder.named_parameters()} | dict(decoder.named_buffers())
    for _, state in shares:
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-3 * float(value.abs().max()) + 1e-3)


def test_each_process_for_itself_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(batch_norm, "world_size", lambda: 2)
    alone = batch_norm.InstanceBatchNorm(3, synced=False)
    maps = torch.randn(2, 3, 4, 4)
    assert torch.equal(alone(maps), torch.nn.BatchNorm2d(3)(maps))
    assert alone(maps[:0]).shape == (0, 3, 4, 4)


# Geometry

SIDES = st.floats(4, 60, width=32)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 30, width=32), st.floats(0, 30, width=32), SIDES, SIDES, st.integers(0, 10**6))
def test_a_map_in_its_own_box_is_itself_and_elsewhere_between_its_values(x, y, width, height, seed):
    torch.manual_seed(seed)
    box = torch.tensor([[x, y, x + width, y + height]])
    maps = torch.rand(1, 7, 7)
    torch.testing.assert_close(geometry.in_other_box(maps, box, box), maps, rtol=0, atol=1e-3)
    seen = geometry.in_other_box(maps, box, geometry.outer(box, 1.25, 128, 128))
    assert (seen >= 0).all() and (seen <= maps.max() + 1e-5).all()
    assert (geometry.in_other_box(maps, box, box + 200) == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.floats(-20, 120, width=32), st.floats(-20, 120, width=32), SIDES, SIDES)
def test_an_outer_box_holds_what_of_its_box_is_in_the_image(x, y, width, height):
    box = torch.tensor([[x, y, x + width, y + height]])
    outer, inside = geometry.outer(box, 1.25, 90, 110), geometry.clipped(box, 90, 110)
    assert (outer[:, :2] <= inside[:, :2] + 1e-3).all() and (outer[:, 2:] >= inside[:, 2:] - 1e-3).all()
    assert outer.min() >= 0 and outer[0, 2] <= 109 and outer[0, 3] <= 89
    assert torch.allclose(geometry.jittered(box, torch.zeros(1, 4)), box, atol=1e-3)


def test_a_target_beyond_its_mask_is_background():
    masks = torch.ones(1, 20, 20, dtype=torch.bool)
    frames = torch.tensor([[10.0, 0.0, 40.0, 19.0]])
    target = geometry.mask_targets(masks, torch.zeros(1, dtype=torch.long), frames, 7)[0] >= 0.5
    assert target[:, 0].all() and not target[:, -1].any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=3), st.integers(1, 9), st.sampled_from(["repeat", "pad"]))
def test_objects_are_drawn_evenly(counts, number, few):
    boxes = [torch.rand(count, 4).cumsum(1) * 20 for count in counts]
    found = roi_head.drawn(boxes, number, few, 0.0, (100, 100))
    assert found.counts == [number if count else 0 for count in counts] and len(found.rois) == sum(found.counts)
    images = zip(boxes, found.owners.split(found.counts), found.valid.split(found.counts), strict=True)
    rois = found.rois.split(found.counts)
    for (objects, owners, valid), of_image in zip(images, rois, strict=True):
        if not len(objects):
            continue
        drawn = owners[valid].bincount(minlength=len(objects))
        assert drawn.max() - drawn.min() <= 1 and valid.sum() == (
            number if few == "repeat" else min(number, len(objects))
        )
        assert torch.allclose(of_image[valid, 1:], objects[owners[valid]], atol=1e-4)
        assert (of_image[~valid, 1:] == 0).all()


def test_the_draw_depends_on_seed_rank_and_iteration_and_on_nothing_else():
    model, data = build(), batch(objects=9)
    same = [train_losses(model, data, iteration=3)["loss_prior"].item() for _ in range(2)]
    other = train_losses(model, data, iteration=4)["loss_prior"].item()
    assert same[0] == pytest.approx(same[1]) and same[0] != pytest.approx(other)


def test_the_mean_over_the_coarse_mask_has_no_gradient_through_its_choice():
    torch.manual_seed(0)
    fine = head.FineMask(4, convs=0, upsampling=1, classes=1, norm={})
    fine.init_weights()
    torch.nn.init.normal_(fine.decoder.predict.weight)
    features, coarse = torch.randn(2, 4, 5, 5), torch.randn(2, 5, 5).requires_grad_()
    coarse.data[1] = -3  # no cell is chosen
    out = fine(features, coarse)
    chosen = (coarse > 0).float()[:, None]
    mean = (features * chosen).sum((2, 3)) / chosen.sum((2, 3)).clamp(min=1)
    lifted = fine.dense(coarse.sigmoid()[..., None]).permute(0, 3, 1, 2)
    torch.testing.assert_close(out, fine.decoder(features - mean[..., None, None] + lifted)[:, 0])
    assert (mean[1] == 0).all()
    out.sum().backward()
    weight = fine.decoder.predict.weight[0, :, 0, 0] @ fine.dense.weight[:, 0]
    slope = coarse.sigmoid() * (1 - coarse.sigmoid())
    torch.testing.assert_close(coarse.grad, (weight * slope).detach())


def test_the_mean_over_the_coarse_mask_is_finite_in_half_precision():
    """A thousand cells of 70 are more than fp16 holds."""
    fine = head.FineMask(2, convs=0, upsampling=1, classes=1, norm={})
    seen = {}
    fine.decode = lambda difference, *_: seen.update(difference=difference)
    fine(torch.full((1, 2, 32, 32), 70.0, dtype=torch.float16), torch.ones(1, 32, 32))
    assert seen["difference"].abs().max() == 0


# Priors and the training that begins with them


def test_a_training_begins_with_the_priors_of_its_split(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "learnt_priors", lambda dataset, key: tmp_path / dataset / key)
    training = config.resolve("shapemask_r101_1x_nonvoc2voc", "generated", 0)
    assert training.priors == "nonvoc2voc_shapemask" and training.numbers()["priors"] == training.priors
    methods.register("shapemask", training.knobs)
    model = build_detector(ConfigDict(training.model))  # without the file, as one that is loaded
    with pytest.raises(ExperimentError, match="no such file; run `python -m stages.priors shapemask nonvoc2voc"):
        model.roi_head.mask_head.init_weights()
    folder = tmp_path / "generated" / training.priors
    folder.mkdir(parents=True)
    number, cells = model.roi_head.mask_head.prior.centres.shape[1:3]
    centres = np.random.default_rng(0).uniform(size=(number, cells, cells)).astype(np.float32)
    np.savez(folder / priors.FILE, **{priors.array(number): centres})
    model = build_detector(ConfigDict(training.model))
    model.roi_head.mask_head.init_weights()
    assert np.array_equal(model.roi_head.mask_head.prior.centres[0].numpy(), centres)
    assert "roi_head.mask_head.prior.centres" in model.state_dict()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"centres_3": np.zeros((3, 4, 4))}, "holds no 8 centres"),
        ({"centres_8": np.zeros((8, 4, 4))}, r"centres_8 is \(8, 4, 4\), not \(8, 14, 14\)"),
        ({"centres_8": np.full((8, 14, 14), np.nan)}, "centres_8 is"),
        (None, "damaged"),
    ],
)
def test_damaged_priors_are_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(paths, "learnt_priors", lambda dataset, key: tmp_path)
    np.savez(tmp_path / priors.FILE, **content) if content else (tmp_path / priors.FILE).write_text("x")
    with pytest.raises(ExperimentError, match=message):
        priors.read("generated", "nonvoc2voc_shapemask", 8, 14)


def test_other_priors_are_another_training(tmp_path, monkeypatch):
    training = config.resolve("shapemask_r101_1x_nonvoc2voc", "generated", 0)
    other = config.resolve("mask_rcnn_r50_1x_nonvoc2voc", "generated", 0)
    for name in ("split_train", "manifest", "initial_weights"):
        monkeypatch.setattr(paths, name, partial(lambda file, *_: file, tmp_path / name))
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(paths, "learnt_priors", lambda dataset, key: tmp_path / "priors")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(recipe, "of_training", lambda training: {"configuration": {}, "code": {}})
    with pytest.raises(ExperimentError, match="priors: no such file"):
        recipe.fingerprint(training)
    found = []
    (tmp_path / "priors").mkdir()
    for text in ("one", "two"):
        (tmp_path / "priors" / priors.FILE).write_text(text)
        found.append((recipe.fingerprint(training), recipe.fingerprint(other)))
    assert found[0][0] != found[1][0] and found[0][1] == found[1][1]
    assert "priors" not in other.numbers()


def test_sizes_of_the_full_model_are_the_authors():
    model = ROOM.model(knobs(), Sizes(), {"type": "ResNet", "depth": 101}, 80)["roi_head"]
    part, extractor = model["mask_head"], model["mask_roi_extractor"]
    assert (part["channels"], part["convs"], part["cells"], part["upsampling"], part["num_priors"]) == (
        128,
        4,
        32,
        4,
        100,
    )
    assert extractor["featmap_strides"] == [8, 16, 32, 64] and extractor["finest_scale"] == 112
    assert (model["instances"], model["jitter"], model["outer_box"], part["norm"]["momentum"]) == (
        8,
        0.025,
        1.25,
        0.003,
    )
    few = ROOM.model(knobs(priors="few", instances=5), Sizes(), {"type": "ResNet", "depth": 101}, 80)["roi_head"]
    assert few["mask_head"]["num_priors"] == 20 and few["instances"] == 5


def test_the_look_inside_is_what_a_detection_gets():
    from pipeline.methods.shapemask import look_inside

    model, data = build().eval(), batch(images=1)
    boxes = data["gt_bboxes"][0]
    found = look_inside.compute(model, data["img"], boxes)
    with torch.no_grad():
        rois = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
        masks = model.roi_head.detection_masks(model.extract_feat(data["img"]), rois, None, None)
    assert np.allclose(found["fine"], masks[:, 0].sigmoid().numpy())
    assert np.allclose(found["prior_weights"].sum(1), 1, atol=1e-5)
    assert found["priors"].shape == found["coarse"].shape == (len(boxes), 14, 14)
    assert (found["frames"][:, :2] <= 1e-4).all() and (found["frames"] >= -0.126).all()
