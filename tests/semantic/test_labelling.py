"""Training images are labelled, killed, taken up; what is trained on these labels names them."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.artifacts import paths
from pipeline.datasets.label_maps.packs import Pack
from pipeline.declaration import config, experiments, recipe
from pipeline.errors import ExperimentError
from pipeline.tasks.semantic import complete, labelling, prediction, pseudo, steps  # noqa: F401  # registers its types
from tests.semantic.conftest import DATASET
from tests.semantic.test_prediction import Model

IMAGES = {"train_scales": None, "test_scale": None, "size_divisor": 1}
NAMES = [f"{k:06d}.png" for k in range(1, 11)]


class Told(Model):
    """Is told what is known of the images, and says all of it."""

    def labelled(self, views, base_maps, novel_labels):
        (_, metas), *_ = views
        self.seen += [(meta["file_name"], labels.tolist()) for meta, labels in zip(metas, novel_labels, strict=True)]
        return [
            torch.where(base == 255, labels[0] if len(labels) else 255, base)
            for base, labels in zip(base_maps, novel_labels, strict=True)
        ]


@pytest.fixture
def root(scenes_root, scenes, tmp_path, monkeypatch):
    """A root of its own, with the drawn scenes' data; gives {name: bytes} of all its files below data/."""
    for name in ("pipeline", "params.yaml"):
        (tmp_path / name).symlink_to(scenes_root / name)
    shutil.copytree(scenes_root / "data", tmp_path / "data")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def label(root, monkeypatch):
    """A function that labels with a model, and gives the index."""
    content = {"meta": {"fingerprint": "f" * 20}, "state_dict": {}}
    monkeypatch.setattr(prediction.checkpoint, "of_run", lambda *_, **__: content)
    monkeypatch.setattr(prediction.methods, "register", lambda *_: None)
    monkeypatch.setattr(prediction, "identified", lambda *_: {"recipe": "a"})
    monkeypatch.setattr(recipe, "of_labelling", lambda _: {})
    monkeypatch.setenv("CONTRASTMASK_WORKERS", "1")

    def run(model, images=None):
        given = steps.steps(images or IMAGES)
        training = SimpleNamespace(
            dataset=DATASET, name="run", seed=0, method="m", knobs=None, model={"type": "Model"}, data=given,
            split="s1.semantic", direction="s1",
        )  # fmt: skip
        monkeypatch.setattr(prediction, "build_detector", lambda *_: model)
        index = paths.label_index(DATASET, "run", 0)
        labelling.label(training, index)
        return index

    return run


def maps(index):
    pack = Pack(index)
    assert [image["file_name"] for image in pack.images] == NAMES
    return np.stack([pack.read(k) for k in range(len(pack))])


def test_labels_are_base_masks_and_the_images_own_novel_classes(label):
    found, hidden = maps(label(Model())), Pack(paths.split_train(DATASET, "s1.semantic"))
    model, images = Model(), paths.images_root(DATASET)
    shown = 0
    for position, image in enumerate(hidden.images):
        sample = labelling.LabelMaps(hidden, images / "train", ["c"], steps.steps(IMAGES)["test"])[position]
        predicted = model.simple_test(sample["img"][None], [sample["img_metas"]])[0]
        base = hidden.read(position)
        for row, column in np.ndindex(64, 64):
            value = predicted[row, column]
            due = base[row, column] if base[row, column] != 255 else value if value in image["novel"] else 255
            assert found[position, row, column] == due
            shown += due in image["novel"]
    assert shown, "the model says some"


def test_nothing_but_the_split_and_the_images_is_read(label, root):
    """Complete maps are what would leak: without them, the labels are the same."""
    due = label(Model()).with_suffix(".pack").read_bytes()
    shutil.rmtree(paths.labels(DATASET, "run"))
    shutil.rmtree(root / "scratch")
    for file in (root / "data" / DATASET / "annotations").iterdir():
        file.unlink()
    assert label(Model()).with_suffix(".pack").read_bytes() == due


@pytest.mark.parametrize("ends", [0, 1, 7])
def test_killed_it_goes_on_behind_the_last_image(ends, label, root):
    with pytest.raises(KeyboardInterrupt):
        label(Model(ends=ends))
    assert not paths.labels(DATASET, "run").exists()
    told = json.loads((root / "scratch" / f"{'f' * 20}.labels" / "progress.json").read_text())
    assert told["of"] == 10 and told["iteration"] <= ends
    again = Model()
    killed = label(again).with_suffix(".pack").read_bytes()
    assert again.seen == NAMES[ends:]
    shutil.rmtree(root / "scratch")
    assert label(Model()).with_suffix(".pack").read_bytes() == killed


def test_killed_while_the_maps_are_written_nothing_looks_complete(label, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    due = label(Model()).read_bytes()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pseudo, "pseudo_map", fail)
        label(Model())
    assert not [file for file in paths.labels(DATASET, "run").iterdir() if file.suffix == ".json"]
    again = Model()
    assert label(again).read_bytes() == due and not again.seen


def test_a_model_that_can_be_told_gets_masks_and_labels_and_no_more(label):
    model, hidden = Told(), Pack(paths.split_train(DATASET, "s1.semantic"))
    found = maps(label(model))
    assert model.seen == [(image["file_name"], image["novel"]) for image in hidden.images]
    for position, image in enumerate(hidden.images):
        base = hidden.read(position)
        assert (found[position] == np.where(base == 255, (image["novel"] or [255])[0], base)).all()


class Mean(Model):
    """Says for a batch what `aug_test` is to give: the mean of what each view scores, its flip undone."""

    def aug_test(self, imgs, img_metas, rescale=False):
        self.views = [(img.shape[-2:], metas[0]["flip"]) for img, metas in zip(imgs, img_metas, strict=True)]
        self.given = [img[0] for img in imgs]
        return [np.zeros(meta["ori_shape"][:2], np.uint8) for meta in img_metas[0]]


def test_views_are_each_scale_and_its_mirror_image(label):
    model = Mean()
    label(model, IMAGES | {"label_scales": [[96, 32], [96, 48]], "size_divisor": 20})
    sizes = [(40, 40), (40, 40), (60, 60), (60, 60)]  # padded to a multiple of 20
    assert model.views == list(zip(sizes, [False, True, False, True], strict=True))
    plain, mirrored = model.given[2:]
    assert torch.equal(plain[:, :48, :48].flip(-1), mirrored[:, :48, :48]) and not mirrored[:, :, 48:].any()


def test_views_are_those_of_the_released_configurations():
    profiles = experiments.load().profiles
    assert "label" not in steps.steps(profiles["full_maps"]["images"])
    views = steps.steps(profiles["full_maps_ade"]["images"])["label"]
    scales = [view[1]["scales"][0] for view in views]
    assert [short for _, short in scales[::2]] == [320, 480, 640, 800, 960] and {long for long, _ in scales} == {4480}
    assert scales[::2] == scales[1::2]
    assert ["MirrorScene" in [step["type"] for step in view] for view in views] == [False, True] * 5


# Training on labels


@pytest.fixture
def retraining(root):
    return config.resolve("simformer_retrained_s5", DATASET, 3)


def test_the_labels_of_the_same_seed_identify_a_training(root, retraining, label):
    made = label(Model())
    shutil.copytree(paths.split(DATASET, "s1.semantic"), paths.split(DATASET, "s5.semantic"))
    with pytest.raises(ExperimentError, match="labels/simformer_s5/seed3.json: no such file; run `.*simformer_retr"):
        recipe.fingerprint(retraining)
    for seed in (0, 3):
        target = paths.label_index(DATASET, "simformer_s5", seed)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, target)
    one = recipe.fingerprint(retraining)
    paths.label_index(DATASET, "simformer_s5", 0).write_text("{}")
    assert recipe.fingerprint(retraining) == one
    paths.label_index(DATASET, "simformer_s5", 3).write_text("{}")
    assert recipe.fingerprint(retraining) != one


def test_a_recipe_knows_the_run_and_not_the_maps(retraining):
    content = recipe.of_training(retraining)
    assert content["configuration"]["labels"] == "simformer_s5"
    assert {"type": "PseudoMaps"} in content["configuration"]["data"]["train"]
    assert "label" not in content["configuration"]["data"] and "pipeline.tasks.semantic.pseudo" in content["code"]
    plain = recipe.of_training(config.resolve("simformer_s5", DATASET, 3))
    assert "labels" not in plain["configuration"] and "pipeline.tasks.semantic.pseudo" not in plain["code"]


def test_a_training_image_without_label_stops_a_training_before_it_begins(root, retraining, label):
    made = label(Model())
    index = paths.label_index(DATASET, "simformer_s5", 3)
    shutil.copytree(paths.split(DATASET, "s1.semantic"), paths.split(DATASET, "s5.semantic"))
    shutil.copytree(made.parent, index.parent)
    index.with_name("seed0.pack").rename(index.with_suffix(".pack"))
    content = json.loads(made.read_text()) | {"pack": "seed3.pack"}
    index.write_text(json.dumps(content))
    training_set = pseudo.training_set(retraining)
    assert (training_set.pipeline.transforms[1].index, len(training_set)) == (index, 10)
    images = content["images"]
    index.write_text(json.dumps(content | {"images": [*images[:4], images[4] | {"file_name": "other"}, *images[5:]]}))
    with pytest.raises(ExperimentError, match="no pseudo label map of 1 training images, such as 000005.png; run `dvc"):
        pseudo.training_set(retraining)
    index.unlink()
    with pytest.raises(ExperimentError, match="seed3.json: no such file; run `dvc repro -s -f label@simformer_s5`"):
        pseudo.training_set(retraining)
