import functools
import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as rle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from pipeline.datasets.generated import bodies, geometry, painting, scenes, version1, version2
from pipeline.datasets.generated.looks import TEXTURES
from pipeline.declaration import experiments

from .conftest import COCO_SET, NONVOC2VOC, SPEC, SUBSETS, VOC

VERSIONS = {1: version1, 2: version2}
CASTS = {version: scenes.cast(COCO_SET, version=version) for version in VERSIONS}
NEWEST = {**SPEC, "version": 2}
OBJECTS = {1: (4, 6), 2: version2.OBJECTS}
OBJECT_SIZE = {1: version1.OBJECT_SIZE, 2: version2.OBJECT_SIZE}
SMALL, LARGE = 32**2, 96**2  # COCO's bounds of areas
CONVEX = {"bottle", "cup", "truck"}  # nearly

versions = pytest.mark.parametrize("version", VERSIONS)
seeds = st.integers(0, 2**32 - 1)


def decode(polygons, size):
    return rle.decode(rle.merge(rle.frPyObjects(polygons, size, size)))


def arranged(version, rng, size):
    """[(class name, Figure), ...] of an image."""
    return [found[:2] for found in VERSIONS[version].arrange(rng, size, CASTS[version])]


def saturation(image):
    return cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[..., 1]


@versions
@settings(max_examples=25, deadline=None)
@given(seed=seeds, size=st.sampled_from([64, 128, 200]))
def test_objects_of_an_image(version, seed, size):
    objects = arranged(version, np.random.default_rng(seed), size)
    figures = [figure for _, figure in objects]
    fewest, most = OBJECTS[version]
    assert fewest <= len(objects) <= most
    assert len({name in VOC for name, _ in objects}) == 2, "base and novel objects in every image"
    assert sum(figure.visible.astype(int) for figure in figures).max() == 1, "no pixel belongs to two objects"
    for position, figure in enumerate(figures):
        x, y, width, height = figure.box
        rows, columns = np.nonzero(figure.visible)
        assert (columns.min(), rows.min()) == (x, y)
        assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)
        assert np.array_equal(np.unique(figure.mask), (0, 1)) and np.all(figure.visible <= figure.mask)
        assert figure.visible.sum() >= (1 - geometry.MAX_COVERED) * figure.mask.sum()
        assert max(geometry.bounding_box(figure.mask)[2:]) <= OBJECT_SIZE[version][1] * size / 128 + 2
        assert all(geometry.box_iou(figure.box, other.box) <= geometry.MAX_BOX_IOU for other in figures[:position])
        np.testing.assert_array_equal(decode(geometry.outlines(figure.visible), size), figure.visible)


@settings(max_examples=200, deadline=None)
@given(seed=seeds, density=st.floats(0.2, 0.95))
def test_polygons_rasterise_to_the_mask_they_were_traced_from(seed, density):
    """For any hole-free mask: diagonal contacts, single pixels, parts at the border."""
    mask = (np.random.default_rng(seed).random((9, 11)) < density).astype(np.uint8)
    mask[0, 0] = 1
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(mask, contours, -1, 1, cv2.FILLED)
    polygons = geometry.outlines(mask)
    np.testing.assert_array_equal(rle.decode(rle.merge(rle.frPyObjects(polygons, 9, 11))), mask)
    assert all(len(polygon) >= 8 and len(polygon) % 2 == 0 for polygon in polygons)


def test_a_mask_is_whole_unless_it_has_a_hole():
    ring = np.ones((5, 6), np.uint8)
    assert geometry.whole(ring)
    ring[2, 2] = 0
    assert not geometry.whole(ring)
    ring[2, :2] = 0  # a way out
    assert geometry.whole(ring)


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


@versions
def test_an_image_does_not_depend_on_how_many_are_drawn_nor_by_whom(version, tmp_path, monkeypatch):
    """Alone and, where many are asked for, in several processes."""
    few = {**SPEC, "version": version, "train_images": 3, "val_images": 1}
    many = {**few, "train_images": 5, "val_images": 2}
    roots = {name: tmp_path / name for name in ("few", "again", "many")}
    digests = [scenes.generate(few, COCO_SET, SUBSETS, roots[n], roots[n] / "annotations") for n in ("few", "again")]
    assert digests[0] == digests[1], "same spec, same bytes"
    monkeypatch.setattr(scenes, "ALONE", 1)
    scenes.generate(many, COCO_SET, SUBSETS, roots["many"], roots["many"] / "annotations")
    for subset, count in (("train2017", 3), ("val2017", 1)):
        files = sorted((roots["few"] / subset).iterdir())
        assert len(files) == count
        for file in files:
            assert file.read_bytes() == (roots["many"] / subset / file.name).read_bytes()
        shown, more = (
            json.loads((roots[name] / "annotations" / f"instances_{subset}.json").read_text())
            for name in ("few", "many")
        )
        ids = [annotation["id"] for annotation in more["annotations"]]
        assert len(set(ids)) == len(ids)
        assert shown["images"] == more["images"][:count]
        assert shown["annotations"] == more["annotations"][: len(shown["annotations"])]


def test_version_1_is_what_it_was(tmp_path):
    """Against what was drawn before there was a second version.

    Objects must be the same to the digit. Of an image, processors round a few values differently.
    """
    spec = {"version": 1, "seed": 7, "train_images": 4, "val_images": 2, "image_size": 64}
    scenes.generate(spec, COCO_SET, SUBSETS, tmp_path, tmp_path / "annotations")
    digests = []
    for subset in SUBSETS:
        content = json.loads((tmp_path / "annotations" / f"instances_{subset}.json").read_text())
        objects = json.dumps([content["images"], content["annotations"]], sort_keys=True)
        digests.append(hashlib.sha256(objects.encode()).hexdigest()[:16])
    assert digests == ["09282e440891b39c", "d4385f80fcd45f15"]
    names = ("train2017/000000000001", "train2017/000000000002", "val2017/000001000001")
    pinned = np.load(Path(__file__).with_name("version1.npz"))["images"]
    for name, expected in zip(names, pinned, strict=True):
        image = cv2.imread(str(tmp_path / f"{name}.png")).astype(int)
        assert np.abs(image - expected).max() <= 1 and np.mean(image != expected) < 0.01


@versions
def test_seed_and_subset_change_the_image(version):
    spec = {**SPEC, "version": version}
    images = [
        VERSIONS[version].draw({**spec, "seed": s}, CASTS[version], part, 0)[0] for s in (0, 1) for part in (0, 1)
    ]
    assert len({image.tobytes() for image in images}) == 4


@functools.cache
def layouts(version, count):
    """[(class name, Figure), ...] of each of so many images of 128 pixels."""
    return [arranged(version, np.random.default_rng([11, index]), 128) for index in range(count)]


@versions
def test_position_size_and_depth_do_not_tell_base_from_novel(version):
    values = defaultdict(list)
    for objects in layouts(version, 300):
        for depth, (name, figure) in enumerate(objects):
            x, y, width, height = geometry.bounding_box(figure.mask)
            values[name in VOC].append((x + width / 2, y + height / 2, max(width, height), depth))
    base, novel = np.array(values[False]), np.array(values[True])
    error = np.sqrt(base.var(axis=0) / len(base) + novel.var(axis=0) / len(novel))
    assert np.all(np.abs(base.mean(axis=0) - novel.mean(axis=0)) < 4 * error)


@pytest.fixture(scope="module")
def drawn():
    """[(image, objects), ...] of some images of version 2."""
    return [version2.draw(NEWEST, CASTS[2], 0, index) for index in range(30)]


def test_objects_are_more_saturated_than_their_surroundings(drawn):
    """The figure cue that novel objects share with base ones."""
    for images in ([version1.draw(SPEC, CASTS[1], 0, index) for index in range(20)], drawn):
        values = {"object": [], "ground": []}
        for image, objects in images:
            covered = sum(figure.visible for _, figure in objects) > 0
            values["object"].append(saturation(image)[covered].mean())
            values["ground"].append(saturation(image)[~covered].mean())
        assert np.mean(values["object"]) > 1.5 * np.mean(values["ground"])


def test_version_2_uses_many_categories_of_both_sides_of_the_real_split():
    names = set(bodies.CATEGORIES)
    base, novel = (names & set(COCO_SET.category_names(NONVOC2VOC[side])) for side in ("base", "novel"))
    assert len(names) >= 20 and names == base | novel
    assert len(base) >= 8 and len(novel) >= 8
    used = Counter(name for objects in layouts(2, 300) for name, _ in objects)
    assert set(used) == names


def test_no_texture_and_no_hue_belongs_to_one_side():
    """Only the combination of body, texture and hue is a category's."""
    rng = np.random.default_rng(0)
    textures, hues = defaultdict(set), defaultdict(set)
    for name, category in bodies.CATEGORIES.items():
        for _ in range(60):
            texture, colours = version2.palette(rng, category)
            textures[name in VOC].add(texture)
            degrees = cv2.cvtColor(np.float32([colours]) / 255, cv2.COLOR_BGR2HSV)[0, :, 0]
            hues[name in VOC] |= set(degrees // 30 % 12)
    assert textures[False] == textures[True] == set(TEXTURES)
    assert hues[False] == hues[True] == set(range(12))
    looks = [(category.body, category.texture, category.hues) for category in bodies.CATEGORIES.values()]
    assert len(set(looks)) == len(looks)


def individuals(name, count, side=96):
    return [scenes.portrait(2, bodies.CATEGORIES[name], side, np.random.default_rng([3, k])) for k in range(count)]


def test_individuals_of_a_category_differ_in_shape_and_paint():
    for name in bodies.CATEGORIES:
        pictures = individuals(name, 8)
        assert len({(picture.min(axis=2) < 255).tobytes() for picture in pictures}) > 4, name
        hues = [cv2.cvtColor(p, cv2.COLOR_RGB2HSV)[p.min(axis=2) < 128][:, 0].mean() for p in pictures]
        assert np.ptp(hues) > 5, name


@settings(max_examples=25, deadline=None)
@given(seed=seeds, name=st.sampled_from(sorted(bodies.CATEGORIES)))
def test_a_body_is_in_one_piece_without_holes(seed, name):
    parts = [polygon for polygon, _ in bodies.CATEGORIES[name].body(np.random.default_rng(seed))]
    mask = geometry.Figure(parts, 200, 220).mask
    assert geometry.whole(mask)
    assert cv2.connectedComponents(mask)[0] == 2, "the ground and the body"


def test_bodies_are_not_convex_but_for_a_few():
    for name, category in bodies.CATEGORIES.items():
        solidity = []
        for seed in range(6):
            parts = [polygon for polygon, _ in category.body(np.random.default_rng(seed))]
            mask = geometry.Figure(parts, 200, 220).mask
            hull = cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32))
            solidity.append(mask.sum() / cv2.contourArea(hull))
        assert np.mean(solidity) < (0.96 if name in CONVEX else 0.87), (name, np.mean(solidity))


def test_small_medium_and_large_objects_occur_on_both_sides():
    """At the size that the default is drawn at, in 200 validation images."""
    scale = experiments.load().dataset("generated")["image_size"] / 128
    sizes = {False: Counter(), True: Counter()}
    for objects in layouts(2, 200):
        for name, figure in objects:
            area = scale**2 * figure.visible.sum()
            sizes[name in VOC]["small" if area < SMALL else "large" if area > LARGE else "medium"] += 1
    for counted in sizes.values():
        assert counted["small"] >= 5 and counted["medium"] >= 10 and counted["large"] >= 10, sizes


def test_some_objects_hide_parts_of_others():
    hidden = [1 - f.visible.sum() / f.mask.sum() for objects in layouts(2, 200) for _, f in objects]
    assert 0.02 < np.mean(np.array(hidden) > 0.05) < 0.5


def test_clutter_resembles_objects(drawn):
    """The saturations of the two overlap, but objects have more of it in the mean."""
    clutter = []
    for index in range(60):
        canvas = np.full((128, 128, 3), -1, np.float32)
        rng = np.random.default_rng(index)
        ranges = version2.CLUTTER_SIZE, version2.CLUTTER_CONTRAST, version2.CLUTTER_SATURATION
        painting.distractor(rng, canvas, *ranges)
        clutter.append(saturation(canvas[canvas.min(axis=2) >= 0][None].clip(0, 255).astype(np.uint8)).ravel())
    objects = [saturation(image)[figure.visible > 0] for image, found in drawn for _, figure in found]
    assert np.mean([values.mean() for values in objects]) > np.mean([values.mean() for values in clutter])
    objects, clutter = np.concatenate(objects), np.concatenate(clutter)
    assert np.quantile(clutter, 0.99) > np.quantile(objects, 0.01)


@versions
def test_a_portrait_shows_one_object_on_white_and_a_typical_one_is_the_same_each_time(version):
    for look in scenes.VERSIONS[version].looks.values():
        picture = scenes.portrait(version, look, 64)
        assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
        assert np.all(picture[[0, -1]] == 255) and np.all(picture[:, [0, -1]] == 255)
        assert 0.05 < np.mean(picture.min(axis=2) < 250) < 0.9
        np.testing.assert_array_equal(picture, scenes.portrait(version, look, 64))
