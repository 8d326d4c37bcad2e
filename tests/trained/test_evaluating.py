"""Any checkpoint is scored as a run is."""

import json
import sys

import pytest

from commands import evaluate as command
from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.tasks.instances import TASK, prediction, scoring
from pipeline.trained import evaluating
from tests import tiny
from tests.trained.conftest import classes


def test_a_run_s_file_has_the_scores_of_the_run(trained, tmp_path):
    file = paths.checkpoint(tiny.DATASET, tiny.RUN, 0)
    result = evaluating.evaluate(file, run=tiny.RUN)
    prediction.predict(trained, tmp_path / "run.json")
    labels = experiments.load().label_set(tiny.DATASET)
    groups = TASK.named(*labels.base_and_novel("nonvoc2voc"))
    assert result["scores"] == scoring.score_predictions(tiny.DATASET, tmp_path / "run.json", groups)["scores"]
    assert (result["dataset"], result["direction"], result["origin"]) == (tiny.DATASET, "nonvoc2voc", "this project")
    assert len(evaluating.table(result).splitlines()) == 2 + 2 * 3


@pytest.mark.parametrize("masks", [True, False])
def test_a_detector_of_mmdetection(of_mmdetection, monkeypatch, capsys, tmp_path, masks):
    file, out = of_mmdetection(classes(), masks), tmp_path / "scores.json"
    monkeypatch.setattr(sys, "argv", ["evaluate", "--checkpoint", str(file), "--out", str(out)])
    command.main()
    said = capsys.readouterr().out
    assert "(MMDetection) on the validation images of generated" in said
    kinds = {row["kind"] for row in json.loads(out.read_text())["scores"]}
    assert kinds == ({"bbox", "segm"} if masks else {"bbox"}) and ("mask" in said) == masks


def test_what_cannot_be_evaluated_is_said(trained, of_mmdetection, tmp_path):
    shapes = of_mmdetection(("disc", "star"))
    silent = of_mmdetection(classes(), config=None)
    executes = of_mmdetection(classes(), config="import os")
    foreign = of_mmdetection(classes(), config="model = dict(type='Other')\ncustom_imports = dict(imports=['os'])")
    file = paths.checkpoint(tiny.DATASET, tiny.RUN, 0)
    for words, given in {
        "its 2 classes are not the 80 of label set 'coco': it has 'disc', 'star' and lacks": {"file": shapes},
        "says nothing of its architecture": {"file": silent},
        "not a configuration as MMDetection prints it \\(line 1 is no assignment": {"file": executes},
        "wants to import 'os', which is of neither this project nor MMDetection": {"file": foreign},
        "no such file": {"file": tmp_path / "absent.pth"},
        "unknown run 'contrast'": {"file": file, "run": "contrast"},
        "unknown dataset 'generate'": {"file": file, "dataset": "generate"},
        "unknown direction 'voc'": {"file": file, "direction": "voc"},
        "absent.py: no such file": {"file": silent, "configuration": tmp_path / "absent.py"},
        "run `python -m stages.download generated_v1`": {"file": file, "dataset": "generated_v1"},
    }.items():
        with pytest.raises(ExperimentError, match=words):
            evaluating.evaluate(**given)
