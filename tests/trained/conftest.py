"""A run on a few images in a root of its own, with a checkpoint that was never trained."""

import pytest
import torch

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv
from mmdet.models import build_detector

from pipeline import methods
from pipeline.artifacts import checkpoint, paths
from pipeline.declaration import config
from tests import tiny


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
    methods.register(training.method, training.knobs)
    torch.manual_seed(0)
    weights = build_detector(mmcv.ConfigDict(training.model)).state_dict()
    path = paths.checkpoint(tiny.DATASET, tiny.RUN, 0)
    checkpoint.write(path, weights, {"fingerprint": "f" * 20})
    path.with_name("config.py").write_text(mmcv.Config({"model": training.model}).pretty_text)
    return training
