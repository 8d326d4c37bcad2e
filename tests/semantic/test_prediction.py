"""Label maps are predicted, killed, taken up, scored."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.artifacts import paths
from pipeline.datasets.label_maps.packs import Pack
from pipeline.declaration import experiments, subsets
from pipeline.errors import ExperimentError
from pipeline.tasks.semantic import TASK, iou, prediction, scoring, steps, stored
from tests.semantic.conftest import DATASET


class Model(torch.nn.Module):
    """Labels pixels by a random function of their colours; fails where it is told to.

    Attributes:
        seen: names of the images that it was asked for.
        ends: number of images after which it fails.
        scores: whether it gives scores instead of labels.
    """

    def __init__(self, ends=None, scores=False, spoiled=False):
        super().__init__()
        torch.manual_seed(0)
        self.classify = torch.nn.Conv2d(3, 16, 1)
        self.seen, self.ends, self.scores, self.spoiled = [], ends, scores, spoiled

    def load_state_dict(self, state):
        pass

    def simple_test(self, img, img_metas, rescale=False):
        found = []
        for image, meta in zip(img, img_metas, strict=True):
            if len(self.seen) == self.ends:
                raise KeyboardInterrupt
            self.seen.append(meta["file_name"])
            height, width = meta["ori_shape"][:2]
            scores = self.classify(image[None])[0, :, :height, :width]
            scores = scores / 0 if self.spoiled else scores
            found.append(scores if self.scores else scores.argmax(0).to(torch.uint8).numpy())
        return found


@pytest.fixture
def predict(scenes, monkeypatch, tmp_path):
    """A function that predicts with a model into a file."""
    given = steps.steps(experiments.load().profile(DATASET)["images"])
    training = SimpleNamespace(
        dataset=DATASET, name="run", seed=0, method="m", knobs=None, model={"type": "Model"}, data=given
    )
    content = {"meta": {"fingerprint": "f" * 20}, "state_dict": {}}
    monkeypatch.setattr(prediction.checkpoint, "of_run", lambda *_, **__: content)
    monkeypatch.setattr(prediction.methods, "register", lambda *_: None)
    monkeypatch.setattr(prediction, "identified", lambda *_: {"recipe": "a"})
    monkeypatch.setattr(prediction.recipe, "of_prediction", lambda _: {})
    monkeypatch.setattr(paths, "scratch", lambda fingerprint: tmp_path / "scratch" / fingerprint)
    monkeypatch.setenv("CONTRASTMASK_WORKERS", "1")

    def run(model, path):
        monkeypatch.setattr(prediction, "build_detector", lambda *_: model)
        prediction.predict(training, path)
        return path

    return run


@pytest.mark.parametrize("ends", [0, 1, 3])
def test_a_killed_prediction_goes_on_behind_the_last_image(ends, predict, tmp_path):
    whole, again = Model(), Model()
    with pytest.raises(KeyboardInterrupt):
        predict(Model(ends=ends), tmp_path / "seed0.json")
    assert not (tmp_path / "seed0.json").exists()
    killed = predict(again, tmp_path / "seed0.json").read_bytes()
    assert again.seen == [f"{k:06d}.png" for k in range(ends + 1, 5)]
    repeated = Model()
    assert predict(repeated, tmp_path / "seed0.json").read_bytes() == killed and not repeated.seen
    (tmp_path / "scratch" / ("f" * 20) / "predictions.jsonl").unlink()
    assert predict(whole, tmp_path / "other.json").read_bytes() == killed and len(whole.seen) == 4


@pytest.mark.parametrize("batch", [1, 3])
def test_scores_and_labels_are_taken_alike(batch, predict, tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTMASK_TEST_BATCH", str(batch))
    labels = predict(Model(), tmp_path / "labels.json").read_bytes()
    (tmp_path / "scratch" / ("f" * 20) / "predictions.jsonl").unlink()
    assert predict(Model(scores=True), tmp_path / "scores.json").read_bytes() == labels


def test_scores_that_are_not_finite_are_refused(predict, tmp_path):
    with pytest.raises(ExperimentError, match="image 000001.png: scores are not finite"):
        predict(Model(scores=True, spoiled=True), tmp_path / "seed0.json")


@pytest.mark.parametrize("found", [np.zeros((3, 3), int), np.full((2, 3), 16), np.full((2, 3), -1)])
def test_what_is_no_label_map_of_the_image_is_refused(found):
    with pytest.raises(ValueError, match="a map of|a label is"):
        prediction.label_map(found, {"ori_shape": (2, 3, 3), "file_name": "a"}, 16)


def test_scores_are_those_of_all_images_counted_one_by_one(predict, tmp_path, scenes):
    path = predict(Model(), tmp_path / "seed0.json")
    base, novel = scenes.base_and_novel("s1")
    found = scoring.score(DATASET, path, {"base": base, "novel": novel})
    truth = Pack(subsets.validation(DATASET).annotations)
    maps = dict(stored.read(path))
    assert [*maps] == [image["file_name"] for image in truth.images]
    flat = [np.concatenate([m.ravel() for m in each]) for each in (maps.values(), map(truth.read, range(4)))]
    expected = iou.summary(
        iou.counts(*flat, 16), [scenes.names.index(n) for n in base], [scenes.names.index(n) for n in novel]
    )
    values = {row["group"]: row["value"] for row in found["scores"]}
    assert values == pytest.approx(
        {"base": expected["base_mIoU"], "novel": expected["novel_mIoU"], "all": expected["mIoU"]}
    )
    per_class = [row["value"] for row in found["per_category"] if row["metric"] == "IoU"]
    assert [np.nan if value is None else value for value in per_class] == pytest.approx(
        expected["iou"].tolist(), nan_ok=True
    )
    assert {row["metric"] for row in found["per_category"]} == {metric.key for metric in TASK.category_metrics}


def test_images_that_show_a_class_are_counted(scenes):
    truth, found = Pack(subsets.validation(DATASET).annotations), scoring.counts(DATASET)
    for position, name in enumerate(scenes.names):
        number = sum((truth.read(k) == position).any() for k in range(4))
        assert found.get(name, "n 0") == f"n {number}"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda records: records[:-1], "3 of 4 images"),
        (lambda records: records[::-1], "is not due at place 1"),
        (lambda records: [*records, records[0]], "is not due at place 5"),
        (lambda records: [records[0] | {"map": stored.record("a", np.zeros((2, 2), np.uint8))["map"]}], "pixels"),
        (lambda records: [records[0] | {"map": "?"}], "no predicted label maps"),
        (lambda records: {"a": 1}, "no predicted label maps"),
    ],
)
def test_predictions_of_other_images_are_refused(change, message, predict, tmp_path):
    path = predict(Model(), tmp_path / "seed0.json")
    path.write_text(json.dumps(change(json.loads(path.read_text())), separators=(",", ":")))
    with pytest.raises(ExperimentError, match=message):
        scoring.score(DATASET, path, {"base": [], "novel": []})


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 18])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_maps_are_read_whatever_the_pieces(chunk, count, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "CHUNK", chunk)
    maps = [np.random.default_rng(k).integers(0, 16, (3 + k, 5)).astype(np.uint8) for k in range(count)]
    path = tmp_path / "seed0.json"
    text = json.dumps([stored.record(f"{k}.png", labels) for k, labels in enumerate(maps)], separators=(",", ":"))
    path.write_text(text + "\n")
    found = list(stored.read(path))
    assert [name for name, _ in found] == [f"{k}.png" for k in range(count)]
    assert all((one == other).all() for (_, one), other in zip(found, maps, strict=True))
    path.write_text(text[:-1])
    with pytest.raises(ExperimentError, match="no predicted label maps"):
        list(stored.read(path))
