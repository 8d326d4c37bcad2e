"""Mask^X R-CNN gives the numbers of its released builders, and those of plain torch for other sizes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ExperimentError
from pipeline.methods.maskx import released_checkpoint as released
from pipeline.methods.maskx.golden import verify

from . import plain_maskx as plain

FOLDER = Path(__file__).parent / "maskx"
# What a computation starts from; everything else is compared. `none_*` but one are of a RoI that stands in there alone.
INPUTS = {
    "transfer": {"cls_score_w", "bbox_pred_w", "upstream"},
    "targets": {
        *("gt_boxes", "gt_labels", "gt_polygons", "rois", "labels", "labels_to_keep", "im_scale"),
        *("cross_roi", "cross_label", "none_mask_rois", "none_roi_has_mask"),
    },
    "head": {"roi_feats", "cls_score_w", "bbox_pred_w"},
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def test_the_released_numbers_are_reproduced():
    checks = list(verify(FOLDER))
    assert len(checks) > 50 and [str(check) for check in checks if not check.ok] == []


@pytest.mark.parametrize(
    ("seed", "sizes"),
    [(1, {}), (2, {"rois": 2, "classes": 7, "width": 3, "channels": 4, "convs": 4, "size": 5}), (3, {"mlp": False})],
)
def test_other_sizes_and_values(tmp_path, seed, sizes):
    torch.manual_seed(seed)
    plain.write_head(tmp_path, **sizes)
    checks = list(verify(tmp_path))
    assert len(checks) > 17 and [str(check) for check in checks if not check.ok] == []


@pytest.mark.parametrize("name", ["transfer", "targets", "head"])
def test_every_altered_array_is_noticed(tmp_path, name):
    torch.manual_seed(0)
    plain.write_head(tmp_path)
    if name != "head":
        shutil.copy(FOLDER / f"{name}.npz", tmp_path)
    with np.load(tmp_path / f"{name}.npz") as archive:
        arrays = dict(archive)
    compared = {key for key in arrays if not key.startswith("param")} - INPUTS[name]
    for key in compared - {"masks_int32"}:  # the labels of RoIs are read from it
        values = arrays[key]
        changed = np.float32(0.01 * (np.abs(values).max() or 1)) if values.dtype.kind == "f" else 1
        arrays[key] = ~values if values.dtype == bool else (values + changed).astype(values.dtype)
    np.savez(tmp_path / f"{name}.npz", **arrays)
    checks = [check for check in verify(tmp_path) if check.fixture == f"{name}.npz"]
    assert {check.array for check in checks if not check.ok} >= compared - {"masks_int32"}
    assert {check.array for check in checks} >= compared


def test_a_roi_that_gets_the_polygon_of_another_class_is_as_released(tmp_path):
    """The polygon is the nearest of all, of novel objects too: so the fixtures' rule, which nothing trains by."""
    with np.load(FOLDER / "targets.npz") as archive:
        arrays = dict(archive)
    side, kept = arrays["cross_target"].shape[-1], np.flatnonzero(arrays["roi_has_mask"])[0]
    arrays["rois"][kept], arrays["labels"][kept] = arrays["cross_roi"][0], arrays["cross_label"][0]
    arrays["mask_rois"][0, 1:] = arrays["cross_roi"][0] * arrays["im_scale"]
    targets = np.full((arrays["masks_int32"].shape[1] // side**2, side, side), -1, np.int8)
    targets[int(arrays["cross_label"][0])] = arrays["cross_target"]
    arrays["masks_int32"][0] = targets.reshape(-1)
    np.savez(tmp_path / "targets.npz", **arrays)
    failed = [check.array for check in verify(tmp_path) if not check.ok]
    assert failed == ["overlaps_roi_polygon_box"]  # of the RoI that was changed


def test_a_wrong_cell_of_a_target_is_noticed(tmp_path):
    with np.load(FOLDER / "targets.npz") as archive:
        arrays = dict(archive)
    arrays["masks_int32"][0, np.flatnonzero(arrays["masks_int32"][0] == 1)[0]] = 0
    np.savez(tmp_path / "targets.npz", **arrays)
    assert [check.array for check in verify(tmp_path) if not check.ok] == ["masks_int32"]


def test_another_filler_is_noticed(tmp_path):
    content = json.loads((FOLDER / "init_small.json").read_text())
    content["mask_mlp_logits_raw_w"][2]["std"] = 0.0011
    (tmp_path / "init_small.json").write_text(json.dumps(content))
    assert [check.array for check in verify(tmp_path) if not check.ok] == ["mask_mlp_logits_raw_w"]


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(ExperimentError, match="no fixtures"):
        list(verify(tmp_path))
    np.savez(tmp_path / "head_grads.npz", x=np.zeros(1))
    with pytest.raises(
        ExperimentError, match=r"head\.npz: no such file; head_grads\.npz holds gradients of what is in it"
    ):
        list(verify(tmp_path))


# Checkpoints


@pytest.fixture(scope="module")
def state():
    shapes = json.loads((FOLDER / "roi_head_blob_shapes.json").read_text())
    found = {blob: torch.zeros(()).expand(shape) for blob, shape in shapes.items() if "mlp_logits_raw_w" in blob}
    drawn = torch.Generator().manual_seed(0)
    return {
        blob: found.get(blob, torch.randn(shape, generator=drawn))
        for blob, shape in shapes.items()
        if blob not in found
    } | found


def test_both_heads_are_converted_and_back(state, monkeypatch):
    kept = {"theirs": {"state_dict": state}}
    monkeypatch.setattr(released, "load_state", lambda path: (kept[path]["state_dict"], kept[path].get("meta", {})))
    monkeypatch.setattr(released, "save", lambda content, out: kept.update({out: content}))
    assert released.convert("theirs", "ours") == "r50"
    ours = kept["ours"]["state_dict"]
    with torch.device("meta"):
        model = released.released_model()
    fitted = model.load_state_dict(ours, strict=False, assign=True)
    assert not fitted.unexpected_keys and not [key for key in fitted.missing_keys if key.startswith("roi_head.")]
    assert torch.equal(ours["roi_head.bbox_head.fc_cls.weight"][-1], state["cls_score_w"][0])  # background
    assert torch.equal(ours["roi_head.bbox_head.fc_cls.weight"][0], state["cls_score_w"][1])
    assert torch.equal(ours["roi_head.bbox_head.fc_reg.weight"], state["bbox_pred_w"][4:])
    assert released.renamed(state).keys() == ours.keys() and released.renamed(ours) is ours
    kept["ours"] = {"state_dict": ours, "meta": kept["ours"]["meta"]}
    released.convert("ours", "back", reverse=True)
    kept["ours"]["state_dict"] = ours | {"backbone.conv1.weight": torch.zeros(1)}  # as of any training
    released.convert("ours", "back of all", reverse=True)
    assert kept["back of all"]["model"].keys() == kept["back"]["model"].keys()
    back = kept["back"]["model"]
    assert back.keys() == state.keys() and all(torch.equal(back[blob], tensor) for blob, tensor in state.items())


def test_what_does_not_fit_is_named(state, tmp_path):
    broken = {blob: tensor for blob, tensor in state.items() if blob not in ("fc6_w", "mask_mlp_logits_raw_w")}
    torch.save(broken | {"conv1_w": torch.zeros(1)}, tmp_path / "theirs.pth")
    with pytest.raises(ExperimentError, match="not mapped: conv1_w; missing: fc6_w"):
        released.convert(tmp_path / "theirs.pth", tmp_path / "ours.pth")
    assert not (tmp_path / "ours.pth").exists()
    assert released.renamed({"roi_head.mask_head.convs.0.conv.weight": torch.zeros(1)}) is None
