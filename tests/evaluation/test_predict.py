"""Inference and scoring of a small model with random weights: killed, repeated, and saved in between."""

import json

import pytest
import torch

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv
from mmdet.models import build_detector

from pipeline import config, evaluation, experiments, paths
from pipeline.datasets.categories import base_and_novel
from pipeline.datasets.prepare import prepare
from pipeline.reporting import measured

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
        training = config.resolve(RUN, DATASET, 0)
        training.model["test_cfg"]["rcnn"]["score_thr"] = 0.0  # or random weights detect nothing
        torch.manual_seed(0)
        checkpoint = paths.checkpoint(DATASET, RUN, 0)
        checkpoint.parent.mkdir(parents=True)
        weights = build_detector(mmcv.ConfigDict(training.model)).state_dict()
        torch.save({"state_dict": weights, "meta": {"fingerprint": "f" * 20}}, checkpoint)
        yield training


@pytest.fixture
def saved(job):
    path = paths.saved_predictions("f" * 20)
    path.unlink(missing_ok=True)
    return path


@pytest.fixture(scope="module")
def uninterrupted(job, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "seed0.json"
    evaluation.predict(job, path)
    content = path.read_bytes()
    assert len({record["image_id"] for record in json.loads(content)}) == 5
    return content


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def test_a_killed_inference_goes_on(job, saved, uninterrupted, tmp_path, monkeypatch):
    save, images = evaluation._save, []

    def counted(lines, image, *detected):
        if len(images) == 2:
            raise Killed
        images.append(image)
        save(lines, image, *detected)

    monkeypatch.setattr(evaluation, "_save", counted)
    with pytest.raises(Killed):
        evaluation.predict(job, tmp_path / "seed0.json")
    assert not (tmp_path / "seed0.json").exists() and len(saved.read_text().splitlines()) == 1 + 2
    again = []

    def noted(lines, image, *detected):
        again.append(image)
        save(lines, image, *detected)

    monkeypatch.setattr(evaluation, "_save", noted)
    evaluation.predict(job, tmp_path / "seed0.json")
    assert len(again) == 3 and not set(again) & set(images)
    assert (tmp_path / "seed0.json").read_bytes() == uninterrupted


def test_a_killed_scoring_needs_no_second_inference(job, saved, uninterrupted, monkeypatch):
    groups = base_and_novel(experiments.load().directions["nonvoc2voc"])

    def dies(*files):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "match", dies)
        with pytest.raises(Killed):
            evaluation.evaluate(job, *groups)
    paths.predictions(DATASET, RUN, 0).unlink()  # as DVC does when the stage starts again
    monkeypatch.setattr(evaluation, "build_detector", dies)
    scores = evaluation.evaluate(job, *groups)
    assert set(scores) == {"per_category", "segm", "bbox"}
    assert paths.predictions(DATASET, RUN, 0).read_bytes() == uninterrupted
    evaluation.forget("f" * 20)
    assert not saved.exists()


def test_the_report_reads_the_predictions(job, saved, uninterrupted, monkeypatch):
    evaluation.predict(job, paths.predictions(DATASET, RUN, 0))
    run = experiments.load().run(RUN)
    monkeypatch.setattr(measured, "result", lambda dataset, run: type("Result", (), {"seeds": (0,)}))
    by_image = measured.predictions(DATASET, run)
    assert sum(map(len, by_image.values())) == len(json.loads(uninterrupted))


def test_another_checkpoint_is_predicted_anew(job, saved, tmp_path):
    evaluation.predict(job, tmp_path / "seed0.json")
    checkpoint = paths.checkpoint(DATASET, RUN, 0)
    content = torch.load(checkpoint, weights_only=True)
    name = next(iter(content["state_dict"]))
    before = saved.read_text().splitlines()[0]
    original = checkpoint.read_bytes()
    content["state_dict"][name] += 1
    torch.save(content, checkpoint)
    evaluation.predict(job, tmp_path / "other.json")
    assert saved.read_text().splitlines()[0] != before
    checkpoint.write_bytes(original)
