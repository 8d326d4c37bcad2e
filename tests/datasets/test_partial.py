import gc
import json
import random
from functools import partial
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle
from torch.utils.data import DataLoader

from pipeline.errors import ExperimentError
from pipeline.tasks.instances.packed_coco import PackedCocoDataset, PartialCocoDataset, Records
from pipeline.tasks.instances.split import split
from pipeline.tasks.instances.steps import test_pipeline as inference_steps
from pipeline.tasks.instances.steps import train_pipeline
from pipeline.training.sampler import IterationBatchSampler

from .conftest import COCO_SET, NONVOC2VOC, VOC

from mmcv.parallel import collate  # isort: skip  needs pipeline.compat, which partial imports
from mmdet.datasets import CocoDataset, build_dataset  # isort: skip

PIPELINES = {
    "bitmaps": train_pipeline(),
    "polygons": train_pipeline(poly2mask=False),
    "resized": train_pipeline(scales=[[300, 150], [300, 200]], size_divisor=32),
    "resized polygons": train_pipeline(scales=[[300, 150], [300, 200]], size_divisor=32, poly2mask=False),
}


def everything(dataset):
    """All that a data set tells, comparable and with the types of its values."""
    parsed = [dataset.get_ann_info(index) for index in range(len(dataset))]
    arrays = [
        (
            a["bboxes"].tobytes(),
            a["labels"].tobytes(),
            a["bboxes_ignore"].tobytes(),
            a["bboxes"].dtype,
            a["labels"].dtype,
            a["bboxes_ignore"].dtype,
        )
        for a in parsed
    ]
    return {
        "infos": repr(list(dataset.data_infos)),
        "order": list(dataset.img_ids),
        "classes": dataset.CLASSES,
        "labels": dataset.cat2label,
        "categories": list(dataset.cat_ids),
        "flags": getattr(dataset, "flag", np.zeros(0)).tolist(),
        "arrays": arrays,
        "masks": repr([a["masks"] for a in parsed]),
        "others": [a["seg_map"] for a in parsed],
    }


def oddities(content):
    """All that CocoDataset treats in a way of its own."""
    random.Random(4).shuffle(content["annotations"])  # COCO's do not stand together by image either
    by_image = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for annotation in by_image[1]:
        annotation |= {"iscrowd": 1, "segmentation": {"size": [128, 128], "counts": [0, 16384]}}
    by_image[2][0] |= {"ignore": True}
    by_image[4][0]["bbox"] = [300, 0, 10, 10]
    by_image[5][0]["bbox"][2] = 0.5
    by_image[6][0]["bbox"] = [0.1 + 0.2, 1e-7, 1 / 3 * 100, 50]
    by_image[6][0]["segmentation"] = [[0.1 + 0.2, 1e-7, 99.99, 50, 5, 7, 1, 0]]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]
    content["images"][6] |= {"width": 20}
    for annotation in by_image[7]:
        annotation |= {"bbox": [2, 3, 10, 10], "segmentation": [[2, 3, 12, 3, 12, 13]]}
    content["images"][7] |= {"width": 100}
    content["images"].reverse()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"classes": ["zebra", "cat"]},
        {"filter_empty_gt": False},
        {"test_mode": True},
    ],
    ids=["default", "classes", "empty", "test"],
)
def test_it_is_cocodataset(edited, options):
    path = edited(oddities)
    for annotations_first in (False, True):
        if annotations_first:
            path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
        stock = CocoDataset(str(path), [], **options)
        packed = PackedCocoDataset(str(path), [], label_set=COCO_SET, **options)
        assert everything(packed) == everything(stock)
        assert packed.data_infos[-1] == stock.data_infos[-1]
    with pytest.raises(IndexError):
        packed.data_infos[len(packed)]


def test_it_is_cocodataset_with_flags_on_the_output_of_split(edited, tmp_path):
    split(edited(oddities), COCO_SET, NONVOC2VOC, tmp_path)
    stock = CocoDataset(str(tmp_path / "train.json"), [])
    partial_ = PartialCocoDataset(str(tmp_path / "train.json"), [], label_set=COCO_SET)
    expected, found = everything(stock), everything(partial_)
    masks = [stock.get_ann_info(index)["masks"] for index in range(len(stock))]
    novel = [partial_.get_ann_info(index)["is_novel"].tolist() for index in range(len(stock))]
    assert novel == [[mask is None for mask in of_image] for of_image in masks] and sum(map(sum, novel))
    assert found.pop("masks") == repr([[[[0.0] * 6] if m is None else m for m in of_image] for of_image in masks])
    expected.pop("masks")
    assert found == expected


def test_nothing_is_kept_that_workers_would_copy(nonvoc2voc):
    """Garbage-collected objects that the data set holds do not grow with images and annotations."""

    def count(root):
        seen, left = {id(root)}, [root]
        while left:
            for other in gc.get_referents(left.pop()):
                if id(other) not in seen and gc.is_tracked(other) and not isinstance(other, (type, ModuleType)):
                    seen.add(id(other))
                    left.append(other)
        return len(seen)

    dataset = PartialCocoDataset(str(nonvoc2voc / "train.json"), [], label_set=COCO_SET)
    held = [value for name, value in vars(dataset).items() if name not in ("pipeline", "file_client", "label_set")]
    assert isinstance(dataset.data_infos, Records) and count(held) < 30


def build(folder, images, steps=PIPELINES["bitmaps"]):
    return PartialCocoDataset(
        label_set=COCO_SET, ann_file=str(folder / "train.json"), img_prefix=str(images), pipeline=steps
    )


@pytest.fixture(scope="module")
def dataset(nonvoc2voc, generated_root):
    return build(nonvoc2voc, generated_root / "train2017")


@pytest.mark.parametrize("steps", PIPELINES.values(), ids=PIPELINES)
def test_flags_boxes_labels_and_masks_go_together(nonvoc2voc, generated_root, steps):
    dataset = build(nonvoc2voc, generated_root / "train2017", steps)
    for index in range(len(dataset)):
        sample = dataset[index]
        boxes, labels, novel = (sample[key].data for key in ("gt_bboxes", "gt_labels", "gt_is_novel"))
        masks = sample["gt_masks"].data.to_ndarray()
        assert novel.dtype == torch.bool
        assert novel.tolist() == [COCO_SET.names[label] in VOC for label in labels]
        assert len(boxes) == len(labels) == len(masks) == len(novel)
        for box, mask, is_novel in zip(boxes.numpy(), masks, novel, strict=True):
            if is_novel:
                assert mask.sum() == 0
            else:
                rows, columns = np.nonzero(mask)
                extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(extent, box, atol=2)


@pytest.mark.parametrize("steps", [PIPELINES["bitmaps"], PIPELINES["polygons"]], ids=["bitmaps", "polygons"])
def test_novel_mask_targets_are_empty_in_any_frame(nonvoc2voc, generated_root, steps):
    sample = build(nonvoc2voc, generated_root / "train2017", steps)[0]
    masks, novel = sample["gt_masks"].data, sample["gt_is_novel"].data.numpy()
    index = np.flatnonzero(novel)
    rois = np.array([[0, 0, 128, 128], [0, 0, 9, 9], [50, 60, 70, 90]], dtype=np.float32)
    for roi in rois:
        crops = masks.crop_and_resize(np.tile(roi, (len(index), 1)), (28, 28), index, device="cpu")
        assert crops.to_ndarray().sum() == 0


def test_the_sample_seed_decides_the_augmentation(nonvoc2voc, generated_root):
    dataset = build(nonvoc2voc, generated_root / "train2017", PIPELINES["resized"])
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(5)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = dataset[(3, 77)]
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    np.random.seed(99)
    second = dataset[(3, 77)]
    assert torch.equal(first["img"].data, second["img"].data)
    assert torch.equal(first["gt_bboxes"].data, second["gt_bboxes"].data)
    shapes = {tuple(dataset[(3, seed)]["img_metas"].data["img_shape"]) for seed in range(6)}
    flips = {dataset[(3, seed)]["img_metas"].data["flip"] for seed in range(12)}
    assert len(shapes) > 1 and flips == {True, False}


def test_batches_do_not_depend_on_the_number_of_workers(dataset):
    def batches(workers):
        sampler = IterationBatchSampler(dataset.flag, 3, seed=1, start_iteration=2, max_iterations=5)
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=partial(collate, samples_per_gpu=3),
        )
        return [(batch["img"].data[0], batch["gt_is_novel"].data[0]) for batch in loader]

    for (images, novel), (other_images, other_novel) in zip(batches(0), batches(2), strict=True):
        assert torch.equal(images, other_images)
        assert all(torch.equal(a, b) for a, b in zip(novel, other_novel, strict=True))


def test_noise_in_novel_masks_changes_no_sample(dataset, edited, generated_root, tmp_path):
    def spoil(content):
        names = {category["id"]: category["name"] for category in content["categories"]}
        for annotation in content["annotations"]:
            if names[annotation["category_id"]] in VOC:
                annotation["segmentation"], annotation["area"] = [[0, 0, 128, 0, 128, 128]], 0

    split(edited(spoil), COCO_SET, NONVOC2VOC, tmp_path / "noised")
    noised = build(tmp_path / "noised", generated_root / "train2017")
    assert len(noised) == len(dataset)
    for index in range(len(dataset)):
        clean, other = dataset[(index, index)], noised[(index, index)]
        for key in ("img", "gt_bboxes", "gt_labels", "gt_is_novel"):
            assert torch.equal(clean[key].data, other[key].data)
        np.testing.assert_array_equal(clean["gt_masks"].data.masks, other["gt_masks"].data.masks)


def test_crowd_and_invalid_objects_are_skipped_and_only_crowd_keeps_the_image(edited, generated_root, tmp_path):
    def spoil(content):
        by_image = {}
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        for annotation in by_image[1]:
            annotation |= {"iscrowd": 1, "segmentation": {"size": [128, 128], "counts": [0, 16384]}}
        by_image[2][0]["bbox"] = [300, 0, 10, 10]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]

    path = edited(spoil)
    split(path, COCO_SET, NONVOC2VOC, tmp_path / "out")
    dataset = build(tmp_path / "out", generated_root / "train2017")
    assert [info["id"] for info in dataset.data_infos] == [1, 2, *range(4, 13)], "image 3 has no annotation"
    only_crowd = dataset[0]
    assert only_crowd["gt_bboxes"].data.shape == (0, 4)
    assert only_crowd["gt_is_novel"].data.shape == (0,)
    count = sum(a["image_id"] == 2 for a in json.loads(path.read_text())["annotations"])
    assert len(dataset[1]["gt_labels"].data) == len(dataset[1]["gt_is_novel"].data) == count - 1


def test_boxes_only_direction(train_annotations, generated_root, tmp_path):
    split(train_annotations, COCO_SET, {"base": "none", "novel": "all"}, tmp_path)
    sample = build(tmp_path, generated_root / "train2017")[0]
    assert sample["gt_is_novel"].data.all()
    assert sample["gt_masks"].data.to_ndarray().sum() == 0


def test_a_list_of_classes_sets_the_labels(nonvoc2voc, generated_root):
    dataset = PartialCocoDataset(
        label_set=COCO_SET,
        ann_file=str(nonvoc2voc / "train.json"),
        img_prefix=str(generated_root / "train2017"),
        pipeline=train_pipeline(),
        classes=["cat", "zebra"],
    )
    samples = [dataset[index] for index in range(len(dataset))]
    for sample in samples:
        assert torch.equal(sample["gt_is_novel"].data, sample["gt_labels"].data == 0)
    with pytest.raises(ExperimentError, match="categories does not list unicorn"):
        PartialCocoDataset(
            label_set=COCO_SET, ann_file=str(nonvoc2voc / "train.json"), pipeline=[], classes=["cat", "unicorn"]
        )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop("novel"), "has no flag 'novel'; train on the output of stage split"),
        (lambda a: a.update(novel=True, segmentation=[]), "is novel and has a mask; run `dvc repro -s -f split@"),
        (
            lambda a: (a.update(novel=False), a.pop("segmentation", 0)),
            "is base and has no mask; run `dvc repro -s -f split@",
        ),
    ],
)
def test_other_files_than_split_writes_are_refused(nonvoc2voc, generated_root, tmp_path, change, message):
    content = json.loads((nonvoc2voc / "train.json").read_text())
    change(content["annotations"][4])
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(ExperimentError, match=message):
        build(tmp_path, generated_root / "train2017")


def damage(path, kind):
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "cut at the end":
        path.write_bytes(content[:-200])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("404 not found")
    elif kind == "other size":
        cv2.imwrite(str(path), np.zeros((64, 32, 3), np.uint8))


@pytest.mark.parametrize("extension", ["png", "jpg"])
@pytest.mark.parametrize(
    "kind, message",
    [
        ("missing", "is your own folder: restore the file there"),
        ("truncated", "is truncated or not an image; "),
        ("cut at the end", "is truncated or not an image"),
        ("empty", "is truncated or not an image"),
        ("text", "is truncated or not an image"),
        ("other size", "is stored 32x64 (an EXIF orientation is ignored), its annotations say 128x128; save"),
    ],
)
def test_a_broken_image_is_named(nonvoc2voc, generated_root, tmp_path, kind, message, extension):
    content = json.loads((nonvoc2voc / "train.json").read_text())
    name = content["images"][0]["file_name"]
    path = tmp_path / f"image.{extension}"
    cv2.imwrite(str(path), cv2.imread(str(generated_root / "train2017" / name)))
    content["images"][0]["file_name"] = path.name
    (tmp_path / "train.json").write_text(json.dumps(content))
    damage(path, kind)
    for mode, steps in (("train", train_pipeline()), ("test", inference_steps())):
        dataset = build_dataset(
            dict(
                label_set=COCO_SET,
                type="PartialCocoDataset" if mode == "train" else "PackedCocoDataset",
                ann_file=str(tmp_path / "train.json"),
                img_prefix=str(tmp_path),
                pipeline=steps,
                test_mode=mode == "test",
            )
        )
        with pytest.raises(ExperimentError) as caught:
            dataset[0]
        assert str(path) in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_pixels_are_read_as_they_are_stored(nonvoc2voc, tmp_path, orientation, extension):
    """Training and inference see the picture that the annotations were made for, whatever its EXIF orientation."""
    content = json.loads((nonvoc2voc / "train.json").read_text())
    pixels = np.zeros((128, 128, 3), np.uint8)
    pixels[:30, :50] = 255  # no rotation or reflection of it looks the same
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / f"image.{extension}", exif=exif, quality=100)
    content["images"][0]["file_name"] = f"image.{extension}"
    (tmp_path / "train.json").write_text(json.dumps(content))
    both = {"PartialCocoDataset": train_pipeline(flip_ratio=0.0), "PackedCocoDataset": inference_steps()}
    for kind, steps in both.items():
        dataset = build_dataset(
            dict(
                label_set=COCO_SET,
                type=kind,
                ann_file=str(tmp_path / "train.json"),
                img_prefix=str(tmp_path),
                pipeline=steps,
                test_mode=kind == "PackedCocoDataset",
            )
        )
        image = dataset[0]["img"]
        image = image[0] if isinstance(image, list) else image.data
        assert np.array_equal((image[0] > 0).numpy(), pixels[..., 0] > 0)


def test_polygons_are_loaded_from_run_lengths_too(edited, generated_root, tmp_path):
    """The 3x schedule asks for polygons, whatever the file has."""

    def run_lengths(content):
        for annotation in content["annotations"]:
            encoded = rle.merge(rle.frPyObjects(annotation["segmentation"], 128, 128))
            annotation["segmentation"] = {"size": [128, 128], "counts": encoded["counts"].decode()}

    split(edited(run_lengths), COCO_SET, NONVOC2VOC, tmp_path)
    for steps in (PIPELINES["polygons"], PIPELINES["resized polygons"]):
        sample = build(tmp_path, generated_root / "train2017", steps)[0]
        masks = sample["gt_masks"].data.to_ndarray()
        assert (masks.sum((1, 2)) > 0).tolist() == (~sample["gt_is_novel"].data).tolist()


def test_a_whole_jpeg_with_an_odd_end_is_accepted(nonvoc2voc, generated_root, tmp_path):
    content = json.loads((nonvoc2voc / "train.json").read_text())
    name = content["images"][0]["file_name"]
    jpeg = cv2.imencode(".jpg", cv2.imread(str(generated_root / "train2017" / name)))[1].tobytes()
    content["images"][0]["file_name"] = "image.jpg"
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "image.jpg").write_bytes(jpeg + b"\0" * 1000)
    assert build(tmp_path, tmp_path)[0]["img"].data.shape == (3, 128, 128)


def test_inference_steps_keep_the_size_or_resize(generated_root):
    annotations = generated_root / "annotations" / "instances_val2017.json"
    for steps, shape in ((inference_steps(), (128, 128)), (inference_steps([200, 150], 32), (160, 160))):
        dataset = build_dataset(
            dict(
                label_set=COCO_SET,
                type="PackedCocoDataset",
                ann_file=str(annotations),
                img_prefix=str(generated_root / "val2017"),
                pipeline=steps,
                test_mode=True,
            )
        )
        sample = dataset[0]
        assert sample["img"][0].shape == (3, *shape)
        meta = sample["img_metas"][0].data
        assert meta["scale_factor"].tolist() == pytest.approx([meta["img_shape"][0] / 128] * 4)
        assert not meta["flip"]
