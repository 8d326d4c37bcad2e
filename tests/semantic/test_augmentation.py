"""The steps: image and map go the same way, as the released mapper's; a sample depends on its seed alone."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.parallel import collate
from mmdet.datasets.pipelines import Compose

from pipeline.artifacts import paths
from pipeline.datasets.label_maps import drawn
from pipeline.datasets.label_maps.packs import Pack, Writer
from pipeline.declaration import experiments, subsets
from pipeline.errors import ExperimentError
from pipeline.tasks.semantic import augmentation, complete, data, steps  # noqa: F401  # registers its types
from pipeline.tasks.semantic.data import LabelMaps, training_set
from pipeline.training import data_parallel
from tests.semantic.conftest import DATASET

SIDES = st.integers(3, 40)


def scene(height, width, seed=0):
    """Results whose image has in its red channel what the map says."""
    labels = np.random.default_rng(seed).integers(0, 16, (height, width)).astype(np.uint8)
    image = np.stack([labels * 10] * 3, axis=-1)
    return {"img": image, "gt_semantic_seg": labels, "novel_labels": np.array([3]), "rng": np.random.default_rng(seed)}


@settings(deadline=None)
@given(before=st.tuples(SIDES, SIDES), after=st.tuples(SIDES, SIDES))
def test_maps_are_resized_as_torch_does(before, after):
    labels = np.random.default_rng(0).integers(0, 255, before).astype(np.uint8)
    expected = torch.nn.functional.interpolate(torch.from_numpy(labels)[None, None].double(), after, mode="nearest")
    assert (augmentation.resized_map(labels, after) == expected[0, 0].numpy()).all()


def test_the_other_rule_takes_the_pixel_in_the_middle():
    labels = np.arange(9, dtype=np.uint8).reshape(3, 3)
    assert augmentation.resized_map(labels, (1, 1), "centre") == 4 and augmentation.resized_map(labels, (1, 1)) == 0


@settings(deadline=None)
@given(height=SIDES, width=SIDES, crop=st.tuples(SIDES, SIDES), seed=st.integers(0, 99))
def test_image_and_map_go_the_same_way(height, width, crop, seed):
    found = scene(height, width, seed)
    for step in (
        augmentation.CropScene(crop),
        augmentation.MirrorScene(),
        augmentation.PadScene(list(crop), 1, augmentation_value := 128),
    ):
        found = step(found)
    shape = found["img_shape"][:2]
    assert shape == (min(height, crop[0]), min(width, crop[1]))
    assert found["img"].shape[:2] == found["gt_semantic_seg"].shape == crop
    inside = np.zeros(crop, bool)
    inside[: shape[0], : shape[1]] = True
    assert (found["img"][..., 0][inside] == 10 * found["gt_semantic_seg"][inside]).all()
    assert (found["gt_semantic_seg"][~inside] == 255).all() and (found["img"][~inside] == augmentation_value).all()


@pytest.mark.parametrize(
    "size, scale, expected",
    [
        ((480, 640), (2560, 320), (320, 427)),
        ((640, 480), (2560, 960), (1280, 960)),
        ((100, 600), (2560, 960), (427, 2560)),
    ],
)
def test_the_short_side_is_met_unless_the_long_one_is_too_long(size, scale, expected):
    found = augmentation.ResizeScene([scale])(scene(*size))
    assert found["img"].shape[:2] == found["gt_semantic_seg"].shape == expected


def test_sides_are_those_of_the_papers_configurations():
    profiles = experiments.load().profiles
    for name, expected in (
        ("full_maps", [320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960]),
        ("full_maps_ade", [int(x * 51.2) for x in range(5, 21)]),
    ):
        resize = steps.steps(profiles[name]["images"])["train"][1]["steps"][0]
        assert [short for _, short in resize["scales"]] == expected


@settings(deadline=None)
@given(seed=st.integers(0, 500))
def test_changed_colours_are_bytes_and_a_grey_image_stays_grey(seed):
    image = np.full((2, 2, 3), 100, np.uint8)
    found = augmentation.JitterColours()({"img": image, "rng": np.random.default_rng(seed)})["img"]
    assert found.dtype == np.uint8 and (found == found[..., :1]).all()
    assert (100 - 32) * 0.5 - 1 <= found.min() and found.max() <= (100 + 32) * 1.5


@pytest.fixture
def training(scenes):
    def build(given=None):
        given = given or steps.steps(experiments.load().profile(DATASET)["images"])["train"]
        pack = Pack(paths.split_train(DATASET, "s1.semantic"))
        return LabelMaps(pack, subsets.train(DATASET).images, scenes.names, given)

    return build


def test_a_sample_depends_on_its_seed_alone(training):
    data = training()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    one, same, other = data[2, 11], data[2, 11], data[2, 12]
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert torch.equal(one["img"].data, same["img"].data) and not torch.equal(one["img"].data, other["img"].data)


def test_a_batch_is_what_a_model_is_promised(training):
    data = training()
    batch = data_parallel.to_device(collate([data[k, 7 + k] for k in range(4)], 4), "cpu")
    assert batch["img"].shape == (4, 3, 64, 64) and batch["img"].dtype == torch.float32
    assert batch["gt_semantic_seg"].shape == (4, 64, 64) and batch["gt_semantic_seg"].dtype == torch.int64
    shown = set(batch["gt_semantic_seg"].unique().tolist())
    assert not shown & set(data.novel) and 255 in shown
    for position, (meta, labels) in enumerate(zip(batch["img_metas"], batch["novel_labels"], strict=True)):
        assert labels.dtype == torch.int64 and labels.tolist() == data.pack.images[position]["novel"]
        assert meta["img_shape"] == meta["pad_shape"] == (64, 64, 3) and meta["batch_input_shape"] == (64, 64)
        assert meta["novel_classes"] == data.novel and meta["file_name"] == f"{position + 1:06d}.png"


def test_pairs_are_stacked_in_order(training):
    data = training()
    items = [augmentation.paired(data[k, 1], data[k + 1, 1]) for k in (0, 2)]
    batch = data_parallel.to_device(collate(items, 2), "cpu")
    assert batch["img"].shape == (2, 2, 3, 64, 64) and batch["gt_semantic_seg"].shape == (2, 2, 64, 64)
    names = [[meta["file_name"] for meta in pair] for pair in batch["img_metas"]]
    assert names == [["000001.png", "000002.png"], ["000003.png", "000004.png"]]
    assert [[labels.tolist() for labels in pair] for pair in batch["novel_labels"]] == [
        [data.pack.images[k]["novel"] for k in pair] for pair in ((0, 1), (2, 3))
    ]
    assert torch.equal(batch["img"][1, 0], data[2, 1]["img"].data) and all(
        m["pair"] for p in batch["img_metas"] for m in p
    )


def test_labels_of_the_crop_are_those_that_it_shows(training, scenes):
    given = steps.steps({"train_scales": None, "test_scale": None, "crop_size": [20, 20], "size_divisor": 1})["train"]
    whole, cut = training(given), training(steps.with_crop_labels(given, DATASET))
    truth, fewer = Pack(subsets.train(DATASET).annotations), 0
    for position in range(len(whole)):
        of_image, of_crop = (set(data[position, 5]["novel_labels"].data.tolist()) for data in (whole, cut))
        assert of_crop <= of_image == set(truth.images[position]["classes"]) & set(whole.novel)
        fewer += of_crop < of_image
    assert fewer


def test_all_masks_leave_no_class_without(training):
    given = steps.steps({"train_scales": None, "test_scale": None, "size_divisor": 1})["train"]
    data, truth = training(steps.with_all_masks(given, DATASET)), Pack(subsets.train(DATASET).annotations)
    sample = data[1, 4]
    seen = sample["gt_semantic_seg"].data.numpy()
    complete_map = truth.read(1)[:, ::-1] if sample["img_metas"].data["flip"] else truth.read(1)
    assert (seen == complete_map).all() and not len(sample["novel_labels"].data)


def test_pseudo_maps_are_those_that_are_named_or_an_error(training, tmp_path):
    def of(digest):
        return steps.changed(
            steps.with_pseudo_maps(given), "PseudoMaps", index=str(tmp_path / "pseudo.json"), sha256=digest
        )

    given = steps.steps({"train_scales": None, "test_scale": None, "size_divisor": 1})["train"]
    with open(tmp_path / "pseudo.pack", "wb") as file:
        writer = Writer(file, "pseudo.pack")
        writer.add("000002.png", np.full((64, 64), 3, np.uint8))
    (tmp_path / "pseudo.json").write_text(writer.index())
    digest = Pack(tmp_path / "pseudo.json").facts["sha256"]
    data = training(of(digest))
    assert (data[1, 0]["gt_semantic_seg"].data == 3).all() and not len(data[1, 0]["novel_labels"].data)
    with pytest.raises(ExperimentError, match="no pseudo label map of 000001.png; label the training images again"):
        data[0, 0]
    with pytest.raises(ExperimentError, match="other pseudo label maps than the run names"):
        training(of("0" * 64))[1, 0]


def test_images_of_several_sizes_need_a_crop(scenes, monkeypatch):
    plain = {"train_scales": None, "test_scale": None, "size_divisor": 1}
    given = [{"train": steps.steps(images)["train"]} for images in (plain, plain | {"crop_size": [32, 32]})]
    whole, cut = (SimpleNamespace(dataset=DATASET, split="s1.semantic", data=each) for each in given)
    assert len(training_set(whole)) == 10, "all of one size"
    read = data.Pack.__init__

    def wider(self, *rest):
        read(self, *rest)
        self.images[0] = self.images[0] | {"width": 70}

    monkeypatch.setattr(data.Pack, "__init__", wider)
    with pytest.raises(
        ExperimentError, match="images of 2 sizes; a batch takes one: give the profile of scenes an images"
    ):
        training_set(whole)
    assert len(training_set(cut)) == 10


class Emptied:
    """A step that shows a class in its third call only."""

    calls = 0

    def __call__(self, results):
        Emptied.calls += 1
        labels = np.full((2, 2), 255 if Emptied.calls < 3 else 0, np.uint8)
        return results | {"gt_semantic_seg": labels}


def test_a_crop_without_any_class_is_drawn_again(monkeypatch):
    step = augmentation.RedrawScene([], tries=5)
    monkeypatch.setattr(step, "steps", Compose([Emptied()]))
    none, some = {"novel_labels": []}, {"novel_labels": [4]}
    assert (step(none)["gt_semantic_seg"] == 0).all() and Emptied.calls == 3
    Emptied.calls = 0
    assert (step(some)["gt_semantic_seg"] == 255).all() and Emptied.calls == 1, "a label of the image is enough"
    Emptied.calls = -9
    assert (step(none)["gt_semantic_seg"] == 255).all(), "the last of five tries"


def test_options_of_a_step_are_changed_wherever_it_is():
    given = steps.steps(experiments.load().profiles["full_maps"]["images"])["train"]
    new = steps.changed(given, "ResizeScene", map_pixel="centre")
    assert new[1]["steps"][0]["map_pixel"] == "centre" and "map_pixel" not in given[1]["steps"][0]
    with pytest.raises(ExperimentError, match="no FlipScene"):
        steps.changed(given, "FlipScene")


def test_a_broken_image_is_told(training, scenes_root, tmp_path):
    data = training()
    data.folder = tmp_path
    with pytest.raises(ExperimentError, match="000001.png is missing"):
        data[0, 0]
    (tmp_path / "000001.png").write_bytes((subsets.train(DATASET).images / "000001.png").read_bytes()[:-30])
    with pytest.raises(ExperimentError, match="is truncated or not an image"):
        data[0, 0]


def test_a_drawn_image_does_not_depend_on_how_many_are_drawn():
    spec = {"version": 1, "seed": 3, "image_size": 64}
    assert all((a == b).all() for a, b in zip(drawn.draw(spec, 0, 4), drawn.draw(spec, 0, 4), strict=True))
    assert (drawn.draw(spec, 0, 4)[1] != drawn.draw(spec, 1, 4)[1]).any()


def test_companions_are_drawn_as_often_as_stated():
    spec, (one, other) = {"version": 1, "seed": 0, "image_size": 64}, map(drawn.CLASSES.index, drawn.COMPANIONS)
    maps = [set(np.unique(drawn.draw(spec, 0, index)[1]).tolist()) for index in range(200)]
    together = np.mean([{one, other} <= shown for shown in maps])
    alone = np.mean([len({one, other} & shown) == 1 for shown in maps])
    assert abs(together - drawn.TOGETHER) < 0.11 and abs(alone - 2 * drawn.ALONE) < 0.1
    assert abs(np.mean([255 in shown for shown in maps]) - drawn.UNLABELLED_SHARE) < 0.11
