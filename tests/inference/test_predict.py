"""`commands.predict`: the evaluation's numbers, pictures of any mode, nothing predicted twice, results that fit."""

import json
import runpy
import shutil
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from pipeline.artifacts import paths
from pipeline.declaration import config
from pipeline.errors import ExperimentError
from pipeline.inference import models, outputs, pictures, predict
from pipeline.tasks.instances import prediction

from .conftest import DATASET, RUN

SCORE = 0.013  # that some detections of random weights have


def run(capsys, *arguments):
    """What the command prints, and its error line; exit code 0 without one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["predict", *map(str, arguments)])
        try:
            runpy.run_module("commands.predict", run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = ended.code
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert bool(code) == bool(errors)
    return said.out, *errors


@pytest.fixture(scope="module")
def out(root, tmp_path_factory):
    """The results of the validation images."""
    out = tmp_path_factory.mktemp("results") / "out"
    folder = paths.images(DATASET, "val2017")
    detector = models.load(RUN)
    found, skipped = pictures.measured(pictures.find([folder]))
    with predict.predicted(detector, found, out, SCORE, 1) as lines:
        outputs.write(lines, found, skipped, detector, out, SCORE, detector.names)
    return out


@pytest.mark.slow
def test_numbers_are_those_of_the_evaluation(root, out, tmp_path):
    training = config.resolve(RUN, DATASET, 0)
    training.model["test_cfg"]["rcnn"]["score_thr"] = SCORE
    prediction.predict(training, tmp_path / "seed0.json")
    evaluated = json.loads((tmp_path / "seed0.json").read_text())
    names = {i["id"]: i["file_name"] for i in json.loads(paths.annotations(DATASET, "val2017").read_text())["images"]}
    ours = {i["id"]: i["file_name"] for i in json.loads((out / "annotations.json").read_text())["images"]}

    def by_image(records, names):
        named = [record | {"image_id": names[record["image_id"]]} for record in records]
        return sorted(named, key=lambda record: (record["image_id"], -record["score"], record["category_id"]))

    assert len(evaluated) > 5
    assert by_image(json.loads((out / "results.json").read_text()), ours) == by_image(evaluated, names)
