"""Checkpoints of the authors' code are converted one to one, and back; a converted one takes their images."""

import contextlib
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.core import build_prior_generator
from mmdet.models import build_backbone

from commands.import_checkpoint import main
from pipeline import methods
from pipeline.artifacts import checkpoint, paths
from pipeline.errors import ExperimentError
from pipeline.methods.cpmask import released_checkpoint as released
from pipeline.tasks.instances.steps import IMAGE_NORM
from pipeline.trained import naming, published, reading

GOLDEN = Path(__file__).parents[2] / "golden_comparison" / "cpmask"
PARAMETERS = {"r50": 37_820_445, "r101": 56_760_349}


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def names(backbone):
    return json.loads((GOLDEN / f"state_dict_keys_{backbone}.json").read_text())


def state_of(backbone):
    """A number for each tensor."""
    return {
        key: torch.full(shape, float(index)).to(torch.long if key.endswith("tracked") else torch.float32)
        for index, (key, shape) in enumerate(names(backbone).items())
    }


@pytest.mark.parametrize("backbone", PARAMETERS)
def test_names_map_one_to_one(backbone):
    theirs = names(backbone)
    ours = {key: released.our_key(key) for key in theirs}
    assert None not in ours.values() and len(set(ours.values())) == len(theirs) == {"r50": 366, "r101": 621}[backbone]
    assert {released.our_key(key, reverse=True): key for key in ours.values()} == {key: ours[key] for key in theirs}
    shapes = released.shapes(backbone)
    assert {key for key in shapes if not released.COUNTER.fullmatch(key)} == set(ours.values())
    learned = {key for key in ours if "running" not in key and "tracked" not in key and "bottom_up" not in key}
    frozen = {key for key in ours if "bottom_up" in key and key.endswith("weight") and "norm" not in key}
    count = sum(torch.Size(theirs[key]).numel() for key in learned | frozen)
    assert count == PARAMETERS[backbone]


def test_conversion_and_back_give_the_same(tmp_path, monkeypatch, capsys):
    state = state_of("r50")
    torch.save({"model": state, "iteration": 3}, tmp_path / "theirs.pth")
    arguments = [
        "import_checkpoint",
        str(tmp_path / "theirs.pth"),
        "--method",
        "cpmask",
        "--out",
        str(tmp_path / "ours.pth"),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    assert "r50, every key mapped" in capsys.readouterr().out
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"]
    assert {key: tuple(value.shape) for key, value in ours.items()} == released.shapes("r50")
    same = {"roi_heads.mask_head.blocker.running_var": "roi_head.mask_head.affinity.norm.running_var"}
    same |= {"roi_heads.mask_head.mask_fcn3.bias": "roi_head.mask_head.convs.2.conv.bias"}
    same |= {"proposal_generator.fcos_head.bbox_tower.7.weight": "bbox_head.reg_convs.2.gn.weight"}
    same |= {"backbone.top_block.p7.weight": "neck.fpn_convs.4.conv.weight"}
    for theirs, key in same.items():
        assert torch.equal(ours[key], state[theirs]), key
    assert ours["bbox_head.scales.2.scale"].shape == ()
    assert released.convert(tmp_path / "ours.pth", tmp_path / "back.pth", reverse=True) == "r50"
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    read = reading.read(tmp_path / "ours.pth")
    assert read.method == "cpmask" and read.configuration()["model"]["type"] == "MaskFCOS"


def test_a_state_is_recognised_by_what_no_other_model_has():
    state = {key: torch.zeros(shape) for key, shape in names("r50").items() if "bottom_up" not in key}
    renamed = released.renamed(state)
    assert renamed["bbox_head.scales.0.scale"].shape == () and set(released.OUR_MARKS) <= renamed.keys()
    assert released.renamed(renamed) is renamed
    assert released.renamed({"roi_head.mask_head.convs.0.conv.weight": torch.zeros(1)}) is None


def test_every_key_that_does_not_fit_is_named(tmp_path):
    state = state_of("r50") | {"roi_heads.mask_head.extra.weight": torch.zeros(1)}
    state["backbone.fpn_lateral3.bias"] = torch.zeros(3)
    del state["roi_heads.mask_head.blocker.bias"]
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(ExperimentError) as error:
        released.convert(tmp_path / "theirs.pth", tmp_path / "ours.pth")
    for part in (
        "not mapped: roi_heads.mask_head.extra.weight",
        "missing: roi_heads.mask_head.blocker.bias",
        "backbone.fpn_lateral3.bias: shape (3,), expected (256,)",
    ):
        assert part in str(error.value)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    for reverse in (False, True):
        with pytest.raises(ExperimentError, match="other.pth: not a model of "):
            released.convert(tmp_path / "other.pth", tmp_path / "ours.pth", reverse)
    assert not (tmp_path / "ours.pth").exists()


def test_converted_weights_see_images_as_the_authors_do():
    """Theirs: blue first, 0 to 255 less the mean. Ours: red first, divided by the deviation too."""
    small = {"depth": 18, "base_channels": 4, "stem_channels": 4, "style": "caffe"}
    import pipeline.methods.shared.blue_first_resnet  # noqa: F401

    ours, plain = (build_backbone({"type": kind, **small}) for kind in ("BlueFirstResNet", "ResNet"))
    ours.eval(), plain.eval()
    assert ours.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(ours.state_dict())
    red_first = 255 * torch.rand(1, 3, 32, 32)
    mean, deviation = (torch.tensor(IMAGE_NORM[name])[:, None, None] for name in ("mean", "std"))
    theirs = (red_first - mean).flip(1)
    with torch.no_grad():
        for got, expected in zip(ours((red_first - mean) / deviation), plain(theirs), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
    for method, depth in (("cpmask", "r101"), ("opmask", "r101"), ("shapeprop", "r101"), ("maskx", "r50")):
        backbone = methods.required(method, "checkpoint_map").configuration_of(depth)["backbone"]
        assert (backbone["type"], backbone["style"]) == ("BlueFirstResNet", "caffe")


def test_no_run_starts_from_a_backbone_that_reads_other_images(tmp_path):
    torch.save({"state_dict": state_of("r50")}, tmp_path / "theirs.pth")
    with pytest.raises(ExperimentError, match="theirs.pth: its backbone wants images with blue first"):
        naming.require_same_images(reading.read(tmp_path / "theirs.pth"))
    ours = {key: torch.zeros(shape) for key, shape in released.shapes("r50").items()}
    checkpoint.write(tmp_path / "ours.pth", ours, {"fingerprint": "f"})
    naming.require_same_images(reading.read(tmp_path / "ours.pth"))
    assert "red first" in naming.note_of_export("cpmask", tmp_path / "ours.pth")
    assert naming.note_of_export("cpmask", tmp_path / "theirs.pth") == ""
    caffe = "model = dict(type='MaskRCNN', backbone=dict(type='ResNet', style='caffe'))"
    for config, refused in ((caffe, True), (caffe.replace("caffe", "pytorch"), False)):
        torch.save({"state_dict": {"backbone.a": torch.zeros(1)}, "meta": {"config": config}}, tmp_path / "mm.pth")
        with pytest.raises(ExperimentError) if refused else contextlib.nullcontext():
            naming.require_same_images(reading.read(tmp_path / "mm.pth"))
    heads = reading.Checkpoint(tmp_path, {"roi_head.mask_head.transfer.0.weight": torch.zeros(1)}, {}, "", "maskx")
    naming.require_same_images(heads)


def test_released_anchors_and_cells_of_rois_are_those_of_their_code():
    shapeprop, maskx = (methods.required(name, "checkpoint_map") for name in ("shapeprop", "maskx"))
    made = build_prior_generator(shapeprop.configuration_of("r50")["rpn_head"]["anchor_generator"])
    for level, (ours, theirs) in enumerate(zip(made.base_anchors, shapeprop.anchors().values(), strict=True)):
        centre = (theirs[:, :2] + theirs[:, 2:] + 1) / 2  # the last pixel belongs to a box there
        torch.testing.assert_close((ours[:, :2] + ours[:, 2:]) / 2, centre, msg=f"level {level}")
    pooled = maskx.configuration_of("r50")["roi_head"]["mask_roi_extractor"]["roi_layer"]
    assert (pooled["sampling_ratio"], pooled["aligned"]) == (2, False)


@pytest.mark.parametrize("method", ["cpmask", "opmask", "shapeprop", "maskx"])
def test_others_tools_can_build_an_imported_model_from_its_configuration(method, tmp_path):
    """In a process that knows nothing of this project but what the file imports."""
    path = published.write_imported(method, "r50", tmp_path / "imported.pth")
    code = (
        "import sys, mmcv\nconfig = mmcv.Config.fromfile(sys.argv[1])\nimport torch\n"
        "from mmdet.models import build_detector\n"
        "with torch.device('meta'):\n    print(type(build_detector(config.model).backbone).__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", code, path], cwd=paths.ROOT, capture_output=True, text=True)
    assert ran.stdout.strip() == "BlueFirstResNet", ran.stderr
