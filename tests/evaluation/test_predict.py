"""Inference and scoring of a small model with random weights: killed, repeated, and saved in between."""

import json

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv
from mmdet.models import build_detector

from pipeline import hardware, methods
from pipeline.artifacts import detections, paths
from pipeline.datasets.prepare import prepare
from pipeline.declaration import config, experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import measured
from pipeline.tasks.instances import TASK, prediction, scoring

pytestmark = pytest.mark.slow

DATASET, RUN = "generated", "contrastmask_r50_1x_nonvoc2voc"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A run on a few images in a root of its own, with a checkpoint that was never trained."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pipeline", "params.yaml"):
            (root / name).symlink_to(paths.ROOT / name)
        patch.setattr(paths, "ROOT", root)
        patch.setenv("CONTRASTMASK_HOME", str(root))
        entry = experiments.load().dataset(DATASET) | {"train_images": 4, "val_images": 5}
        prepare(DATASET, entry, images_root=paths.images_root(DATASET), out_dir=paths.data(DATASET))
        narrow(1, 3)
        training = config.resolve(RUN, DATASET, 0)
        training.model["test_cfg"]["rcnn"]["score_thr"] = 0.0  # or random weights detect nothing
        methods.register(training.method, training.knobs)
        torch.manual_seed(0)
        checkpoint = paths.checkpoint(DATASET, RUN, 0)
        checkpoint.parent.mkdir(parents=True)
        weights = build_detector(mmcv.ConfigDict(training.model)).state_dict()
        torch.save({"state_dict": weights, "meta": {"fingerprint": "f" * 20}}, checkpoint)
        yield training


def narrow(*positions):
    """Cut some validation images to three quarters of their height."""
    path = paths.annotations(DATASET, "val2017")
    content = json.loads(path.read_text())
    for position in positions:
        image = content["images"][position]
        file = paths.images(DATASET, "val2017") / image["file_name"]
        image["height"] = image["height"] * 3 // 4
        cv2.imwrite(str(file), cv2.imread(str(file))[: image["height"]])
    path.write_text(json.dumps(content))


@pytest.fixture
def saved(job):
    path = paths.saved_predictions("f" * 20)
    path.unlink(missing_ok=True)
    return path


@pytest.fixture(scope="module")
def uninterrupted(job, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "seed0.json"
    prediction.predict(job, path)
    content = path.read_bytes()
    assert len({record["image_id"] for record in json.loads(content)}) == 5
    return content


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_killed_inference_goes_on(job, saved, batch_size, uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTMASK_TEST_BATCH", str(batch_size))
    prediction.predict(job, tmp_path / "whole.json")
    whole = saved.read_bytes()
    saved.unlink()
    records, images = prediction._records, []

    def counted(image, *detected):
        if len(images) == 3:
            raise Killed
        images.append(image)
        return records(image, *detected)

    monkeypatch.setattr(prediction, "_records", counted)
    with pytest.raises(Killed):
        prediction.predict(job, tmp_path / "seed0.json")
    kept = 3 if batch_size == 1 else 1  # two at a time: those at 0, 2 and 4 come first, and 1 is due behind 0
    assert not (tmp_path / "seed0.json").exists() and len(saved.read_bytes().splitlines()) == 1 + kept
    again = []

    def noted(image, *detected):
        again.append(image)
        return records(image, *detected)

    monkeypatch.setattr(prediction, "_records", noted)
    prediction.predict(job, tmp_path / "seed0.json")
    assert len(again) == 5 - kept
    assert saved.read_bytes() == whole
    assert (tmp_path / "seed0.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    if batch_size == 1:
        assert (tmp_path / "seed0.json").read_bytes() == uninterrupted


def test_images_of_a_size_make_batches(job, saved, uninterrupted, tmp_path, monkeypatch):
    prediction.predict(job, tmp_path / "alone.json")
    header = saved.read_text().splitlines()[0]
    shapes = []

    def noted(*args, **kwargs):
        detector = build_detector(*args, **kwargs)
        detector.register_forward_pre_hook(
            lambda _, args, kwargs: shapes.append(tuple(kwargs["img"][0].shape)), with_kwargs=True
        )
        return detector

    monkeypatch.setattr(prediction, "build_detector", noted)
    monkeypatch.setenv("CONTRASTMASK_TEST_BATCH", "2")
    prediction.predict(job, tmp_path / "together.json")
    assert shapes == [(2, 3, 128, 128), (1, 3, 128, 128), (2, 3, 96, 128)]
    assert saved.read_text().splitlines()[0] != header, "one at a time may differ by rounding"
    alone, together = json.loads(uninterrupted), json.loads((tmp_path / "together.json").read_text())
    assert [r["image_id"] for r in together] == [r["image_id"] for r in alone]
    assert [r["category_id"] for r in together] == [r["category_id"] for r in alone]
    for key, tolerance in (("score", 1e-5), ("bbox", 1e-3)):
        np.testing.assert_allclose([r[key] for r in together], [r[key] for r in alone], atol=tolerance)
    overlaps = [
        rle.iou([a["segmentation"]], [b["segmentation"]], [0])[0, 0] if a["segmentation"] != b["segmentation"] else 1
        for a, b in zip(alone, together, strict=True)
    ]
    assert min(overlaps) > 0.98


def test_batches_cover_all_images_once():
    sizes = [(640, 480)] * 5 + [(480, 640)] * 2 + [(640, 480)] * 100
    assert list(prediction._batches(sizes, 1)) == [[index] for index in range(107)]
    batches = list(prediction._batches(sizes, 4))
    assert sorted(index for batch in batches for index in batch) == list(range(107))
    assert all(len({sizes[index] for index in batch}) == 1 for batch in batches)
    assert sum(len(batch) == 4 for batch in batches) == 25
    assert max(batch[-1] - batch[0] for batch in batches) < prediction.WINDOW


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_bad_batch_size_is_one_line(value, monkeypatch):
    monkeypatch.setenv("CONTRASTMASK_TEST_BATCH", value)
    with pytest.raises(ExperimentError, match="CONTRASTMASK_TEST_BATCH=.*: not a number of images; valid: 1, 2, ..."):
        hardware.test_batch()


def test_a_killed_scoring_needs_no_second_inference(job, saved, uninterrupted, monkeypatch):
    groups = dict(
        zip(("base", "novel"), experiments.load().label_set(DATASET).base_and_novel("nonvoc2voc"), strict=True)
    )
    path = paths.predictions(DATASET, RUN, 0)

    def dies(*files):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "match", dies)
        TASK.predict(job, path)
        with pytest.raises(Killed):
            TASK.score(DATASET, path, groups)
    path.unlink()  # as DVC does when the stage starts again
    monkeypatch.setattr(prediction, "build_detector", dies)
    TASK.predict(job, path)
    assert set(TASK.score(DATASET, path, groups)) == {"per_category", "scores"}
    assert path.read_bytes() == uninterrupted
    detections.forget("f" * 20)
    assert not saved.exists()


def test_the_report_reads_the_predictions(job, saved, uninterrupted, monkeypatch):
    prediction.predict(job, paths.predictions(DATASET, RUN, 0))
    run = experiments.load().run(RUN)
    monkeypatch.setattr(measured, "result", lambda dataset, run: type("Result", (), {"seeds": (0,)}))
    by_image = measured.predictions(DATASET, run)
    assert sum(map(len, by_image.values())) == len(json.loads(uninterrupted))


def test_another_checkpoint_is_predicted_anew(job, saved, tmp_path):
    prediction.predict(job, tmp_path / "seed0.json")
    checkpoint = paths.checkpoint(DATASET, RUN, 0)
    content = torch.load(checkpoint, weights_only=True)
    name = next(iter(content["state_dict"]))
    before = saved.read_text().splitlines()[0]
    original = checkpoint.read_bytes()
    content["state_dict"][name] += 1
    torch.save(content, checkpoint)
    prediction.predict(job, tmp_path / "other.json")
    assert saved.read_text().splitlines()[0] != before
    checkpoint.write_bytes(original)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("column", [0, 4])
def test_a_detection_that_is_not_finite_is_refused(value, column):
    boxes, masks = [np.float32([[1, 2, 5, 6, 0.5]]), np.zeros((0, 5), np.float32)], [[np.ones((8, 8), bool)], []]
    assert [record["score"] for record in prediction._records(3, [1, 2], boxes, masks)] == [0.5]
    boxes[0][0, column] = value
    with pytest.raises(ExperimentError, match="image 3: a detection has a box or score that is not finite"):
        prediction._records(3, [1, 2], boxes, masks)
