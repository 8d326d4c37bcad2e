"""MMDetection's own functions and tools work with the configuration that lies beside a run's weights."""

import collections.abc
import runpy
import sys
from pathlib import Path

import mmcv
import mmdet
import numpy as np
import pytest
from mmdet.apis import inference_detector, init_detector
from mmdet.datasets import build_dataset

from pipeline.artifacts import paths
from pipeline.declaration import subsets
from pipeline.trained.loading import load_model
from tests import tiny

TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"


@pytest.fixture
def published(trained, root, monkeypatch):
    """The folder of the run, from the root of the working copy."""
    monkeypatch.chdir(root)
    return paths.checkpoint(tiny.DATASET, tiny.RUN, 0).parent


def images():
    return sorted(subsets.validation(tiny.DATASET).images.iterdir())


def test_inference_detector_detects_what_the_loaded_model_does(published):
    model = init_detector(str(published / "config.py"), str(published / "checkpoint.pth"), device="cpu")
    ours = load_model(published / "checkpoint.pth", tiny.DATASET)
    assert list(model.CLASSES) == list(ours.model.CLASSES)
    boxes, masks = inference_detector(model, str(images()[0]))
    again, _ = inference_detector(ours.model, str(images()[0]))
    assert sum(map(len, boxes)) == 5 and len(masks) == len(model.CLASSES)
    for one, other in zip(boxes, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_its_training_data_are_those_of_the_training(published, trained):
    full = mmcv.Config.fromfile(str(published / "config.py"))
    dataset = build_dataset(full.data.train)
    sample = dataset[0]
    assert sample["gt_is_novel"].data.dtype is not None and len(sample["gt_is_novel"].data) == len(
        sample["gt_labels"].data
    )
    assert dataset.CLASSES == load_model(tiny.RUN).labels.names


def tool(monkeypatch, capsys, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(TOOLS / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.slow
def test_get_flops(published, monkeypatch, capsys):
    said = tool(monkeypatch, capsys, "analysis_tools/get_flops.py", published / "config.py", "--shape", 128, 128)
    assert "Flops" in said and "Params" in said


@pytest.mark.slow
def test_browse_dataset(published, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(collections, "Sequence", collections.abc.Sequence, raising=False)  # gone since Python 3.10
    tool(monkeypatch, capsys, "misc/browse_dataset.py", published / "config.py", "--not-show", "--output-dir", tmp_path)
    assert len(list(tmp_path.glob("*"))) == 12


@pytest.mark.slow
def test_the_tool_that_tests(published, monkeypatch, capsys):
    said = tool(
        monkeypatch,
        capsys,
        "test.py",
        published / "config.py",
        published / "checkpoint.pth",
        *("--eval", "bbox", "segm", "--cfg-options", "data.workers_per_gpu=0"),
    )
    assert "segm_mAP" in said
