import json
from collections import Counter, defaultdict

import cv2
import numpy as np
import pycocotools.mask as rle
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from pipeline.datasets.generated import scenes

from .conftest import COCO_SET, SPEC, SUBSETS, VOC

CAST = scenes.cast(COCO_SET)

seeds = st.integers(0, 2**32 - 1)


def decode(polygons, size):
    return rle.decode(rle.merge(rle.frPyObjects(polygons, size, size)))


@settings(max_examples=25, deadline=None)
@given(seed=seeds, size=st.sampled_from([64, 128, 200]))
def test_objects_of_an_image(seed, size):
    objects = scenes.arrange(np.random.default_rng(seed), size, CAST)
    names = [name for name, _ in objects]
    figures = [figure for _, figure in objects]
    assert 4 <= len(objects) <= 6
    assert len({name in VOC for name in names}) == 2, "base and novel objects in every image"
    assert sum(figure.visible.astype(int) for figure in figures).max() == 1, "no pixel belongs to two objects"
    for position, figure in enumerate(figures):
        x, y, width, height = figure.box
        rows, columns = np.nonzero(figure.visible)
        assert (columns.min(), rows.min()) == (x, y)
        assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)
        assert figure.visible.sum() >= 0.6 * figure.mask.sum()
        assert max(scenes.bounding_box(figure.mask)[2:]) <= 64 * size / 128 + 2
        assert all(scenes.box_iou(figure.box, other.box) <= 0.3 for other in figures[:position])
        np.testing.assert_array_equal(decode(scenes.outlines(figure.visible), size), figure.visible)


@settings(max_examples=200, deadline=None)
@given(seed=seeds, density=st.floats(0.2, 0.95))
def test_polygons_rasterise_to_the_mask_they_were_traced_from(seed, density):
    """For any hole-free mask: diagonal contacts, single pixels, parts at the border."""
    mask = (np.random.default_rng(seed).random((9, 11)) < density).astype(np.uint8)
    mask[0, 0] = 1
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(mask, contours, -1, 1, cv2.FILLED)
    polygons = scenes.outlines(mask)
    np.testing.assert_array_equal(rle.decode(rle.merge(rle.frPyObjects(polygons, 9, 11))), mask)
    assert all(len(polygon) >= 8 and len(polygon) % 2 == 0 for polygon in polygons)


def test_annotations_describe_the_visible_mask(generated_root):
    coco = COCO(str(generated_root / "annotations" / "instances_train2017.json"))
    fill = []
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        x, y, width, height = annotation["bbox"]
        assert mask.sum() == annotation["area"] == mask[y : y + height, x : x + width].sum()
        assert rle.toBbox(coco.annToRLE(annotation)).tolist() == annotation["bbox"]
        assert annotation["iscrowd"] == 0
        fill.append(annotation["area"] / (width * height))
    assert np.mean(fill) < 0.6, "a box alone must be a bad mask"


def test_both_groups_in_both_subsets_and_all_categories_listed(generated_root):
    for subset, count in (("train2017", 12), ("val2017", 4)):
        content = json.loads((generated_root / "annotations" / f"instances_{subset}.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        used = Counter(names[annotation["category_id"]] in VOC for annotation in content["annotations"])
        assert len(names) == 80
        assert used[True] and used[False]
        assert len(content["images"]) == count
        for image in content["images"]:
            pixels = cv2.imread(str(generated_root / subset / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3)


def test_an_image_does_not_depend_on_how_many_are_drawn(generated_root, tmp_path):
    fewer = {**SPEC, "train_images": 3, "val_images": 1}
    digest = scenes.generate(fewer, COCO_SET, SUBSETS, tmp_path, tmp_path / "annotations")
    assert digest == scenes.generate(fewer, COCO_SET, SUBSETS, tmp_path, tmp_path / "annotations"), (
        "same spec, same bytes"
    )
    for subset, count in (("train2017", 3), ("val2017", 1)):
        files = sorted((tmp_path / subset).iterdir())
        assert len(files) == count
        for file in files:
            assert file.read_bytes() == (generated_root / subset / file.name).read_bytes()
        few, many = (
            json.loads((root / "annotations" / f"instances_{subset}.json").read_text())
            for root in (tmp_path, generated_root)
        )
        assert few["images"] == many["images"][:count]
        assert few["annotations"] == many["annotations"][: len(few["annotations"])]


def test_seed_and_subset_change_the_image():
    images = [scenes.draw({**SPEC, "seed": seed}, CAST, part, 0)[0] for seed in (0, 1) for part in (0, 1)]
    assert len({image.tobytes() for image in images}) == 4


def test_position_size_and_depth_do_not_tell_base_from_novel():
    values = defaultdict(list)
    for index in range(300):
        objects = scenes.arrange(np.random.default_rng([11, index]), 128, CAST)
        for depth, (name, figure) in enumerate(objects):
            x, y, width, height = figure.box
            values[name in VOC].append((x + width / 2, y + height / 2, max(width, height), depth))
    base, novel = np.array(values[False]), np.array(values[True])
    error = np.sqrt(base.var(axis=0) / len(base) + novel.var(axis=0) / len(novel))
    assert np.all(np.abs(base.mean(axis=0) - novel.mean(axis=0)) < 4 * error)


def test_objects_are_more_saturated_than_their_surroundings():
    """The figure cue that novel objects share with base ones."""
    saturation = {"object": [], "ground": []}
    for index in range(20):
        image, objects = scenes.draw(SPEC, CAST, 0, index)
        covered = sum(figure.visible for _, figure in objects) > 0
        values = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[..., 1]
        saturation["object"].append(values[covered].mean())
        saturation["ground"].append(values[~covered].mean())
    assert np.min(saturation["object"]) > 1.5 * np.mean(saturation["ground"])
