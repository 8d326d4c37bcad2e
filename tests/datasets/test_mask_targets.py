"""Mask targets from bitmaps and from polygons: against exact references, for every kind of annotation."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from pipeline.methods.contrastmask import oracle
from pipeline.tasks.instances.packed_coco import NO_MASK, LoadPartialAnnotations, PartialCocoDataset, rectangles
from pipeline.tasks.instances.split import split
from pipeline.tasks.instances.steps import train_pipeline

from .conftest import COCO_SET, NONVOC2VOC
from .test_oracle import complete  # noqa: F401  (a fixture)

from mmdet.core import BitmapMasks, PolygonMasks  # isort: skip  needs pipeline.compat, which partial imports

CELLS = 28


def polygon_masks(*annotations, size=(100, 120)):
    loader = LoadPartialAnnotations(with_mask=True, poly2mask=False)
    return PolygonMasks([loader.process_polygons(annotation) for annotation in annotations], *size)


def crops(masks, *boxes):
    boxes = np.array(boxes, np.float32)
    return masks.crop_and_resize(boxes, (CELLS, CELLS), np.arange(len(boxes)), device="cpu").to_ndarray().astype(bool)


def encoded(mask, kind):
    """A mask as COCO writes it: counts as a list, as text, or as bytes."""
    compressed = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    if kind == "bytes":
        return compressed
    if kind == "text":
        return {"size": list(mask.shape), "counts": compressed["counts"].decode()}
    flat = mask.ravel(order="F").astype(np.int8)
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": counts if not flat[0] else [0, *counts]}


def ring(size=(100, 120)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    radius = ((rows - 48) / 30) ** 2 + ((columns - 61) / 40) ** 2
    return (radius < 1) & (radius > 0.3)


def test_a_polygon_is_drawn_at_the_size_of_the_roi():
    """A triangle: the cells of a crop are those whose centre is inside, but for cells that its outline runs through."""
    triangle = np.array([[10.3, 12.1], [71.7, 20.4], [30.2, 85.9]])
    box = np.array([5.0, 10.0, 75.5, 90.25])
    got = crops(polygon_masks([triangle.ravel().tolist()]), box)[0]
    corners = (triangle - box[:2]) / (box[2:] - box[:2]) * CELLS
    centres = np.stack(np.meshgrid(np.arange(CELLS) + 0.5, np.arange(CELLS) + 0.5), axis=-1)
    edges = np.roll(corners, -1, axis=0) - corners
    offsets = centres[:, :, None] - corners
    distance = (edges[:, 0] * offsets[..., 1] - edges[:, 1] * offsets[..., 0]) / np.linalg.norm(edges, axis=1)
    inside = distance.min(-1)
    certain = np.abs(inside) > 0.75
    np.testing.assert_array_equal(got[certain], inside[certain] > 0)
    assert got.any() and not got.all() and certain.mean() > 0.8


def test_both_formats_agree_up_to_the_outline_and_are_not_the_same():
    outline = [[12.5, 20.2, 80.1, 15.7, 95.3, 60.8, 50.4, 88.8, 15.6, 70.2]]
    loader = LoadPartialAnnotations(with_mask=True)
    bitmap = BitmapMasks([loader._poly2mask(outline, 100, 120)], 100, 120)
    box = [10.2, 14.1, 97.9, 90.3]
    from_bitmap, from_polygon = crops(bitmap, box)[0], crops(polygon_masks(outline), box)[0]
    overlap = (from_bitmap & from_polygon).sum() / (from_bitmap | from_polygon).sum()
    assert 0.85 < overlap < 1


@pytest.mark.parametrize("kind", ["list", "text", "bytes"])
def test_run_length_encodings_are_cropped_like_their_bitmap(kind):
    mask = ring()
    masks, bitmap = polygon_masks(encoded(mask, kind)), BitmapMasks([mask.astype(np.uint8)], 100, 120)
    whole = [30, 20, 30 + CELLS, 20 + CELLS]  # a cell is a pixel: no rounding at all
    np.testing.assert_array_equal(crops(masks, whole)[0], mask[20 : 20 + CELLS, 30 : 30 + CELLS])
    for box in ([15.0, 12.0, 105.0, 82.0], [40.3, 22.2, 120, 55.5]):
        got, expected = crops(masks, box)[0], crops(bitmap, box)[0]
        assert (got & expected).sum() / (got | expected).sum() > 0.9
    flipped = crops(masks.flip(), [120 - 58, 20, 120 - 30, 48])[0]
    np.testing.assert_array_equal(flipped, mask[20:48, 30:58][:, ::-1])
    assert (
        crops(masks.rescale((1000, 200)), [60, 40, 60 + 2 * CELLS, 40 + 2 * CELLS])[0].sum() == mask[20:48, 30:58].sum()
    )


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(1, 12), width=st.integers(1, 12), share=st.floats(0, 1))
def test_rectangles_cover_exactly_the_pixels(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    covered = np.zeros((height, width), int)
    for left, top, _, _, right, bottom, _, _ in rectangles(mask):
        covered[top:bottom, left:right] += 1
    np.testing.assert_array_equal(covered, mask)


def test_whole_coordinates_are_not_cut_when_the_image_is_resized():
    masks = polygon_masks([[11, 11, 31, 11, 31, 33, 11, 33]]).resize((150, 180))
    np.testing.assert_allclose(masks.masks[0][0], np.array([11, 11, 31, 11, 31, 33, 11, 33]) * 1.5)


def test_objects_without_a_usable_polygon_have_an_empty_mask():
    masks = polygon_masks([], [[1.0, 2.0, 3.0, 4.0]], NO_MASK, encoded(np.zeros((100, 120), bool), "list"))
    assert not crops(masks, *[[0, 0, 50, 50]] * 4).any()


@pytest.mark.parametrize("scales", [None, [[300, 150], [300, 200]]], ids=["as drawn", "resized"])
def test_samples_of_a_file_with_every_kind_of_annotation(edited, generated_root, tmp_path, scales):
    """Polygons, run-length encodings, crowds and objects without a mask give the flags and masks of the bitmaps."""

    def vary(content):
        by_image = {}
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        loader = LoadPartialAnnotations(with_mask=True)
        for image, annotations in by_image.items():
            for number, annotation in enumerate(annotations):
                bitmap = loader._poly2mask(annotation["segmentation"], 128, 128)
                if image == 1:
                    annotation |= {"iscrowd": 1, "segmentation": encoded(bitmap, "list")}
                elif number % 2:
                    annotation["segmentation"] = encoded(bitmap, "text" if image % 2 else "list")

    split(edited(vary), COCO_SET, NONVOC2VOC, tmp_path / "split")
    assert '"counts"' in (tmp_path / "split" / "train.json").read_text()
    sets = [
        PartialCocoDataset(
            label_set=COCO_SET,
            ann_file=str(tmp_path / "split" / "train.json"),
            img_prefix=str(generated_root / "train2017"),
            pipeline=train_pipeline(scales, size_divisor=32, poly2mask=poly2mask),
        )
        for poly2mask in (True, False)
    ]
    for index in range(len(sets[0])):
        bitmaps, polygons = (dataset[index, 3] for dataset in sets)
        for key in ("img", "gt_bboxes", "gt_labels", "gt_is_novel"):
            assert torch.equal(bitmaps[key].data, polygons[key].data)
        expected, got = (sample["gt_masks"].data.to_ndarray().astype(bool) for sample in (bitmaps, polygons))
        assert got.shape == expected.shape or len(got) == len(expected) == 0
        for one, other, novel in zip(expected, got, bitmaps["gt_is_novel"].data, strict=True):
            assert not other.any() if novel else (one & other).sum() / (one | other).sum() > 0.85


@pytest.mark.parametrize("poly2mask", [True, False])
def test_the_prior_of_the_oracle_has_the_format_of_the_masks(nonvoc2voc, generated_root, complete, poly2mask):  # noqa: F811
    steps = oracle.with_prior_masks(train_pipeline(poly2mask=poly2mask), "toy")
    dataset = PartialCocoDataset(
        label_set=COCO_SET,
        ann_file=str(nonvoc2voc / "train.json"),
        img_prefix=str(generated_root / "train2017"),
        pipeline=steps,
    )
    for index in range(4):
        sample = dataset[index, 5]
        masks, priors = sample["gt_masks"].data, sample["gt_prior_masks"].data
        assert type(masks) is type(priors) is (BitmapMasks if poly2mask else PolygonMasks)
        novel = sample["gt_is_novel"].data.numpy()
        np.testing.assert_array_equal(priors.to_ndarray()[~novel], masks.to_ndarray()[~novel])
        assert novel.any() and all(mask.any() for mask in priors.to_ndarray()[novel])


def test_the_split_keeps_encodings_as_they_are(edited, tmp_path):
    encoding = encoded(ring((128, 128)), "text")

    def change(content):
        content["annotations"][0]["segmentation"] = encoding
        content["annotations"][0]["category_id"] = 24  # zebra

    split(edited(change), COCO_SET, NONVOC2VOC, tmp_path / "split")
    first = json.loads((tmp_path / "split" / "train.json").read_text())["annotations"][0]
    assert first["segmentation"] == encoding
