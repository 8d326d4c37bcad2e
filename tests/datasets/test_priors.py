"""Masks, points and scribbles of novel objects as priors: where they lie, how they move with the image, what enters."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.artifacts import paths
from pipeline.declaration import config, experiments, recipe
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import oracle, oracle_steps, prior_points, prior_steps, priors
from pipeline.tasks.instances.steps import train_pipeline

from .test_oracle import STEPS, complete, samples  # noqa: F401  (`complete` is a fixture)

RUN = "contrastmask_r50_1x_nonvoc2voc"
FIELDS = {"gt_prior_masks", "gt_prior_given", "gt_prior_points"}


def disc(x, y, radius, size=(60, 90)):
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def knobs(**changed):
    declared = experiments.load()
    run = declared.run(RUN)
    return config.load_knobs(replace(run, overrides={"seeds": [0], **changed}), declared.profile("generated"))


def with_priors(steps, **changed):
    return priors.steps(steps, knobs(**changed), "toy")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that `prior_file` names files of."""
    monkeypatch.setattr(paths, "priors", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def write(folder, train_annotations):
    """Give a function that writes the training annotations, each changed by a function, as a file of priors."""

    def write(change=lambda annotation: annotation, name="mine.json"):
        content = json.loads(train_annotations.read_text())
        content["annotations"] = [change(dict(annotation)) for annotation in content["annotations"]]
        (folder / name).write_text(json.dumps(content))
        return name

    return write


# The rules


def test_a_point_is_the_pole_of_inaccessibility():
    mask = disc(30, 20, 15) | disc(60, 40, 8)
    np.testing.assert_allclose(prior_points.point(mask), [[30, 20]], atol=1)
    assert prior_points.point(np.zeros((5, 5), bool)).shape == (0, 2)
    np.testing.assert_array_equal(prior_points.point(np.ones((5, 9), bool))[0, 1], 2.5)  # the border is an outline


@pytest.mark.parametrize("kind", prior_points.RULES)
@pytest.mark.parametrize(
    "mask",
    [
        disc(30, 20, 15),
        disc(30, 20, 15) & ~disc(30, 20, 9),
        np.eye(60, 90, dtype=bool),
        disc(0, 0, 20),
        disc(45, 30, 2),
    ],
    ids=["disc", "ring", "thin", "cut", "small"],
)
def test_marks_lie_on_their_side_within_the_box(mask, kind):
    rows, columns = np.nonzero(mask)
    box = [columns.min() + 0.3, rows.min(), columns.max() + 1, rows.max() + 0.8]
    sides = [prior_points.walk(line, box) for line in prior_points.marks(mask, box, kind)]
    for points, wanted in zip(sides, (True, False), strict=True):
        assert len(points) >= 1 and (kind == "scribbles" or len(points) == 1)
        x, y = np.floor(points).astype(int).T
        assert (mask[y, x] == wanted).all()
        assert (x >= columns.min()).all() and (x <= columns.max()).all()
        assert (y >= rows.min()).all() and (y <= rows.max()).all()


def test_a_scribble_runs_along_a_long_object():
    rows, columns = np.mgrid[:60, :90] + 0.5
    mask = ((columns - 45) / 40) ** 2 + ((rows - 30) / 6) ** 2 < 1
    (left, _), (right, _) = sorted(prior_points.scribble(mask).tolist())
    assert right - left > 65


def test_an_object_that_fills_its_box_has_no_background():
    mask = np.ones((20, 30), bool)
    foreground, background = prior_points.marks(mask, [3, 4, 12, 19], "scribbles")
    assert len(foreground) and not len(background)


def test_a_walk_keeps_corners_and_leaves_no_gap():
    line = np.array([[0, 0], [10, 0], [10, 3.0]])
    points = prior_points.walk(line, [0, 0, 32, 5])
    assert all((corner == points).all(1).any() for corner in line)
    assert np.hypot(*np.diff(points, axis=0).T).max() <= 1
    assert len(prior_points.walk(line[:1], [0, 0, 32, 5])) == 1


# Samples


@pytest.mark.parametrize("kind", priors.DRAWN)
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_points_move_with_the_image_and_change_nothing_else(nonvoc2voc, generated_root, complete, steps, kind):  # noqa: F811
    images = generated_root / "train2017"
    plain = samples(nonvoc2voc, images, oracle.with_prior_masks(steps, "toy"))
    marked = samples(nonvoc2voc, images, with_priors(steps, prior=kind))
    inside = outside = 0
    for before, after in zip(plain, marked, strict=True):
        assert set(after) == set(before) - {"gt_prior_masks"} | {"gt_prior_points"}
        assert_same(before, after)
        points, novel = after["gt_prior_points"].data.numpy(), before["gt_is_novel"].data.numpy()
        assert points.dtype == np.float32 and points.shape[:2] == (len(novel), 2) and points.shape[3] == 2
        assert np.isnan(points[~novel]).all() and (~np.isnan(points[novel][:, 0]).all((1, 2))).all()
        masks = before["gt_prior_masks"].data.to_ndarray()
        for mask, sides in zip(masks[novel], points[novel], strict=True):
            for side, wanted in zip(sides, (1, 0), strict=True):
                x, y = np.floor(side[~np.isnan(side[:, 0])]).astype(int).T
                hit = mask[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)] == wanted
                inside, outside = inside + hit.sum(), outside + (~hit).sum()
    assert inside > 20 and outside <= 0.02 * inside  # of masks that were resampled


def assert_same(one, other, but=FIELDS):
    for key in set(one) - but - {"img_metas"}:
        first, second = one[key].data, other[key].data
        if isinstance(first, torch.Tensor):
            assert torch.equal(first, second), key
        else:
            np.testing.assert_array_equal(first.to_ndarray(), second.to_ndarray(), key)


def test_masks_of_a_file_join_for_the_novel_objects_that_it_has(nonvoc2voc, generated_root, complete, write):  # noqa: F811
    """The true masks give what the oracle has; an object without a mask in the file is marked so."""
    steps, images = STEPS["resized"], generated_root / "train2017"
    true = samples(nonvoc2voc, images, oracle.with_prior_masks(steps, "toy"))
    some = write(lambda one: one | {"segmentation": one["segmentation"] if one["id"] % 2 else []})
    taken = 0
    for before, after in zip(
        true, samples(nonvoc2voc, images, with_priors(steps, prior="file", prior_file=some)), strict=True
    ):
        assert_same(before, after)
        given, novel = after["gt_prior_given"].data.numpy(), before["gt_is_novel"].data.numpy()
        masks, expected = after["gt_prior_masks"].data.to_ndarray(), before["gt_prior_masks"].data.to_ndarray()
        np.testing.assert_array_equal(masks[given], expected[given])
        assert not masks[~given].any() and not given[~novel].any()
        taken += given.sum()
        assert after["gt_prior_masks"].cpu_only
    assert 0 < taken < sum(sample["gt_is_novel"].data.sum() for sample in true)


@pytest.mark.parametrize("kind", priors.DRAWN)
def test_strokes_of_a_file_are_those_that_are_drawn(nonvoc2voc, generated_root, complete, write, kind):  # noqa: F811
    loader = oracle_steps.LoadPriorMasks("toy").loader
    images, shown = generated_root / "train2017", oracle_steps.complete_annotations("toy").imgs

    def stroke(annotation):
        x, y, width, height = annotation["bbox"]
        image = shown[annotation["image_id"]]
        mask = loader._poly2mask(annotation.pop("segmentation"), image["height"], image["width"])
        lines = prior_points.marks(mask, np.float32([x, y, x + width, y + height]), kind)
        strokes = ([line.ravel().tolist()] if len(line) else [] for line in lines)
        return annotation | dict(zip(("foreground", "background"), strokes, strict=True))

    drawn = samples(nonvoc2voc, images, with_priors(STEPS["resized"], prior=kind))
    read = samples(nonvoc2voc, images, with_priors(STEPS["resized"], prior=kind, prior_file=write(stroke)))
    for one, other in zip(drawn, read, strict=True):
        np.testing.assert_array_equal(one["gt_prior_points"].data, other["gt_prior_points"].data)


# What enters


def test_masks_that_have_the_same_points_give_the_same_samples(nonvoc2voc, generated_root, complete):  # noqa: F811
    """Pixels of true masks are turned over, as many as leave the points where they are: no bit of a sample changes."""
    images, steps = generated_root / "train2017", with_priors(STEPS["resized"], prior="points")
    before = samples(nonvoc2voc, images, steps)
    loader, rng, changed = oracle_steps.LoadPriorMasks("toy").loader, np.random.default_rng(0), 0
    true = oracle_steps.complete_annotations("toy")
    for image, annotations in true.imgToAnns.items():
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            box = np.float32([x, y, x + width, y + height])
            mask = loader._poly2mask(annotation["segmentation"], true.imgs[image]["height"], true.imgs[image]["width"])
            wanted = prior_points.marks(mask, box, "points")
            for _ in range(20):
                other = mask.copy()
                row, column = int(rng.uniform(y, y + height)), int(rng.uniform(x, x + width))
                other[row : row + 3, column : column + 3] ^= 1
                if all(map(np.array_equal, prior_points.marks(other, box, "points"), wanted)):
                    mask, changed = other, changed + 1
            annotation["segmentation"] = encode(mask)
    assert changed > 100
    for one, other in zip(before, samples(nonvoc2voc, images, steps), strict=True):
        assert_same(one, other)
        np.testing.assert_array_equal(one["gt_prior_points"].data, other["gt_prior_points"].data)


def encode(mask):
    from pycocotools import mask as coco_masks

    return coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_with_the_cam_or_points_of_a_file_no_hidden_mask_is_read(nonvoc2voc, generated_root, monkeypatch, write):
    def refuse(dataset):
        raise AssertionError(f"the complete annotations of {dataset} were read")

    monkeypatch.setattr(oracle_steps, "complete_annotations", refuse)
    monkeypatch.setattr(prior_steps, "complete_annotations", refuse)
    file = write(lambda one: one | {"segmentation": [], "foreground": [one["bbox"][:2]]})
    for chosen in ({}, {"prior": "points", "prior_file": file}, {"prior": "file", "prior_file": file}):
        assert samples(nonvoc2voc, generated_root / "train2017", with_priors(STEPS["as drawn"], **chosen))
    with pytest.raises(AssertionError, match="were read"):
        samples(nonvoc2voc, generated_root / "train2017", with_priors(STEPS["as drawn"], prior="points"))


def test_the_cam_leaves_the_steps_as_they_are_and_the_oracle_has_one_name():
    given = train_pipeline()
    assert with_priors(given) == given
    assert with_priors(given, prior="oracle") == with_priors(given, supervision="oracle")
    identities = {
        name: recipe.identity(recipe.of_training(resolved(**changed)))
        for name, changed in {
            "cam": {},
            "a file that nothing reads": {"prior_file": "none.json"},
            "a radius that nothing reads": {"prior_radius": 0.3},
            "oracle": {"prior": "oracle"},
            "supervision": {"supervision": "oracle"},
            "both": {"supervision": "oracle", "prior": "oracle"},
        }.items()
    }
    assert identities["oracle"] == identities["supervision"] == identities["both"]
    assert identities["cam"] == identities["a file that nothing reads"] == identities["a radius that nothing reads"]
    assert len(set(identities.values())) == 2


def resolved(**overrides):
    declared = experiments.load()
    run = replace(declared.run(RUN), overrides=overrides)
    return config.resolve(RUN, "generated", 0, replace(declared, runs=declared.runs | {RUN: run}))


def test_the_content_of_a_file_makes_another_training(write):
    def identity(**changed):
        return recipe.identity(recipe.of_training(resolved(**changed)))

    chosen = {"prior": "file", "prior_file": write()}
    before = identity(**chosen)
    assert identity(**chosen) == before
    write(lambda one: one | {"segmentation": []})
    after = identity(**chosen)
    assert len({before, after, identity(), identity(**chosen | {"prior": "points"})}) == 4


# What is refused


@pytest.mark.parametrize("prior", ["oracle", "file", "points", "scribbles"])
@pytest.mark.parametrize("supervision", ["base", "novel", "oracle"])
def test_a_prior_is_of_novel_rois_beside_base_ones(prior, supervision):
    if (prior, supervision) == ("oracle", "oracle"):
        return
    with pytest.raises(ExperimentError, match=f"knob prior is '{prior}'.*valid with it: supervision: all"):
        with_priors(train_pipeline(), prior=prior, supervision=supervision)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "knob prior is 'file' and prior_file 'none'; let prior_file name a file in priors/"),
        ("other.json", r"knob prior_file is 'other.json'; valid: the name of a file in .*, which holds mine.json"),
        ("../mine.json", r"knob prior_file is '../mine.json'; valid: the name of a file"),
    ],
)
def test_a_file_that_is_not_in_the_folder_is_named(write, folder, name, message):
    write()
    (folder.parent / "mine.json").touch()
    with pytest.raises(ExperimentError, match=message):
        with_priors(train_pipeline(), prior="file", prior_file=name)


def drop_images(content):
    content["images"][0]["file_name"] = "other.png"


def move_boxes(content):
    for annotation in content["annotations"]:
        annotation["bbox"][0] += 0.5


def odd(content):
    content["annotations"][0]["foreground"] = [[1.0, 2.0, 3.0]]


def strange_image(content):
    content["annotations"][2]["image_id"] = 99


def text(content):
    content["annotations"][1]["segmentation"] = "all of it"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            drop_images,
            r"mine.json: images does not list \S+, a training image; make the file of the training annotations",
        ),
        (move_boxes, r"mine.json: image \S+: no bbox is one of the training annotations; keep their boxes"),
        (odd, r"mine.json: annotations\[0\].foreground\[0\]: has 3 numbers; valid: x, y, x, y"),
        (text, r"mine.json: annotations\[1\].segmentation.*: "),
        (lambda content: content.pop("images"), "mine.json: images: is missing"),
        (
            strange_image,
            r"mine.json: annotations\[2\].image_id: is 99, which images does not list; correct one of them",
        ),
    ],
)
@pytest.mark.parametrize("prior", ["file", "points"])
def test_a_file_that_does_not_fit_is_one_line_and_another_is_taken(
    nonvoc2voc, generated_root, folder, write, prior, edit, message
):
    write()
    content = json.loads((folder / "mine.json").read_text())
    edit(content)
    (folder / "mine.json").write_text(json.dumps(content))
    with pytest.raises(ExperimentError, match=message) as caught:
        samples(
            nonvoc2voc,
            generated_root / "train2017",
            with_priors(STEPS["as drawn"], prior=prior, prior_file="mine.json"),
        )
    assert "\n" not in str(caught.value)
    steps = with_priors(STEPS["as drawn"], prior=prior, prior_file=write())
    assert samples(nonvoc2voc, generated_root / "train2017", steps)


def test_a_mask_of_another_size_is_named(nonvoc2voc, generated_root, write):
    file = write(lambda one: one | {"segmentation": {"size": [64, 64], "counts": [4096]}})
    with pytest.raises(
        ExperimentError, match=r"has the size \[64, 64\], the image \[128, 128\] \(height, width\); make"
    ):
        samples(nonvoc2voc, generated_root / "train2017", with_priors(STEPS["as drawn"], prior="file", prior_file=file))


def test_a_file_that_changes_or_is_no_json_is_named(nonvoc2voc, generated_root, folder, write):
    file = write(lambda one: one | {"note": "of this test alone"})
    steps = with_priors(STEPS["as drawn"], prior="file", prior_file=file)
    write(lambda one: one | {"segmentation": []})
    with pytest.raises(ExperimentError, match=r"mine.json: has changed since the training was declared; run it again"):
        samples(nonvoc2voc, generated_root / "train2017", steps)
    (folder / "mine.json").write_text("{")
    digest = hashlib.sha256(b"{").hexdigest()
    steps = with_priors(STEPS["as drawn"], prior="file", prior_file="mine.json")
    assert any(step.get("sha256") == digest for step in steps)
    with pytest.raises(ExperimentError, match=r"mine.json: not valid JSON"):
        samples(nonvoc2voc, generated_root / "train2017", steps)


def test_what_points_cannot_be_drawn_from_is_named(nonvoc2voc, generated_root, complete):  # noqa: F811
    steps = with_priors(STEPS["as drawn"], prior="points")
    for annotations in oracle_steps.complete_annotations("toy").imgToAnns.values():
        for annotation in annotations:
            annotation.pop("segmentation", None)
    with pytest.raises(ExperimentError, match="has no mask, which prior: points is drawn from; let `prior_file` name"):
        samples(nonvoc2voc, generated_root / "train2017", steps)
    for annotations in oracle_steps.complete_annotations("toy").imgToAnns.values():
        annotations.clear()
    with pytest.raises(ExperimentError, match="a box of the split is not in .*run `dvc repro split`"):
        samples(nonvoc2voc, generated_root / "train2017", steps)
