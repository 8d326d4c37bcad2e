"""Checkpoints of the released code are converted strictly, and back."""

import json
import sys
from pathlib import Path

import mmcv
import pytest
import torch

from commands.import_checkpoint import main
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import released_checkpoint as released
from pipeline.methods.contrastmask.golden import drawn_parameter
from pipeline.trained.loading import load_model

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def state():
    shapes = json.loads((GOLDEN / "state_dict_keys_r50.json").read_text())
    return {
        key: torch.zeros(shape, dtype=torch.long if key.endswith("tracked") else torch.float32) + index
        for index, (key, shape) in enumerate(shapes.items())
    }


def saved(content, folder):
    torch.save(content, folder / "released.pth")
    return folder / "released.pth"


def test_conversion_loads_into_the_model_and_back_gives_the_same(state, tmp_path):
    file = saved({"state_dict": state, "meta": {"epoch": 12}}, tmp_path)
    assert released.convert(file, tmp_path / "new" / "ours.pth") == "r50"
    ours = torch.load(tmp_path / "new" / "ours.pth", weights_only=True)["state_dict"]
    with torch.device("meta"):
        model = released.released_model("r50")
    assert model.load_state_dict(ours, strict=True, assign=True)
    assert torch.equal(ours["roi_head.cl_head.fusion.weight"], state["roi_head.mask_head.fuseconv.weight"])
    released.convert(tmp_path / "new" / "ours.pth", tmp_path / "back.pth", reverse=True)
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("backbone", ["r101", "x50", "x101"])
def test_every_backbone_is_recognised(backbone, monkeypatch, tmp_path):
    shapes = json.loads((GOLDEN / f"state_dict_keys_{backbone}.json").read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    monkeypatch.setattr(released, "_load", lambda path: state)
    monkeypatch.setattr(released, "_save", lambda checkpoint, out: None)
    assert released.convert(tmp_path / "x.pth", tmp_path / "out.pth") == backbone


def test_a_wrapped_state_dict_is_accepted(state, tmp_path):
    file = saved({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path)
    assert released.convert(file, tmp_path / "ours.pth") == "r50"


def test_every_key_that_does_not_fit_is_named_and_nothing_is_written(state, tmp_path):
    broken = {
        **state,
        "roi_head.extra.weight": torch.zeros(1),
        "roi_head.other": torch.zeros(1),
        "neck.fpn_convs.0.conv.bias": torch.zeros(3),
    }
    del broken["rpn_head.rpn_cls.bias"]
    with pytest.raises(ExperimentError) as error:
        released.convert(saved(broken, tmp_path), tmp_path / "ours.pth")
    for part in (
        "not mapped: roi_head.extra.weight",
        "not mapped: roi_head.other",
        "missing: rpn_head.rpn_cls.bias",
        "neck.fpn_convs.0.conv.bias: shape (3,), expected (256,)",
    ):
        assert part in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["released.pth"]


class Payload:
    """Something whose unpickling would run code."""

    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Payload(), "cannot be read as a checkpoint of tensors alone"),
        ([1, 2], "holds no state dict"),
        ({"state_dict": {"a": 1}}, "holds no state dict"),
        ({}, "no backbone.layer1.0.conv2.weight"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path, capsys):
    with pytest.raises(ExperimentError, match=message):
        released.convert(saved(content, tmp_path), tmp_path / "ours.pth")
    assert "executed" not in capsys.readouterr().out
    assert not (tmp_path / "ours.pth").exists()


def test_truncated_and_missing_files_are_refused(state, tmp_path):
    file = saved(state, tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ExperimentError, match="cannot be read"):
        released.convert(file, tmp_path / "ours.pth")
    with pytest.raises(ExperimentError, match="no such file"):
        released.convert(tmp_path / "absent.pth", tmp_path / "ours.pth")


def test_the_command(state, tmp_path, monkeypatch, capsys):
    file = saved(state, tmp_path)
    monkeypatch.setattr(sys, "argv", ["import_checkpoint", str(file), "--out", str(tmp_path / "ours.pth")])
    main()
    assert "r50, every key mapped" in capsys.readouterr().out
    for given in (tmp_path / "ours.pth", file):
        loaded = load_model(given, "coco2017")
        assert loaded.model.roi_head.cl_head is not None and loaded.model.CLASSES == loaded.labels.names
        assert loaded.config.data.test.pipeline[1].img_scale == (1333, 800)
    assert mmcv.Config.fromfile(str(tmp_path / "config.py")).model.type == "MaskRCNN"
    monkeypatch.setattr(sys, "argv", ["import_checkpoint", str(tmp_path / "absent"), "--out", str(tmp_path / "o")])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.startswith("error: ")


def test_a_converted_model_computes_what_the_released_one_did(tmp_path):
    """The whole-model fixture through the files of both commands, not through names in memory."""
    import numpy as np
    from mmdet.core import bbox2roi

    from pipeline.methods.contrastmask.golden import drawn_image

    shapes = json.loads((GOLDEN / "state_dict_keys_r50.json").read_text())
    file = saved({key: drawn_parameter(key, tuple(shape)) for key, shape in shapes.items()}, tmp_path)
    released.convert(file, tmp_path / "ours.pth")
    model = released.released_model("r50").eval()
    model.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"])
    golden = np.load(GOLDEN / "model_r50_test.npz")
    model.roi_head.test_cfg.max_per_img = len(golden["det_bboxes"])
    with torch.no_grad():
        x = model.extract_feat(drawn_image(256, 320))
        meta = {"img_shape": (256, 320, 3), "scale_factor": 1.0}
        ((boxes, labels, cams),) = model.roi_head.detect(x, [torch.from_numpy(golden["proposals"])], [meta], False)
        logits = model.roi_head.detection_masks(x, bbox2roi([boxes]), labels, cams)
    np.testing.assert_allclose(boxes[:, :4], golden["det_bboxes"][:, :4], atol=1e-3)
    np.testing.assert_allclose(logits, golden["mask_logits"], atol=1e-4 * np.abs(golden["mask_logits"]).max())
