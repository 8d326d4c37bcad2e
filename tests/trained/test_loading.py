"""A trained detector is loaded by the name of its run or by its file, whoever wrote that."""

import shutil

import pytest
import torch

from pipeline.artifacts import paths
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import released_checkpoint as released
from pipeline.trained import reading
from pipeline.trained.loading import load_model
from tests import tiny
from tests.trained.conftest import plain


def test_a_run_and_its_file_give_the_same_model(trained):
    run = load_model(tiny.RUN)
    path = paths.checkpoint(tiny.DATASET, tiny.RUN, 0)
    for given in (path, path.parent):
        file = load_model(given, tiny.DATASET)
        state = file.model.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in run.model.state_dict().items())
        assert file.config.model == run.config.model
    assert run.labels.names == run.model.CLASSES == label_set("coco").names
    assert not run.model.training and run.model.test_cfg.rcnn.score_thr == 0.0
    assert run.config.data.test.pipeline[0].type == "LoadWholeImage"


def test_what_cannot_be_loaded_is_said(trained, tmp_path):
    path = paths.checkpoint(tiny.DATASET, tiny.RUN, 0)
    text = tmp_path / "text.pth"
    text.write_text("weights")
    alone = shutil.copy(path, tmp_path / "alone.pth")
    for given, words in (
        ("nothing_r50", "'nothing_r50': neither a file nor a run"),
        (tmp_path / "absent.pth", "absent.pth: no such file"),
        (text, "text.pth: not a checkpoint of tensors alone"),
        (alone, "alone.pth: says nothing of its architecture; put the config.py of its training beside it"),
        ("contrastmask_c4f2", "not trained yet"),
    ):
        with pytest.raises(ExperimentError, match=words):
            load_model(given)


@pytest.mark.parametrize(
    "text",
    ["import os", "model = open('x')", "model = dict(**a)", "model = dict([1])", "a.b = 1", "model = (", "print(1)"],
)
def test_a_configuration_that_is_more_than_data_is_refused(text):
    with pytest.raises(ExperimentError, match="not a configuration as MMDetection prints it"):
        reading.literal(text, "config.py")


def test_a_configuration_is_read_as_mmcv_reads_it(trained):
    path = paths.config(tiny.DATASET, tiny.RUN, 0)
    found = reading.literal(path.read_text(), path)
    assert found["model"] == trained.model


def test_a_configuration_that_is_named_or_put_beside_mends_it(of_mmdetection, trained, tmp_path):
    file = of_mmdetection(("disc", "star"), config=None)
    with pytest.raises(ExperimentError, match="put the config.py of its training beside it, or name .*: --config FILE"):
        load_model(file)
    text = plain(trained, ("disc", "star")).pretty_text
    named = tmp_path / "mask_rcnn.py"
    named.write_text(text)
    assert load_model(file, config=named).labels.names == ("disc", "star")
    file.with_name("config.py").write_text(text)
    assert load_model(file).model.CLASSES == ("disc", "star")
    named.write_text(plain(trained, ("disc", "star", "bolt")).pretty_text)
    with pytest.raises(ExperimentError, match="names 2 classes, its configuration has 3"):
        load_model(file, config=named)


def test_an_imported_checkpoint_is_known_by_its_names(root, tmp_path):
    """Its model is at full size: built without memory, its weights are never looked at."""
    with torch.device("meta"):
        state = released.released_model("r50").state_dict()
    theirs = {
        released.released_key(key): torch.empty(released.released_shape(key, t.shape)) for key, t in state.items()
    }
    for given in ({"state_dict": theirs}, theirs):
        found = released.renamed(given.get("state_dict", given))
        assert {key: tuple(tensor.shape) for key, tensor in found.items()} == {
            k: tuple(t.shape) for k, t in state.items()
        }
    checkpoint = reading.Checkpoint(tmp_path / "released.pth", found, {}, reading.RELEASED, "contrastmask")
    assert checkpoint.configuration()["model"]["backbone"]["depth"] == 50
    assert released.renamed({"backbone.conv1.weight": torch.ones(1)}) is None
