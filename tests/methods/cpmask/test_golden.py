"""The first author's numbers are reproduced, other sizes too, and `verify` notices when they are not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ExperimentError
from pipeline.methods.cpmask.golden import FIXTURES, verify

from . import reference

GOLDEN = Path(__file__).parents[2] / "golden_comparison" / "cpmask"
SIZES = {
    "as the authors' groups": {"rois": 3, "channels": 32, "size": 6, "convs": 4, "boundary_convs": 4},
    "two channels in a group": {"rois": 4, "channels": 64, "size": 5, "convs": 2, "boundary_convs": 3},
    "no multiple of 32": {"rois": 2, "channels": 12, "size": 10, "convs": 1, "boundary_convs": 1},
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def failed(folder):
    checks = list(verify(folder))
    assert checks
    return [str(check) for check in checks if not check.ok]


def changed(file, **arrays):
    with np.load(file) as archive:
        np.savez(file, **{**archive, **arrays})


def test_the_authors_numbers_are_reproduced():
    checks = list(verify(GOLDEN))
    assert [str(check) for check in checks if not check.ok] == []
    assert {check.fixture for check in checks} == FIXTURES.keys() - {"head.npz", "head_grads.npz"}


@pytest.mark.parametrize("size", SIZES)
def test_the_head_is_that_of_plain_functions(size, tmp_path):
    reference.write(tmp_path, **SIZES[size], seed=len(size))
    assert failed(tmp_path) == []


def test_every_array_that_is_off_fails_its_line_alone(tmp_path):
    reference.write(tmp_path, **SIZES["no multiple of 32"])
    with np.load(tmp_path / "head.npz") as archive:
        written = dict(archive)
    inputs = ("param.", "roi_feats", "mask_targets", "boxes", "polygons")
    wrong = {name: value for name, value in written.items() if not name.startswith(inputs)}
    for name, value in wrong.items():
        changed(tmp_path / "head.npz", **{name: ~value if value.dtype == bool else value + np.abs(value).max() * 1e-3})
    lines = failed(tmp_path)
    assert {line.split()[2] for line in lines} == wrong.keys()


def test_a_wrong_shape_fails_instead_of_broadcasting(tmp_path):
    reference.write(tmp_path, **SIZES["no multiple of 32"])
    with np.load(tmp_path / "head.npz") as archive:
        logits = archive["mask_logits"]
    changed(tmp_path / "head.npz", mask_logits=logits[:1])
    (line,) = failed(tmp_path)
    assert "mask_logits" in line and "shape" in line


def test_other_counts_of_the_small_fixtures(tmp_path):
    for name in ("boundary.npz", "class_filter.npz"):
        shutil.copy(GOLDEN / name, tmp_path)
    with np.load(GOLDEN / "boundary.npz") as archive:
        few = {name: value[3:8, 2:21, 5:] for name, value in archive.items()}
    few["boundary"] = np.stack([reference.boundary(mask) for mask in few["masks"]])
    few["eroded"] = few["masks"] & ~few["boundary"]
    np.savez(tmp_path / "boundary.npz", **few)
    with np.load(GOLDEN / "class_filter.npz") as archive:
        objects = {name: archive[name] for name in archive if not name.startswith(("selected_", "classes", "roi_in"))}
    counted = {"roi_in_mask_loss_voc": [True, False], "roi_in_mask_loss_non_voc": [False, True]}
    fewer = {name: value[:2] for name, value in objects.items()} | {name: np.array(v) for name, v in counted.items()}
    changed(tmp_path / "class_filter.npz", **fewer)
    assert failed(tmp_path) == []
    changed(tmp_path / "class_filter.npz", roi_in_mask_loss_voc=np.array([True, True]))
    (line,) = failed(tmp_path)
    assert "roi_in_mask_loss_voc" in line


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ExperimentError, match="no fixtures"):
        list(verify(tmp_path))
    np.savez(tmp_path / "head_grads.npz", x=np.zeros(1))
    with pytest.raises(ExperimentError, match="head_grads.npz: needs head.npz beside it"):
        list(verify(tmp_path))
    np.savez(
        tmp_path / "head.npz", **{"param.mask_transform.weight": np.zeros((4, 4, 1, 1)), "param.surplus": np.ones(1)}
    )
    with pytest.raises(ExperimentError, match="no tensor of the mask head is called surplus there"):
        list(verify(tmp_path))
    (tmp_path / "boundary.npz").write_bytes(b"no archive")
    with pytest.raises(ExperimentError, match="boundary.npz: cannot be read"):
        list(verify(tmp_path))
    (tmp_path / "boundary.npz").unlink()
    np.savez(tmp_path / "another.npz", x=np.zeros(1))
    with pytest.raises(ExperimentError, match="another.npz: unknown fixture; known are boundary.npz, "):
        list(verify(tmp_path))
