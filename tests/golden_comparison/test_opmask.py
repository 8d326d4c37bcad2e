"""OPMask gives the numbers of its released code, and those of plain torch for other sizes; altered ones are noticed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ExperimentError
from pipeline.methods.opmask import released_checkpoint as released
from pipeline.methods.opmask.batch_norm import RoIBatchNorm
from pipeline.methods.opmask.golden import verify

from . import plain_opmask as plain

FOLDER = Path(__file__).parent / "opmask"
# What a computation starts from; everything else is compared.
INPUTS = {
    "cam": {"roi_feats", "labels", "upstream14"},
    "mask_head": {
        *("roi_feats", "cams", "all_classes", "all_boxes", "image_of", "is_foreground", "polygons"),
        *("supervised_odd", "supervised_40_classes_inc", "loss_odd_without_base"),
    },
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def failures(folder):
    return [str(check) for check in verify(folder) if not check.ok]


def test_the_released_numbers_are_reproduced():
    checks = list(verify(FOLDER))
    assert len(checks) > 80 and [str(check) for check in checks if not check.ok] == []


@pytest.mark.parametrize(("seed", "rois"), [(1, 1), (2, 6)])
def test_other_sizes_and_values(tmp_path, seed, rois):
    torch.manual_seed(seed)
    plain.write_cam(tmp_path, rois + 1, (4, 8, 12, 12) if seed == 1 else (6, 12, 24), classes=2 + seed, size=4 + seed)
    plain.write_mask_head(tmp_path, rois + 1, channels=4 * seed, convs=1 + seed, size=4 + seed)
    assert failures(tmp_path) == []


def test_the_norm_is_the_authors_unless_told_otherwise():
    with np.load(FOLDER / "sync_bn.npz") as archive:
        assert np.allclose([RoIBatchNorm(1).eps, RoIBatchNorm(1).momentum], [archive["eps"], archive["momentum"]])


@pytest.mark.parametrize("name", ["cam", "mask_head"])
def test_every_altered_array_is_noticed(tmp_path, name):
    torch.manual_seed(0)
    getattr(plain, f"write_{name}")(tmp_path)
    with np.load(tmp_path / f"{name}.npz") as archive:
        arrays = dict(archive)
    compared = {key for key in arrays if not key.startswith("param.")} - INPUTS[name]
    for key in compared:
        values = arrays[key]
        arrays[key] = ~values if values.dtype == bool else values + np.float32(0.01 * (np.abs(values).max() or 1))
    np.savez(tmp_path / f"{name}.npz", **arrays)
    checks = [check for check in verify(tmp_path) if check.fixture == f"{name}.npz"]
    assert {check.array for check in checks if not check.ok} == compared
    assert [check.array for check in checks if check.ok] in (
        [],
        ["loss_odd_without_base", "loss_odd_without_base: attached"],
    )


def test_unbiased_variance_and_weights_by_process_are_noticed(tmp_path):
    with np.load(FOLDER / "sync_bn.npz") as archive:
        arrays = dict(archive)
    cells = arrays["counts"].sum() * arrays["x0"][0, 0].size
    before = arrays["param.running_var"]
    batch = (arrays["running_var0"] - (1 - arrays["momentum"]) * before) / arrays["momentum"]
    unbiased = ((1 - arrays["momentum"]) * before + arrays["momentum"] * batch * cells / (cells - 1)).astype(np.float32)
    np.savez(tmp_path / "sync_bn.npz", **arrays | {"running_var0": unbiased})
    assert [check.array for check in verify(tmp_path) if not check.ok] == ["running_var0"]


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(ExperimentError, match="no fixtures"):
        list(verify(tmp_path))
    np.savez(tmp_path / "cam.npz", labels=np.zeros(2))
    with pytest.raises(ExperimentError, match=r"cam\.npz: array 'roi_feats' is missing"):
        list(verify(tmp_path))
    np.savez(tmp_path / "boxes.npz", x=np.zeros(1))
    with pytest.raises(ExperimentError, match="unknown fixture"):
        list(verify(tmp_path))


def test_a_name_that_the_released_model_has_not_is_noticed(tmp_path):
    names = json.loads((FOLDER / "state_dict_keys_r50.json").read_text())
    names["roi_heads.mask_head.mask_down8.weight"] = names.pop("roi_heads.mask_head.mask_down7.weight")
    (tmp_path / "state_dict_keys_r50.json").write_text(json.dumps(names))
    shutil.copy(FOLDER / "cam_param_names.json", tmp_path)
    assert [check.array for check in verify(tmp_path) if not check.ok] == ["names and shapes", "names back"]


# Checkpoints


@pytest.fixture(scope="module", params=["r50", "r101"])
def state(request):
    shapes = json.loads((FOLDER / f"state_dict_keys_{request.param}.json").read_text())
    drawn = torch.Generator().manual_seed(0)
    if request.param == "r101":  # shapes are enough
        return request.param, {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    return request.param, {
        key: torch.tensor(index) if key.endswith("tracked") else torch.randn(shape, generator=drawn)
        for index, (key, shape) in enumerate(shapes.items())
    }


def test_a_checkpoint_is_converted_and_back(state, tmp_path, monkeypatch):
    backbone, theirs = state
    kept = {}
    monkeypatch.setattr(released, "load_state", lambda path: (kept[path]["state_dict"], kept[path].get("meta", {})))
    monkeypatch.setattr(released, "save", lambda content, out: kept.update({out: content}))
    kept["theirs"] = {"state_dict": theirs}
    assert released.convert("theirs", "ours") == backbone
    ours = kept["ours"]["state_dict"]
    with torch.device("meta"):
        model = released.released_model(backbone)
    assert model.load_state_dict(ours, strict=True, assign=True)
    assert released.renamed(theirs).keys() == ours.keys() and released.renamed(ours) is ours
    assert ours["roi_head.mask_head.convs.6.bn.weight"] is theirs["roi_heads.mask_head.mask_down7.norm.weight"]
    assert released.convert("ours", "back", reverse=True) == backbone
    back = kept["back"]["model"]
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in theirs.items())


def test_a_file_is_written_whole_and_what_does_not_fit_is_named(tmp_path):
    shapes = json.loads((FOLDER / "state_dict_keys_r50.json").read_text())
    theirs = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    del theirs["roi_heads.box_head.conv2.weight"]
    torch.save({"model": theirs | {"extra": torch.zeros(1)}}, tmp_path / "theirs.pth")
    with pytest.raises(ExperimentError, match=r"not mapped: extra; missing: roi_heads.box_head.conv2.weight$"):
        released.convert(tmp_path / "theirs.pth", tmp_path / "ours.pth")
    assert not (tmp_path / "ours.pth").exists()
    torch.save({"model": {}}, tmp_path / "theirs.pth")
    with pytest.raises(ExperimentError, match="expected OPMask with one of the backbones r50, r101"):
        released.convert(tmp_path / "theirs.pth", tmp_path / "ours.pth")


def test_states_of_other_code_are_not_taken():
    assert released.renamed({"roi_head.mask_head.convs.0.conv.weight": torch.zeros(1)}) is None


def test_the_backbone_of_a_converted_file_sees_what_the_released_one_did():
    """Blue first, 0 to 255 less the mean, from an image normalised as all are here."""
    from mmdet.models import ResNet

    from pipeline.methods.shared.blue_first_resnet import BlueFirstResNet
    from pipeline.tasks.instances.steps import IMAGE_NORM

    small = {"depth": 18, "base_channels": 8, "stem_channels": 8, "style": "caffe"}
    ours, stock = BlueFirstResNet(**small), ResNet(**small)
    ours.eval(), stock.eval()
    stock.load_state_dict(ours.state_dict())
    pixels = torch.randint(256, (1, 3, 32, 32)).float()  # red first
    mean, std = (torch.tensor(IMAGE_NORM[part])[:, None, None] for part in ("mean", "std"))
    theirs = pixels.flip(1) - torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    for got, expected in zip(ours((pixels - mean) / std), stock(theirs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
