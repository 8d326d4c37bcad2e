"""What the figures show of a trained run is what training computes: CAM, partition and keys of ground-truth boxes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mmcv import ConfigDict
from mmdet.models import build_detector

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.datasets.prepare import prepare
from pipeline.declaration import config, experiments
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import look_inside, sampling
from pipeline.methods.contrastmask.partition import PartitionRule, partition
from pipeline.methods.shared.draws import step_generator
from pipeline.reporting import roi_cells
from pipeline.tasks.instances import examples

from .conftest import batch, build

NOVEL = (2, 3)  # of the classes 5, 2, 3, 1 that seed 1 draws


def ready_model(**knobs):
    # cells of the CL head's own size, so that the CAM takes two steps to get there
    model = build("contrastmask", architecture={"contrast_roi_size": 28}, **knobs).eval()
    with torch.no_grad():
        model.roi_head.bbox_head.fc_cls.weight.normal_(0, 0.5)  # CAMs with a shape of their own
    return model


def computed(model, data, generator=None):
    return look_inside.compute(
        model,
        data["img"],
        data["gt_bboxes"][0],
        data["gt_labels"][0],
        data["gt_masks"][0],
        data["gt_is_novel"][0],
        generator or step_generator(0, 0, 0, torch.device("cpu")),
    )


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"recipe": "released"},
        {"supervision": "base", "min_keys": 1},
        {"cam_normalise": "before_upsample", "min_keys": 1},
    ],
)
def test_training_computes_the_same_on_the_same_boxes(knobs, monkeypatch):
    model, data = ready_model(**knobs), batch(images=1, seed=1, novel=NOVEL)
    assert data["gt_is_novel"][0].tolist() == [False, True, True, False]
    shown = computed(model, data)  # before the spies, which would see it too
    assert shown["kept"].any() and shown["keys"].any()
    seen = {}
    sample_keys = sampling.sample_keys

    def spy(sets, kept, rule, generator):
        keys = sample_keys(sets, kept, rule, generator)
        seen.update(sides=sets.sides, candidates=sets.candidates, keys=keys, kept=kept)
        return keys

    loss = model.roi_head.cl_head.loss
    monkeypatch.setattr(
        model.roi_head.cl_head,
        "loss",
        lambda encoded, masks, cams, *rest: seen.update(cams=cams) or loss(encoded, masks, cams, *rest),
    )
    monkeypatch.setattr(sampling, "sample_keys", spy)
    with torch.no_grad():
        model.roi_head.set_progress(0, 0.0, 0, 0)
        model.roi_head.forward_train(
            model.extract_feat(data["img"]),
            data["img_metas"],
            [torch.zeros(0, 5)],  # ground truth is all there is
            data["gt_bboxes"],
            data["gt_labels"],
            gt_masks=data["gt_masks"],
            gt_is_novel=data["gt_is_novel"],
        )
    size = model.roi_head.cl_roi_size
    for name in ("sides", "candidates", "keys"):
        expected = seen[name].transpose(0, 1).unflatten(-1, (size, size)).numpy()
        np.testing.assert_array_equal(shown[name], expected, err_msg=name)
    np.testing.assert_array_equal(shown["kept"], seen["kept"].numpy())
    np.testing.assert_allclose(shown["cams"], seen["cams"].numpy(), atol=1e-6)


def test_base_objects_show_their_mask_and_novel_ones_their_confident_cells():
    model, data = ready_model(), batch(images=1, seed=1, novel=NOVEL)
    shown, is_novel = computed(model, data), data["gt_is_novel"][0].numpy()
    np.testing.assert_array_equal(shown["from_mask"], ~is_novel)
    foreground, background = shown["sides"][:, 0], shown["sides"][:, 1]
    assert (foreground ^ background)[~is_novel].all()
    cams = shown["cams"][is_novel]
    np.testing.assert_array_equal(foreground[is_novel], cams >= 0.9)
    np.testing.assert_array_equal(background[is_novel], cams <= 0.1)


def test_the_masks_of_novel_objects_change_nothing():
    model, data = ready_model(), batch(images=1, seed=1, novel=NOVEL)
    first = computed(model, data)
    data["gt_masks"][0].masks[data["gt_is_novel"][0].numpy()] = 1
    second = computed(model, data)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_an_object_of_one_cell_side_takes_no_part_and_has_no_keys():
    model, data = ready_model(), batch(images=1, seed=1, novel=())
    data["gt_masks"][0].masks[:] = 1  # nothing but foreground: no background key
    shown = computed(model, data)
    assert not shown["kept"].any() and not shown["keys"].any()
    assert shown["sides"][:, 0].all()


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A drawn data set of a few images and a checkpoint with fresh weights."""
    for name in ("pipeline", "params.yaml"):
        (tmp_path / name).symlink_to(paths.ROOT / name)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    entry = experiments.load().dataset("generated") | {"train_images": 1, "val_images": 6}
    prepare("generated", entry, images_root=paths.images_root("generated"), out_dir=paths.data("generated"))

    def make(run="contrastmask_r50_1x_nonvoc2voc"):
        training = config.resolve(run, "generated", 3)
        path = paths.checkpoint("generated", run, 3)
        path.parent.mkdir(parents=True)
        torch.manual_seed(0)
        methods.register(training.method, training.knobs)
        model = build_detector(ConfigDict(training.model))
        model.init_weights()
        torch.save({"state_dict": model.state_dict()}, path)
        return training

    return make


@pytest.mark.slow
def test_the_file_has_the_objects_of_the_rule_and_is_the_same_when_written_again(trained):
    training = trained()
    groups = dict(zip(("base", "novel"), label_set("coco").base_and_novel("nonvoc2voc"), strict=True))
    look_inside.write(training, **groups)
    path = paths.look_inside("generated", training.name)
    first = path.read_bytes()
    look_inside.write(training, **groups)
    assert path.read_bytes() == first
    assert not list(path.parent.glob("*.part"))
    arrays = roi_cells.read("generated", experiments.load().runs[training.name])
    truth = examples.load_ground_truth("generated")
    images = examples.select_images(truth, groups, examples.LOOKED_INTO)
    expected = [a for image in images for a in examples.objects_of(truth, groups, image)]
    assert arrays["annotation_ids"].tolist() == [annotation["id"] for annotation in expected]
    assert arrays["labels"].tolist() == [annotation["category_id"] for annotation in expected]
    names = [truth.cats[label]["name"] for label in arrays["labels"]]
    assert arrays["is_novel"].tolist() == [name in groups["novel"] for name in names]
    x, y, width, height = expected[0]["bbox"]
    np.testing.assert_allclose(arrays["boxes"][0], [x, y, x + width, y + height], rtol=1e-6)
    # the foreground of a base object covers as much of its box as the mask does
    base = ~arrays["is_novel"]
    covered = arrays["sides"][base, 0].mean((1, 2))
    masks = np.array([truth.annToMask(a).sum() / (a["bbox"][2] * a["bbox"][3]) for a in expected])[base]
    np.testing.assert_allclose(covered, masks, atol=0.12)


@pytest.mark.slow
def test_a_run_without_weights_is_named(trained):
    base, novel = label_set("coco").base_and_novel("nonvoc2voc")
    missing = replace(trained(), name="contrastmask_c4f2")
    with pytest.raises(ExperimentError, match=r"contrastmask_c4f2/seed3/.*: not trained yet; run `.*dvc repro "):
        look_inside.write(missing, base, novel)


def test_a_method_without_anything_to_show_is_named():
    with pytest.raises(ExperimentError, match="method cam has no look_inside; valid: contrastmask"):
        methods.required("cam", "look_inside")


def test_sets_are_ordered_as_the_figures_read_them():
    mask = torch.zeros(1, 14, 14, dtype=torch.bool)
    mask[:, 3:11, 3:11] = True
    rule = PartitionRule(
        delta=0.1, key_scale=1, threshold="strict", tiny_mask_fallback=True, hard_easy_rule="paper", min_keys=5
    )
    sets = partition(mask, torch.zeros(1, 14, 14), torch.tensor([True]), torch.tensor([True]), rule)
    easy_positive, easy_negative, hard_positive, hard_negative = sets.candidates.view(4, 14, 14)
    assert easy_positive[7, 7] and easy_negative[0, 0] and hard_positive[3, 7] and hard_negative[2, 7]
