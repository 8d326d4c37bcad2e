"""Initial weights that begin with a classifier of objects: the same each time, blind to masks, named by identity."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.generated.scenes import generate
from pipeline.declaration import config, experiments, recipe
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.tasks.instances import object_crops
from pipeline.tasks.instances.split import split
from pipeline.training import object_classifier

DECLARED = experiments.load()
SPEC = {"version": 2, "seed": 3, "train_images": 3, "val_images": 1, "image_size": 96}
SUBSETS = ("train2017", "val2017")
RECIPE = {"iterations": 2, "batch_size": 4, "lr": 0.001}
SIZE = 32
BACKBONE = {"type": "ResNet", "depth": 18, "base_channels": 8, "stem_channels": 8, "norm_eval": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A few drawn images and their split; read only."""
    folder = tmp_path_factory.mktemp("drawn")
    generate(SPEC, label_set("coco"), SUBSETS, folder, folder / "annotations")
    split(folder / "annotations" / "instances_train2017.json", label_set("coco"), "nonvoc2voc", folder / "split")
    return folder


@pytest.fixture
def cut(root, tmp_path, monkeypatch):
    """Give a function that cuts objects out of the images, after a change of the split and from another folder."""

    def objects(change=lambda content: None, images=root / "train2017"):
        content = json.loads((root / "split" / "train.json").read_text())
        change(content)
        path = tmp_path / "train.json"
        path.write_text(json.dumps(content))
        monkeypatch.setattr(object_crops.paths, "split_train", lambda *_: path)
        monkeypatch.setattr(object_crops.subsets, "train", lambda _: SimpleNamespace(images=images))
        return object_crops.object_crops("generated", "nonvoc2voc", SIZE)

    return objects


def trained(crops, labels, seed=0, **changes):
    return object_classifier.train(BACKBONE, crops, labels, RECIPE | changes, seed, "cpu")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_object_with_a_box_is_cut_out_and_named(cut):
    contents = []
    crops, labels = cut(contents.append)
    (content,) = contents
    assert crops.shape == (len(labels), SIZE, SIZE, 3) and crops.dtype == torch.uint8
    assert len(labels) == len([each for each in content["annotations"] if not each.get("iscrowd")]) > 0
    position = {category["id"]: at for at, category in enumerate(content["categories"])}
    assert sorted(labels.tolist()) == sorted(position[each["category_id"]] for each in content["annotations"])


def test_other_masks_of_base_and_novel_objects_change_no_byte_of_the_weights(cut):
    def other(content):
        for number, annotation in enumerate(content["annotations"]):
            x, y, *_ = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + 1 + number, y, x, y + 1]] if number % 2 else []
            annotation["area"] = 1.0

    crops, labels = cut()
    others, names = cut(other)
    assert torch.equal(crops, others) and torch.equal(labels, names)
    weights = trained(crops, labels)
    assert same(weights, trained(others, names)), "the same crops and seed"
    assert not same(weights, trained(crops, labels, seed=1))
    assert all(name.startswith("backbone.") for name in weights)


def test_crowds_and_boxes_without_a_pixel_are_left_out(cut):
    def spoil(content):
        content["annotations"][0]["iscrowd"] = 1
        content["annotations"][1]["bbox"][2] = 0.5

    assert len(cut(spoil)[1]) == len(cut()[1]) - 2


@pytest.mark.parametrize("content", [None, b"no image"])
def test_an_image_that_is_missing_or_none_is_one_line(cut, root, tmp_path, content):
    (tmp_path / "images").mkdir()
    for image in (root / "train2017").iterdir():
        if content:
            (tmp_path / "images" / image.name).write_bytes(content)
    with pytest.raises(ExperimentError, match=r"image .*/images/\w+\.\w+ is missing or no image; ") as error:
        cut(images=tmp_path / "images")
    assert "\n" not in str(error.value)


def test_nothing_to_learn_from_is_one_line(cut):
    with pytest.raises(ExperimentError, match=r"train\.json: no object to learn from"):
        cut(lambda content: content["annotations"].clear())


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(8, 50), st.integers(8, 50)),
    st.sampled_from([32, 48]),
)
def test_a_crop_holds_the_object_in_its_middle_as_wide_as_it_is_high(box, size):
    x, y, width, height = box
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[y : y + height, x : x + width] = 255
    crop = object_crops._crop(pixels, box, size)[..., 0] > 127
    rows, columns = (np.flatnonzero(crop.any(axis)) for axis in (1, 0))
    scale = size / (object_crops.CONTEXT * max(width, height))
    for found, length in ((rows, height), (columns, width)):
        assert abs(len(found) - scale * length) <= 2
        assert abs(found.mean() + 0.5 - size / 2) <= 0.5
        assert 0 < found[0] and found[-1] < size - 1


def test_a_loss_that_is_not_finite_is_refused_with_what_to_lower():
    crops, labels = torch.randint(256, (8, SIZE, SIZE, 3), dtype=torch.uint8), torch.arange(8) % 3
    with pytest.raises(ExperimentError, match=r"loss (nan|inf); lower profiles\.<profile>\..*classifier\.lr") as error:
        trained(crops, labels, iterations=3, lr=1e30)
    assert "\n" not in str(error.value)
    assert same(trained(crops, labels), trained(crops, labels, lr=RECIPE["lr"])), "as the remedy says"


EMBEDDED = DECLARED.profiles["embedded"]
SOURCE = EMBEDDED["initial_weights"]


def declared(source):
    """The declaration with other initial weights of the embedded profile."""
    return replace(DECLARED, profiles=DECLARED.profiles | {"embedded": EMBEDDED | {"initial_weights": source}})


def test_the_identity_of_initial_weights_and_of_nothing_else_names_it():
    lr = SOURCE["classifier"]["lr"]
    changed = declared(SOURCE | {"classifier": SOURCE["classifier"] | {"lr": lr / 2}})
    before, after = (recipe.of_initial_weights("r50", "generated", each) for each in (DECLARED, changed))
    assert before["code"] == after["code"] and {recipe.CLASSIFIER, recipe.CROPS} <= before["code"].keys()
    assert [each["configuration"].pop("classifier")["lr"] for each in (before, after)] == [lr, lr / 2]
    assert before == after
    for run in ("mask_rcnn_r50_1x_nonvoc2voc", "contrastmask_r50_1x_nonvoc2voc"):
        jobs = [config.resolve(run, "generated", 0, each) for each in (DECLARED, changed)]
        assert jobs[0] == jobs[1]
        assert not {recipe.CLASSIFIER, recipe.CROPS} & recipe.of_training(jobs[0])["code"].keys()


def test_a_profile_without_one_starts_its_pretraining_afresh():
    plain = declared({key: value for key, value in SOURCE.items() if key != "classifier"})
    assert config.resolve_pretraining("r50", "generated", plain).initial_weights is None
    assert config.resolve_pretraining("r50", "generated").initial_weights == "classifier_r50"
    found = recipe.of_initial_weights("r50", "generated", plain)
    assert "classifier" not in found["configuration"] and recipe.CLASSIFIER not in found["code"]
