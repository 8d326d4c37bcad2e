"""The 33 cases that the released code gets wrong or leaves open, by number. Each test fails on the old behaviour.

Cases of data, evaluation and paths are tested here as far as a model sees them; their own tests are beside that code.
"""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.core import BitmapMasks, bbox2roi

from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import edges, losses, partition, sampling
from pipeline.methods.contrastmask.attention import enhance
from pipeline.methods.contrastmask.cl_head import rows_of_cells
from pipeline.methods.shared import cam
from pipeline.methods.shared.draws import step_generator

from .conftest import batch, build, configuration, total, train_losses
from .test_contrastive_head import NOVEL, head, rois, run
from .test_losses import PAPER, RELEASED, keys_of, terms
from .test_sets import sets_of, sets_of_cam, square

ROOT = Path(cam.__file__).parents[3]


ROOMS = ROOT / "pipeline" / "methods"


def source_trees():
    """Of the modules with tensors: sizes and numbers of others stand where they are declared or compared."""
    others = {"__init__.py", "golden.py", "released_checkpoint.py", "look_inside.py", "sizes.py", "model.py"}
    others.add("retab.py")  # of the second paper's task; widths of the released networks
    files = [file for room in ("shared", "contrastmask") for file in (ROOMS / room).glob("*.py")]
    return {f"{file.parent.name}/{file.name}": ast.parse(file.read_text()) for file in files if file.name not in others}


def finite_step(model, data):
    """Train one step; return its losses, all finite like every gradient."""
    losses_ = train_losses(model, data, epoch=9)
    assert all(torch.isfinite(sum(v) if isinstance(v, list) else v).all() for v in losses_.values())
    model.zero_grad()
    total(losses_).backward()
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trainable)
    return losses_


def test_w01_cams_belong_to_their_rois_when_images_yield_different_numbers():
    model, data = build(), batch(images=3)
    roi_head = model.roi_head
    seen = {}
    maps = roi_head.bbox_head.activation_maps
    roi_head.bbox_head.activation_maps = lambda features, labels: seen.setdefault("cam", maps(features, labels))
    sample, forward = roi_head._sample, roi_head._mask_features

    def few_proposals(proposals, *args):
        # 3, 40 and 0 proposals: far fewer than the sampler asks for, and not the same number
        seen["sampled"] = sample([proposals.rows[0][:3], proposals.rows[1][:40], proposals.rows[2][:0]], *args)
        return seen["sampled"]

    def keep_rois(x, rois, cam, rows):
        seen.update(x=x, rois=rois)
        return forward(x, rois, cam, rows)

    roi_head._sample, roi_head._mask_features = few_proposals, keep_rois
    train_losses(model, data)
    sizes = [len(result.bboxes) for result in seen["sampled"]]
    assert len(set(sizes)) == 3
    labels = torch.cat([result.pos_gt_labels for result in seen["sampled"]])
    with torch.no_grad():
        alone = maps(roi_head._bbox_forward(seen["x"], seen["rois"])["cam_features"], labels)
    assert torch.allclose(seen["cam"], alone, atol=1e-5)


def test_w02_a_constant_cam_is_no_prior():
    flat = torch.full((3, 1, 4, 4), 2.5)
    flat[1] = torch.nan
    flat[2] = torch.arange(16.0).view(1, 4, 4)
    flat.requires_grad_()
    maps, has_prior = cam.min_max_normalise(flat)
    assert has_prior.tolist() == [False, False, True]
    assert torch.equal(maps[:2], torch.zeros(2, 1, 4, 4))
    maps.square().sum().backward()
    assert torch.isfinite(flat.grad).all()
    # novel RoIs without a prior leave the loss as it would be without them, base RoIs have their masks
    features, masks, cams, has_prior = rois()
    has_prior[1] = False
    loss, statistics, _ = run(head(), (features, masks, cams, has_prior))
    assert statistics["dropped_novel_rois"] == 1
    assert torch.isfinite(loss)
    # dead features: the classification branch gives zeros everywhere
    model = build()
    conv = model.roi_head.bbox_head.cls_convs[-1].conv
    torch.nn.init.constant_(conv.weight, 0)
    torch.nn.init.constant_(conv.bias, -1)
    finite_step(model, batch(novel=(0, 1, 2)))


def test_w03_all_rois_dropped_is_a_zero_loss_with_a_graph():
    features, _, _, has_prior = rois()
    full = torch.ones(6, 14, 14, dtype=torch.bool)
    for masks in (full, ~full):
        for recipe in ("paper", "released"):
            model = head(recipe=recipe)
            loss, statistics, _ = run(model, (features, masks, torch.full((6, 14, 14), 0.5), has_prior))
            assert statistics["kept_base_rois"] == statistics["kept_novel_rois"] == 0
            assert loss == 0
            loss.backward()
            assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.projector.parameters())


@pytest.mark.parametrize("method", ["mask_rcnn", "cam", "contrastmask"])
@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_w04_images_without_objects(method, recipe):
    model = build(method, recipe=recipe)
    losses_ = finite_step(model, batch(images=2, objects=0))
    assert losses_["loss_mask"] == 0
    assert losses_["loss_bbox"] == 0
    # not a single RoI: no proposals either
    roi_head = model.roi_head
    x = model.extract_feat(batch(images=1)["img"])
    nothing = roi_head.forward_train(
        x,
        batch(images=1, objects=0)["img_metas"],
        [torch.zeros(0, 5)],
        [torch.zeros(0, 4)],
        [torch.zeros(0, dtype=torch.long)],
        gt_masks=[BitmapMasks([], 128, 128)],
        gt_is_novel=[torch.zeros(0, dtype=torch.bool)],
    )
    assert {name for name in nothing if "loss" in name} >= {"loss_cls", "loss_bbox", "loss_mask"}
    assert total(nothing) == 0
    total(nothing).backward()


def test_w05_no_retired_numpy_or_scipy_names():
    for name, tree in source_trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                assert node.attr not in {"float", "bool", "int", "object"}, name
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "scipy" not in (getattr(node, "module", None) or "") + str([a.name for a in node.names]), name


def test_w06_edges_need_no_other_package_and_follow_the_gradient():
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[0, 2, 2] = True
    expected = torch.zeros(6, 6, dtype=torch.bool)
    for y, x in ((1, 2), (3, 2), (2, 1), (2, 3)):
        expected[y, x] = True
    assert torch.equal(edges.mask_edges(mask)[0], expected)
    assert not any("vlkit" in ast.dump(tree) for tree in source_trees().values())


def test_w07_no_loop_over_rois_and_no_copy_to_the_host():
    """Shapes alone decide what runs: the meta device has no values that a loop or a host copy could read."""
    forbidden = {"item", "tolist", "cpu", "nonzero", "numpy"}
    for name in (
        "shared/cam.py",
        *(f"contrastmask/{part}.py" for part in ("edges", "partition", "losses", "cl_head", "attention")),
    ):
        calls = {
            node.func.attr
            for node in ast.walk(source_trees()[name])
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert not calls & forbidden, name
    with torch.device("meta"):
        model = head()
        encoded, _ = model(torch.empty(6, 8, 14, 14))
        sets = partition.partition(
            torch.empty(6, 14, 14, dtype=torch.bool),
            torch.empty(6, 14, 14),
            torch.empty(6, dtype=torch.bool),
            torch.empty(6, dtype=torch.bool),
            model.rule,
        )
        kept = sets.keeps(5)
        shared = kept[:, None] & sets.sides.any(-1).t()
        cells = rows_of_cells(model.projector(encoded))
        products = losses.compare_with_queries(cells, losses.query_weights(sets.sides), shared, False)
        cosines = losses.similarities(*products, "cosine")
        losses.contrastive_terms(cosines, sets.candidates & kept[:, None], model.form).sum().backward()


def test_w08_the_draw_depends_on_seed_rank_and_iteration_and_on_nothing_else():
    import random

    sets, rule = sets_of(square(12)), sampling.SamplingRule(0.3, "ceil", "split_first")
    kept = torch.tensor([True])

    def draw(seed, rank, iteration):
        return sampling.sample_keys(sets, kept, rule, step_generator(seed, rank, iteration, kept.device))

    first = draw(1, 0, 5)
    state, numpy_state, torch_state = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    random.seed(99)
    torch.manual_seed(99)
    assert torch.equal(draw(1, 0, 5), first)
    random.setstate(state)
    torch.set_rng_state(torch_state)
    draw(1, 0, 6)
    assert random.getstate() == state
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert len({draw(*who).numpy().tobytes() for who in ((1, 0, 5), (1, 1, 5), (2, 0, 5), (1, 0, 6))}) == 4


def test_w09_trains_on_a_cpu_unwrapped():
    model = build(recipe="released")
    finite_step(model, batch())
    assert {value.device.type for value in model.roi_head.statistics.values()} == {"cpu"}
    assert not any("cuda" in ast.dump(tree) for tree in source_trees().values())


@pytest.mark.parametrize("size", [8, 16, 32])
def test_w10_other_sizes_and_widths(size):
    loss, _, joined = run(head(size=size, channels=64), rois(size=size, channels=64))
    assert torch.isfinite(loss)
    assert joined.shape == (6, 64, size, size)
    model = build(
        recipe="released",
        architecture={"box_roi_size": 5, "mask_roi_size": size // 2, "contrast_roi_size": size, "contrast_channels": 8},
    )
    finite_step(model, batch(images=1))
    literals = {
        node.value
        for tree in source_trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, int)
    }
    assert not literals & {7, 14, 28, 256, 512}


def test_w11_without_a_contrastive_head():
    for method in ("mask_rcnn", "cam"):
        losses_ = finite_step(build(method), batch())
        assert "loss_contrastive" not in losses_
    losses_ = finite_step(build(cl_loss_weight=0), batch())
    assert losses_["loss_contrastive"] == 0


def test_w12_a_shared_roi_extractor_is_rejected_when_building():
    from mmdet.models import build_head

    config = configuration(backbone={"type": "ResNet", "depth": 50})
    with pytest.raises(ValueError, match="mask_roi_extractor is missing"):
        build_head({**config["roi_head"], "mask_roi_extractor": None, "train_cfg": None, "test_cfg": None})


def test_w13_dummy_forward_and_augmented_views():
    model, data = build().eval(), batch(images=1)
    model.roi_head.test_cfg.score_thr = 0.0
    with torch.no_grad():
        *_, mask_pred = model.forward_dummy(data["img"])[1]
        assert torch.isfinite(mask_pred).all()
        ((boxes, masks),) = model.aug_test([data["img"]], [data["img_metas"]], rescale=True)
    assert sum(map(len, boxes)) == sum(map(len, masks)) > 0
    with pytest.raises(NotImplementedError, match="ONNX"):
        model.roi_head.onnx_export()


def test_w14_the_weight_follows_the_iteration_and_nothing_hides_it():
    model, data = build(lambda_warmup_epochs=4, min_keys=1), batch()
    values = {}
    for epoch in (0.0, 2.0, 4.0, 2.0):
        torch.manual_seed(0)
        values[epoch] = train_losses(model, data, epoch=epoch)["loss_contrastive"].item()
        assert model.roi_head.statistics["cl_lambda"] == losses.warmup_weight(epoch, "linear", 4)
    assert values[0.0] > 0
    assert values[4.0] == pytest.approx(4 * values[0.0], rel=1e-4)
    model.roi_head._progress = None
    with pytest.raises(RuntimeError, match="set_progress was never called"):
        model(return_loss=True, **data)


def test_w15_the_paper_form_is_never_negative():
    cells, member = keys_of(5, 5)
    query = torch.tensor([1.0, 0.0])
    for tau in (0.02, 0.3, 0.7):
        for some in (member, member & torch.tensor([True, False, True, False])[:, None, None]):
            assert (terms(cells, some, query, tau, **PAPER) >= 0).all()
    assert terms(cells, member, query, 0.3, **RELEASED)[0] == pytest.approx(-2.2698, abs=1e-4)
    none = member & torch.tensor([True, False, True, False])[:, None, None]
    assert terms(cells, none, query, 0.3, **RELEASED)[0] == pytest.approx(1 - 1 / 0.3, abs=1e-4)


def test_w16_a_key_equal_to_the_query_has_no_direction_and_a_bounded_gradient():
    cells = torch.tensor([[[1.0, 2.0], [1.0, 2.0], [3.0, -1.0]]]).requires_grad_()
    weights = torch.tensor([[[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]])
    products = losses.compare_with_queries(cells, weights, torch.ones(1, 2, dtype=torch.bool), False)
    cosines = losses.similarities(*products, "centred")
    assert cosines[0, 0, :2].tolist() == [0, 0]
    cosines.sum().backward()
    assert cells.grad.abs().max() < 10


def test_w17_the_loss_is_computed_in_full_precision():
    model = head()
    features, masks, cams, has_prior = rois()
    many = 40
    big = tuple(t.repeat(many, *[1] * (t.ndim - 1)) for t in (features, masks, cams, has_prior))
    is_novel = NOVEL.repeat(many)
    exact, _, _ = run(model, big, is_novel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _, _ = run(model, big, is_novel)
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(exact.item(), rel=0.02)
    mixed.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.projector.parameters())
    # embeddings in half precision: thousands of exponentials of similarities over a small temperature
    cells, member = keys_of(10, 50000)
    sides = torch.stack([member[0], member[1]])
    half = head(tau_easy=0.05, tau_hard=0.05)
    kept = torch.tensor([True])
    assert torch.isfinite(half.terms(cells.half(), sides, member.flip(0), kept)).all()


def test_w18_attention_never_holds_its_weights():
    x = torch.rand(1, 4, 60, 60)
    cells = 3600
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        enhance(x)
    largest = max(event.cpu_memory_usage for event in record.events())
    assert 0 < largest < cells * cells * 4 / 10


def test_w19_queries_of_devices_combine_from_sums_and_counts():
    """What a reduction over devices needs; a single device has its own RoIs only, and its result is the plain mean."""
    cells = torch.randn(6, 10, 4)
    sides = torch.rand(2, 6, 10) < 0.5
    sides[:, 2] = False
    present = sides.any(-1).t()
    weights = losses.query_weights(sides)
    everywhere, _, _ = losses.compare_with_queries(cells, weights, present, False)
    sums, counts = 0, 0
    for device in (slice(0, 4), slice(4, 6)):
        mine, _, _ = losses.compare_with_queries(cells[device], weights[device], present[device], False)
        count = present[device].sum(0)[:, None]
        sums, counts = sums + mine[0] * count, counts + count
    assert torch.allclose(everywhere[0], sums / counts, atol=1e-6)
    kept = [n for n in range(6) if n != 2]
    mean = torch.stack([cells[n][sides[0, n]].mean(0) for n in kept]).mean(0)
    assert torch.allclose(everywhere[0, 0], mean, atol=1e-6)


def test_w20_no_assertion_or_exception_depends_on_data():
    for name, tree in source_trees().items():
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)], name
    features, masks, cams, has_prior = rois()
    for recipe in ("paper", "released"):
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            share = torch.rand(6, 1, 1, generator=generator).round()  # full, empty, or in between
            masks = torch.rand(6, 14, 14, generator=generator) < share + torch.rand(1, generator=generator) - 0.5
            cams = torch.rand(6, 14, 14, generator=generator)
            some = torch.rand(6, generator=generator) < 0.5
            loss, _, _ = run(head(recipe=recipe), (features, masks, cams, some), some.roll(1))
            assert torch.isfinite(loss)


@pytest.mark.parametrize(
    "direction",
    [
        {"base": "voc", "novel": "voc"},
        {"base": ["cat", "dog"], "novel": ["dog"]},
        {"base": "nonvox", "novel": "voc"},
        {"base": ["no such thing"], "novel": "voc"},
    ],
)
def test_w21_wrong_splits_are_refused(direction):
    from pipeline.declaration.label_sets import label_set

    with pytest.raises(ExperimentError):
        label_set("coco").base_and_novel(direction)


def test_w21_there_is_no_default_split():
    model, data = build(), batch()
    del data["gt_is_novel"]
    with pytest.raises(ValueError, match="gt_is_novel is missing"):
        train_losses(model, data)
    short = batch()
    short["gt_is_novel"][1] = short["gt_is_novel"][1][:-1]
    with pytest.raises(ValueError, match="3 flags for 4 boxes"):
        train_losses(model, short)
    assert not [name for name, _ in model.named_buffers() if "novel" in name or "base" in name]


@pytest.mark.parametrize("recipe", ["paper", "released"])
@pytest.mark.parametrize("supervision", ["base", "novel", "all"])
def test_w22_masks_of_novel_objects_change_no_loss_and_no_gradient(recipe, supervision):
    clean, noisy = batch(novel=(0, 1, 2)), batch(novel=(0, 1, 2))
    rng = np.random.default_rng(0)
    for masks, flags in zip(noisy["gt_masks"], noisy["gt_is_novel"], strict=True):
        masks.masks[flags.numpy()] = rng.integers(0, 2, masks.masks[flags.numpy()].shape)
    assert any(flags.any() for flags in clean["gt_is_novel"])
    results = []
    for data in (clean, noisy):
        model = build(recipe=recipe, supervision=supervision, min_keys=1)
        torch.manual_seed(0)
        losses_ = train_losses(model, data, epoch=9)
        total(losses_).backward()
        results.append((total(losses_), [p.grad for p in model.parameters() if p.grad is not None]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(one, other) for one, other in zip(results[0][1], results[1][1], strict=True))


def test_w22_a_mask_is_hidden_by_object_not_by_category():
    """Of objects of one category those that are flagged have no mask for any loss, and the others have."""

    def spoiled(flagged):
        data, rng = batch(novel=()), np.random.default_rng(0)
        for image, masks in enumerate(data["gt_masks"]):
            count = len(masks.masks)
            flags = np.arange(count) % 2 == 0
            data["gt_labels"][image][:] = 2
            data["gt_is_novel"][image] = torch.from_numpy(flags)
            masks.masks[flags] = 0
            if flagged is not None:
                masks.masks[flags == flagged] = rng.integers(0, 2, masks.masks[flags == flagged].shape)
        return data

    results = []
    for data in (spoiled(None), spoiled(True), spoiled(False)):
        model = build(recipe="released", supervision="all", min_keys=1)
        torch.manual_seed(0)
        losses_ = train_losses(model, data, epoch=9)
        total(losses_).backward()
        results.append((total(losses_), [p.grad for p in model.parameters() if p.grad is not None]))
    assert torch.equal(results[0][0], results[1][0]) and not torch.equal(results[0][0], results[2][0])
    assert all(torch.equal(one, other) for one, other in zip(results[0][1], results[1][1], strict=True))


def test_w22_the_split_leaves_no_trace_of_novel_masks(tmp_path):
    from pipeline.declaration.label_sets import label_set
    from pipeline.tasks.instances.split import split

    labels = label_set("coco")
    categories = [category._asdict() for category in labels.categories]
    files = []
    for name, polygon, area in (("clean", [1, 1, 9, 1, 9, 9], 32.0), ("noise", [2, 2, 3, 2, 3, 3], 0.5)):
        shape = {"image_id": 1, "bbox": [1.0, 1.0, 8.0, 8.0], "iscrowd": 0}
        annotations = [
            {**shape, "id": 1, "category_id": 17, "segmentation": [polygon], "area": area},
            {**shape, "id": 2, "category_id": 24, "segmentation": [[1, 1, 9, 1, 9, 9]], "area": 32.0},
        ]
        content = {
            "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
            "annotations": annotations,
            "categories": categories,
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        split(tmp_path / f"{name}.json", labels, "nonvoc2voc", tmp_path / name)
        files.append((tmp_path / name / "train.json").read_bytes())
    assert files[0] == files[1]


def test_w23_a_mask_that_fills_its_roi_has_no_hard_keys():
    sets = sets_of(square(28, top=0))
    assert sets.counts[2:].sum() == 0
    assert not edges.dilate(edges.mask_edges(square(28, top=0))).any()


def test_w24_the_minimum_is_configurable_and_dropped_rois_are_counted_by_group():
    sets = sets_of(square(4))
    assert [sets.keeps(minimum).item() for minimum in (4, 5)] == [True, False]
    features, masks, cams, has_prior = rois()
    masks[0], cams[1] = False, 0.5
    for minimum, dropped in ((5, (1, 1)), (100, (3, 3))):
        _, statistics, _ = run(head(min_keys=minimum, tiny_mask_fallback=False), (features, masks, cams, has_prior))
        assert (statistics["dropped_base_rois"], statistics["dropped_novel_rois"]) == dropped
        assert statistics["kept_base_rois"] + statistics["kept_novel_rois"] == 6 - sum(dropped)
    single = torch.zeros(1, 14, 14)
    single[0, 5, 5] = 1
    assert not sets_of_cam(single).keeps(5).item()


def test_w25_flags_move_to_the_device_of_the_rois():
    data = batch(images=1)
    roi_head = build().roi_head

    class Flags:
        """Stands for a CPU tensor of flags beside RoIs elsewhere: it may be moved, and must be before it is indexed."""

        def __init__(self, flags):
            self.flags, self.moved = flags, False

        def __len__(self):
            return len(self.flags)

        def to(self, device, dtype):
            self.moved = True
            return self.flags.to(device, dtype)

        def __getitem__(self, index):
            raise AssertionError("indexed before it was moved")

    flags = Flags(data["gt_is_novel"][0].to(torch.uint8))
    roi_head.train()
    roi_head.set_progress(0, 0.0, 0, 0)
    model = build()
    x = model.extract_feat(data["img"])
    losses_ = roi_head.forward_train(
        x,
        data["img_metas"],
        [torch.zeros(0, 5)],
        data["gt_bboxes"],
        data["gt_labels"],
        gt_masks=data["gt_masks"],
        gt_is_novel=[flags],
    )
    assert flags.moved
    assert torch.isfinite(total(losses_))


def test_w26_crowd_boxes_are_left_out_as_in_the_stock_configuration_and_can_be_ignored():
    roi_head, data = build().roi_head, batch(images=1)
    crowd = torch.tensor([[0.0, 0, 128, 128]])
    proposals = torch.cat([torch.rand(50, 2) * 60, 64 + torch.rand(50, 2) * 60, torch.rand(50, 1)], dim=1)
    roi_head.bbox_assigner.ignore_iof_thr = 0.5
    with_crowd = roi_head._sample([proposals], data["gt_bboxes"], data["gt_labels"], [crowd])[0]
    without = roi_head._sample([proposals], data["gt_bboxes"], data["gt_labels"], None)[0]
    assert len(with_crowd.neg_bboxes) == 0
    assert len(without.neg_bboxes) > 0


def test_w27_logged_numbers_are_no_part_of_the_loss_dictionary():
    model = build()
    losses_ = train_losses(model, batch())
    assert set(losses_) == {
        "loss_rpn_cls",
        "loss_rpn_bbox",
        "loss_cls",
        "loss_bbox",
        "acc",
        "loss_mask",
        "loss_contrastive",
    }
    assert not any(value.requires_grad for value in model.roi_head.statistics.values())


def test_w28_base_novel_and_all_categories_are_scored_for_boxes_and_masks():
    from pycocotools import mask as rle

    from pipeline.artifacts.results import Scores
    from pipeline.tasks.instances import TASK
    from pipeline.tasks.instances.scoring import score

    truth = {
        "images": [{"id": 1, "height": 32, "width": 32}],
        "annotations": [],
        "categories": [{"id": 17, "name": "cat"}, {"id": 24, "name": "zebra"}],
    }
    found = []
    for index, category in enumerate((17, 24)):
        bitmap = np.zeros((32, 32), np.uint8, order="F")
        bitmap[4:20, 4 + 8 * index : 16 + 8 * index] = 1
        encoded = rle.encode(bitmap)
        encoded["counts"] = encoded["counts"].decode()
        shape = {"image_id": 1, "category_id": category, "bbox": [4 + 8 * index, 4, 12, 16], "segmentation": encoded}
        truth["annotations"].append({**shape, "id": index + 1, "area": 192, "iscrowd": 0})
        found.append({**shape, "score": 0.9})
    from pycocotools.coco import COCO

    ground_truth = COCO()
    ground_truth.dataset = truth
    ground_truth.createIndex()
    scores = Scores(TASK, score(ground_truth, found[1:], {"base": [24], "novel": [17], "all": [17, 24]}))
    for kind in TASK.kinds:
        assert scores.value("base", kind, "mAP") == pytest.approx(100)
        assert scores.value("novel", kind, "mAP") == pytest.approx(0)
        assert scores.value("all", kind, "mAP") == pytest.approx(50)
        assert set(scores.categories(kind)) >= {"cat", "zebra"}


def test_w29_no_absolute_paths():
    absolute = re.compile(r"""["'](/(home|data|root|mnt|work|opt)/|~/)""")
    for file in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "pipeline").glob("*.yaml"), ROOT / "params.yaml"]:
        assert not absolute.search(file.read_text()), file


def test_w30_the_cam_of_a_detection_can_be_that_of_its_refined_box():
    data = batch(images=1)
    proposals = torch.tensor([[10.0, 10, 60, 60, 0.9], [30, 40, 100, 110, 0.8]])
    inputs = {}
    for frame in ("proposal", "refined"):
        model = build("cam", cam_frame=frame).eval()
        roi_head = model.roi_head
        torch.nn.init.normal_(roi_head.bbox_head.fc_reg.weight, std=0.1)
        roi_head.test_cfg.score_thr = 0.0
        features = roi_head._mask_features
        roi_head._mask_features = lambda x, rois, cam, f=features, key=frame: (
            inputs.setdefault(key, (rois, cam)) and f(x, rois, cam)
        )
        with torch.no_grad():
            x = model.extract_feat(data["img"])
            roi_head.simple_test(x, [proposals], data["img_metas"])
            found, labels, _ = roi_head.detect(x, [proposals], data["img_metas"], False)[0]
            refined = roi_head._refined_cam(x, bbox2roi([found]), labels)
        assert torch.allclose(inputs[frame][1], refined, atol=1e-5) == (frame == "refined")


def test_w31_testing_computes_neither_projector_nor_query_sets(monkeypatch):
    model, data = build(recipe="released").eval(), batch(images=1)
    model.roi_head.test_cfg.score_thr = 0.0

    def unused(*args, **kwargs):
        raise AssertionError("computed at test time")

    monkeypatch.setattr(model.roi_head.cl_head.projector, "forward", unused)
    monkeypatch.setattr(partition, "partition", unused)
    monkeypatch.setattr(sampling, "sample_keys", unused)
    with torch.no_grad():
        ((boxes, masks),) = model.simple_test(data["img"], data["img_metas"])
    assert sum(map(len, masks)) > 0
    # classes that no detection has get no CAM: one map per detection, not one per proposal and class
    seen = []
    maps = model.roi_head.bbox_head.activation_maps
    monkeypatch.setattr(model.roi_head.bbox_head, "activation_maps", lambda f, c: seen.append(len(c)) or maps(f, c))
    with torch.no_grad():
        model.simple_test(data["img"], data["img_metas"])
    assert seen == [sum(map(len, boxes))]


@pytest.mark.parametrize("rule", ["base_positives", "base_gt"])
def test_w32_no_base_object_in_the_batch_is_a_zero_mask_loss_with_a_graph(rule):
    model = build(mask_loss_rois=rule)
    losses_ = finite_step(model, batch(novel=range(6)))
    assert losses_["loss_mask"] == 0
    assert model.roi_head.statistics["mask_loss_rois"] == 0
    assert all(p.grad is not None for p in model.roi_head.mask_head.parameters())


def test_w33_rois_weigh_alike_when_keys_are_not_pooled():
    """A RoI with many poor keys beside one with a single good key: the mean of the two, or nearly the many's."""
    good, poor = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    cells = torch.stack([torch.cat([poor.repeat(9, 1), poor]), torch.cat([good, poor.repeat(8, 1), poor])])
    keys = torch.zeros(4, 2, 10, dtype=torch.bool)
    keys[0, 0, :9] = keys[0, 1, 0] = True
    keys[1, :, 9] = True
    values = {}
    for pooling in ("roi", "batch"):
        form = losses.LossForm(0.5, 0.5, "cosine", "temperature", pooling)
        cosines = torch.stack([cells[..., 0], cells[..., 0]])
        values[pooling] = losses.contrastive_terms(cosines, keys, form)[0].item()
    single = {name: np.log1p(np.exp(-s / 0.5)) for name, s in (("good", 1.0), ("poor", 0.0))}
    assert values["roi"] == pytest.approx((single["good"] + single["poor"]) / 2, rel=1e-5)
    assert values["batch"] > 1.2 * values["roi"]


def test_every_case_is_listed():
    names = [name for name in globals() if name.startswith("test_w")]
    assert {int(name[6:8]) for name in names} == set(range(1, 34))
