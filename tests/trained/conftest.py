"""A run on a few images in a root of its own, with a checkpoint that was never trained; a detector of MMDetection."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv
from mmdet.models import build_detector

from pipeline import methods
from pipeline.artifacts import checkpoint, paths
from pipeline.declaration import config, experiments
from pipeline.trained import published
from tests import tiny

DECLARED = experiments.load()


@pytest.fixture(scope="package")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pipeline", "params.yaml"):
            (root / name).symlink_to(paths.ROOT / name)
        patch.setattr(paths, "ROOT", root)
        patch.setenv("CONTRASTMASK_HOME", str(root))
        tiny.draw_inputs()
        yield root


@pytest.fixture(scope="package")
def trained(root):
    """The `Training` of the run."""
    training = config.resolve(tiny.RUN, tiny.DATASET, 0)
    training.model["test_cfg"]["rcnn"]["score_thr"] = 0.0  # or random weights detect nothing
    training.model["test_cfg"]["rcnn"]["max_per_img"] = 5
    methods.register(training.method, training.knobs)
    torch.manual_seed(0)
    weights = build_detector(mmcv.ConfigDict(training.model)).state_dict()
    path = paths.checkpoint(tiny.DATASET, tiny.RUN, 0)
    checkpoint.write(path, weights, {"fingerprint": "f" * 20, "CLASSES": list(classes())})
    path.with_name("config.py").write_text(published.configuration(training))
    return training


def classes():
    return DECLARED.label_set(tiny.DATASET).names


def plain(training, names, masks=True):
    """The configuration of the same detector in MMDetection's own parts."""
    model = dict(training.model)
    head = dict(model["roi_head"])
    pooled = head["bbox_roi_extractor"] | {"type": "SingleRoIExtractor"}
    number, channels = len(names), head["bbox_head"]["in_channels"]
    box = head["bbox_head"]
    kept = {key: box[key] for key in ("bbox_coder", "loss_cls", "loss_bbox", "roi_feat_size")}
    roi_head = {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": pooled,
        "bbox_head": kept
        | {"type": "Shared2FCBBoxHead", "in_channels": channels, "fc_out_channels": 16, "num_classes": number},
    }
    if masks:
        roi_head["mask_roi_extractor"] = pooled | {"roi_layer": pooled["roi_layer"] | {"output_size": 14}}
        mask_head = head["mask_head"]
        roi_head["mask_head"] = {
            "type": "FCNMaskHead",
            "num_classes": number,
            **{key: mask_head[key] for key in ("num_convs", "in_channels", "conv_out_channels", "norm_cfg")},
        }
    model |= {
        "type": "MaskRCNN" if masks else "FasterRCNN",
        "rpn_head": model["rpn_head"] | {"type": "RPNHead"},
        "roi_head": roi_head,
    }
    steps = published.stock_test(training.data["test"])
    return mmcv.Config({"model": model, "data": {"test": {"type": "CocoDataset", "pipeline": steps}}})


@pytest.fixture(scope="package")
def of_mmdetection(trained, tmp_path_factory):
    """Give a function that saves such a detector of some classes, as MMDetection does, and returns the file."""

    def save(names, masks=True, **meta):
        full = plain(trained, names, masks)
        torch.manual_seed(1)
        state = build_detector(full.model).state_dict()
        said = {"CLASSES": tuple(names), "config": full.pretty_text, "epoch": 12, "lr": np.float64(0.02)} | meta
        path = tmp_path_factory.mktemp("zoo") / "detector.pth"
        torch.save({"meta": {k: v for k, v in said.items() if v is not None}, "state_dict": state}, path)
        return path

    return save


@pytest.fixture
def starts_from(monkeypatch):
    """Give a function that lets the data set start from a file."""

    def declare(file, sha256):
        entry = DECLARED.dataset(tiny.DATASET)
        entry = entry | {"initial_weights": {"kind": "checkpoint", "file": str(file), "sha256": sha256}}
        changed = replace(DECLARED, datasets=DECLARED.datasets | {tiny.DATASET: entry})
        monkeypatch.setattr(experiments, "load", lambda: changed)
        return changed

    return declare
