"""ShapeMask gives the numbers of its authors' code, and those of a second implementation at other sizes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ExperimentError
from pipeline.methods.shapemask import golden, released_checkpoint
from tests.methods import plain_shapemask

GOLDEN = Path(__file__).parents[1] / "golden_comparison/shapemask"
VARIABLES = GOLDEN / "mask_heads_variables_agnostic.json"
# What a fixture's computation starts from; all else in the files is compared.
INPUTS = {
    "boxes.npz": {"boxes_yxyx", "noise_dx_dy_dw_dh", "image_size_hw", "edge_boxes"},
    "crops.npz": {"boxes_yxyx", "outer_boxes_yxyx", "mask_in", "level_boxes_yxyx"},
    "prior_head_agnostic.npz": {"priors", "classes", "mask_targets", "valid"},
    "prior_head_classaware.npz": {"priors", "classes", "valid"},
    "coarse_fine.npz": {"instance_features", "prior_in_outer", "mask_targets", "valid"},
    "losses.npz": {"logits", "labels"},
    "targets.npz": {"masks", "outer_boxes_yxyx"},
    "kmeans_ours.npz": {"masks", "initial"},
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def failures(folder):
    return [str(check) for check in golden.verify(folder) if not check.ok]


def test_the_authors_numbers_are_reproduced():
    assert failures(GOLDEN) == []


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    plain_shapemask.write(folder, 5)
    return folder


def test_every_array_of_other_sizes_is_reproduced(other):
    checks = list(golden.verify(other))
    assert [str(check) for check in checks if not check.ok] == []
    compared = {(check.fixture, check.array) for check in checks}
    for file in other.glob("*.npz"):
        with np.load(file) as arrays:
            names = set(arrays.files) - INPUTS.get(file.name, set())
        left = {name for name in names if (file.name, name) not in compared}
        assert {name for name in left if not name.startswith(("param.", "valid_", "p3", "p4", "p5", "p6"))} == set(), (
            file
        )


def test_crops_of_large_images_are_within_the_tolerance_of_small_ones():
    """Against the authors' formula in float64: what we round must not grow with the coordinates."""
    torch.manual_seed(0)
    levels = (4, 5)
    pyramid = {level: torch.randn(1, 2048 >> level, 2048 >> level, 2) for level in levels}
    boxes = torch.tensor([[[1500.3, 1700.7, 1711.9, 1930.2], [1610.1, 1822.4, 1990.6, 2001.1]]])
    theirs = torch.empty(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_shapemask, "LEVELS", levels)
        theirs = plain_shapemask.crop({k: v.double() for k, v in pyramid.items()}, boxes, 14)
    images = [pyramid[level].permute(0, 3, 1, 2).contiguous() for level in levels]
    ours = golden.channels_last(golden._crop(None, levels, images, boxes, 14), boxes)
    assert (ours - theirs).abs().max() < 1e-6 * theirs.abs().max()


def test_yet_other_counts(tmp_path):
    plain_shapemask.write(tmp_path, 6, images=2, instances=3, cells=8, width=3, clusters=5, classes=2, convs=1, up=2)
    assert failures(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("boxes", "jittered"),
        ("crops", "crop"),
        ("prior_head_agnostic", "grad.prior_mask/dense/kernel"),
        ("coarse_fine", "after.fine_mask/class-0-bn/moving_variance"),
        ("coarse_fine_grads", "grad_fine.coarse_mask/dense/kernel"),
        ("losses", "bce_some"),
    ],
)
def test_a_number_beyond_tolerance_fails_its_line_alone(other, tmp_path, name, array):
    for file in other.iterdir():
        if file.stem in (name, "crops", "coarse_fine", "coarse_fine_param_names"):
            shutil.copy(file, tmp_path)
    with np.load(tmp_path / f"{name}.npz") as archive:
        arrays = dict(archive)
    np.savez(tmp_path / f"{name}.npz", **arrays | {array: arrays[array] * 1.001})
    assert [check.array for check in golden.verify(tmp_path) if not check.ok] == [array]


def test_a_lacking_companion_and_an_unknown_file_are_refused(other, tmp_path):
    shutil.copy(other / "prior_head_agnostic.npz", tmp_path)
    with pytest.raises(ExperimentError, match="crops.npz: no such file"):
        list(golden.verify(tmp_path))
    np.savez(tmp_path / "another.npz", x=np.zeros(1))
    with pytest.raises(ExperimentError, match="unknown fixture"):
        list(golden.verify(tmp_path))


def variables():
    shapes = json.loads(VARIABLES.read_text())
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_the_authors_variables_are_converted_and_back(tmp_path):
    theirs = variables()
    np.savez(tmp_path / "theirs.npz", **theirs)
    released_checkpoint.convert(tmp_path / "theirs.npz", tmp_path / "ours.pth")
    released_checkpoint.convert(tmp_path / "ours.pth", tmp_path / "back.npz", reverse=True)
    with np.load(tmp_path / "back.npz") as back:
        assert set(back.files) == set(theirs)
        assert all((back[name] == theirs[name]).all() for name in theirs)
    state = torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"]
    weight = state["roi_head.mask_head.coarse.decoder.convs.2.weight"]
    assert (weight[5, 7, 0, 1].item()) == theirs["coarse_mask/class-2/kernel"][0, 1, 7, 5]
    assert state["roi_head.mask_head.fine.decoder.upsample.weight"].shape == (128, 128, 4, 4)


def test_they_fit_the_model(tmp_path):
    from mmcv import ConfigDict
    from mmdet.models import build_detector

    np.savez(tmp_path / "theirs.npz", **variables())
    released_checkpoint.convert(tmp_path / "theirs.npz", tmp_path / "ours.pth")
    state = torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"]
    assert released_checkpoint.renamed(state) is state and released_checkpoint.renamed({"backbone.x": 1}) is None
    with torch.device("meta"):
        expected = build_detector(ConfigDict(released_checkpoint.configuration(state, tmp_path))).state_dict()
    place = released_checkpoint.PLACE
    ours = {key for key in expected if key.startswith(place) and not key.endswith(released_checkpoint.LEFT_OUT)}
    assert ours == set(state) and all(expected[key].shape == state[key].shape for key in ours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v | {"prior_mask/dense/other": np.zeros(1)}, "not mapped: prior_mask/dense/other"),
        (lambda v: {k: x for k, x in v.items() if k != "fine_mask/dense/bias"}, "missing: fine_mask/dense/bias"),
        (lambda v: v | {"fine_mask/dense/bias": np.zeros(3)}, r"fine_mask/dense/bias: shape \(3,\), expected \(128,\)"),
        (lambda v: {"prior_mask/dense/bias": np.zeros(3)}, "is missing or has other dimensions"),
    ],
)
def test_other_variables_are_refused(tmp_path, change, message):
    np.savez(tmp_path / "theirs.npz", **change(variables()))
    with pytest.raises(ExperimentError, match=message):
        released_checkpoint.convert(tmp_path / "theirs.npz", tmp_path / "ours.pth")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "theirs.npz").write_text("no archive")
    with pytest.raises(ExperimentError, match="no numpy archive of variables"):
        released_checkpoint.convert(tmp_path / "theirs.npz", tmp_path / "ours.pth")
    torch.save({"backbone.x": torch.zeros(1)}, tmp_path / "ours.pth")
    with pytest.raises(ExperimentError, match="holds no roi_head.mask_head"):
        released_checkpoint.convert(tmp_path / "ours.pth", tmp_path / "back.npz", reverse=True)
