"""A checkpoint of a model of label maps is scored as a run is."""

import mmcv
import pytest
import torch
from mmdet.models import build_detector

from pipeline import methods
from pipeline.artifacts import checkpoint, paths
from pipeline.declaration import config
from pipeline.errors import ExperimentError
from pipeline.inference import models
from pipeline.tasks.semantic import TASK, prediction, scoring
from pipeline.trained import evaluating, published
from tests.semantic.conftest import DATASET

RUN = "simformer_basic_s1"


@pytest.fixture
def trained(scenes, tmp_path, monkeypatch):
    """The training of a run whose weights are random; `write` changes one of them."""
    monkeypatch.setattr(paths, "checkpoint", lambda *_: tmp_path / "checkpoint.pth")
    monkeypatch.setattr(paths, "config", lambda *_: tmp_path / "config.py")
    monkeypatch.setattr(paths, "scratch", lambda name: tmp_path / "scratch" / name)
    training = config.resolve(RUN, DATASET, 0)
    methods.register(training.method, training.knobs)
    torch.manual_seed(0)
    weights = build_detector(mmcv.ConfigDict(training.model)).state_dict()
    paths.config().write_text(published.configuration(training))

    def write(**changed):
        meta = {"fingerprint": "f" * 20, "CLASSES": list(scenes.names)}
        checkpoint.write(paths.checkpoint(), weights | changed, meta)
        return paths.checkpoint()

    write()
    return training, write


def test_a_run_s_file_has_the_scores_of_the_run(trained, scenes, tmp_path):
    training, _ = trained
    result = evaluating.evaluate(tmp_path / "checkpoint.pth", run=RUN, dataset=DATASET)
    path = tmp_path / "seed0.json"
    prediction.predict(training, path)
    scores = scoring.score(DATASET, path, TASK.named(*scenes.base_and_novel("s1")))
    assert result["scores"] == scores["scores"] and result["per_category"] == scores["per_category"]
    assert result["direction"] == "s1" and any(row["value"] for row in result["scores"])
    lines = evaluating.table(result).splitlines()
    assert len(lines) == 2 + 3 and "mIoU" in lines[0] and "map" in lines[2]


def test_label_maps_are_no_detections(trained, tmp_path):
    with pytest.raises(ExperimentError, match="classes are not the"):
        evaluating.evaluate(tmp_path / "checkpoint.pth", dataset="generated")


def test_weights_that_are_not_finite_are_told_before_they_label(trained):
    training, write = trained
    name = "panoptic_head.cls_embed.weight"
    file = write(
        **{name: torch.full_like(build_detector(mmcv.ConfigDict(training.model)).state_dict()[name], torch.nan)}
    )
    for label in (lambda: evaluating.evaluate(file, dataset=DATASET), lambda: models.load(file, maps=True)):
        with pytest.raises(ExperimentError, match=f"{name}' holds a value that is not finite"):
            label()
