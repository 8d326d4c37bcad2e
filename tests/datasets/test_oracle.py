"""Masks of novel objects for the oracle: they stand beside the masks of the loss and change nothing else."""

import numpy as np
import pytest

from pipeline.declaration import config, subsets
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import oracle, oracle_steps
from pipeline.tasks.instances.packed_coco import PartialCocoDataset
from pipeline.tasks.instances.steps import train_pipeline

from .conftest import COCO_SET

STEPS = {
    "as drawn": train_pipeline(flip_ratio=1.0, size_divisor=32),
    "resized": train_pipeline(scales=[[300, 150], [300, 200]], size_divisor=32),
}


@pytest.fixture
def complete(generated_root, monkeypatch):
    """The complete annotations of the dataset `toy` are those of the drawn images."""
    name = "train2017"
    subset = subsets.Subset(name, generated_root / "annotations" / f"instances_{name}.json", generated_root / name)
    monkeypatch.setattr(subsets, "train", lambda dataset: subset)
    oracle_steps.complete_annotations.cache_clear()
    yield
    oracle_steps.complete_annotations.cache_clear()


def samples(folder, images, steps):
    dataset = PartialCocoDataset(
        label_set=COCO_SET, ann_file=str(folder / "train.json"), img_prefix=str(images), pipeline=steps
    )
    return [dataset[index, 7] for index in range(len(dataset))]


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_every_object_has_its_mask_in_the_frame_of_its_box(nonvoc2voc, generated_root, complete, steps):
    images = generated_root / "train2017"
    plain = samples(nonvoc2voc, images, steps)
    extended = samples(nonvoc2voc, images, oracle.with_prior_masks(steps, "toy"))
    for before, after in zip(plain, extended, strict=True):
        assert set(after) == set(before) | {"gt_prior_masks"}
        masks, novel = before["gt_masks"].data.to_ndarray(), before["gt_is_novel"].data.numpy()
        np.testing.assert_array_equal(after["gt_masks"].data.to_ndarray(), masks)
        np.testing.assert_array_equal(after["img"].data, before["img"].data)
        priors = after["gt_prior_masks"].data.to_ndarray()
        np.testing.assert_array_equal(priors[~novel], masks[~novel])
        assert after["gt_prior_masks"].cpu_only and novel.any()
        for box, mask in zip(before["gt_bboxes"].data.numpy(), priors, strict=True):
            rows, columns = np.nonzero(mask)
            np.testing.assert_allclose([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], box, atol=3)


def test_an_object_that_the_complete_annotations_lack_is_an_error(nonvoc2voc, generated_root, complete):
    for annotations in oracle_steps.complete_annotations("toy").imgToAnns.values():
        annotations.clear()
    with pytest.raises(ExperimentError, match="a box of the split is not in .*run `dvc repro split`"):
        samples(nonvoc2voc, generated_root / "train2017", oracle.with_prior_masks(STEPS["as drawn"], "toy"))


def test_an_object_without_a_mask_is_an_error(nonvoc2voc, generated_root, complete):
    for annotations in oracle_steps.complete_annotations("toy").imgToAnns.values():
        for annotation in annotations:
            annotation.pop("segmentation", None)
    with pytest.raises(ExperimentError, match="has no mask, which oracle supervision needs of novel objects too"):
        samples(nonvoc2voc, generated_root / "train2017", oracle.with_prior_masks(STEPS["as drawn"], "toy"))


def test_only_oracle_supervision_gets_them():
    used = {
        name: str(config.resolve(name, "generated", 0).data["train"])
        for name in (
            "contrastmask_r50_1x_voc2nonvoc",
            "contrastmask_oracle_voc2nonvoc",
            "mask_rcnn_r50_1x_nonvoc2voc",
        )
    }
    assert [name for name, steps in used.items() if "gt_prior_masks" in steps] == ["contrastmask_oracle_voc2nonvoc"]
