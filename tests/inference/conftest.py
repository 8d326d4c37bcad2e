"""A root of its own with a few drawn images and a run whose weights were never trained."""

import pytest
import torch

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv
from mmdet.models import build_detector

from pipeline import methods
from pipeline.artifacts import checkpoint, paths
from pipeline.datasets.prepare import prepare
from pipeline.declaration import config, experiments

DATASET, RUN = "generated", "contrastmask_r50_1x_nonvoc2voc"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder that `paths.ROOT` is while a module's tests run."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pipeline", "params.yaml"):
            (root / name).symlink_to(paths.ROOT / name)
        patch.setattr(paths, "ROOT", root)
        patch.setenv("CONTRASTMASK_HOME", str(root))
        patch.setenv("CONTRASTMASK_WORKERS", "1")
        entry = experiments.load().dataset(DATASET) | {"train_images": 1, "val_images": 4}
        prepare(DATASET, entry, images_root=paths.images_root(DATASET), out_dir=paths.data(DATASET))
        training = config.resolve(RUN, DATASET, 0)
        methods.register(training.method, training.knobs)
        torch.manual_seed(0)
        weights = build_detector(mmcv.ConfigDict(training.model)).state_dict()
        meta = {"fingerprint": "f" * 20, "CLASSES": list(experiments.load().label_set(DATASET).names)}
        checkpoint.write(paths.checkpoint(DATASET, RUN, 0), weights, meta)
        published = {"model": training.model, "data": {"test": {"pipeline": training.data["test"]}}}
        paths.config(DATASET, RUN, 0).write_text(mmcv.Config(published).pretty_text)
        yield root


@pytest.fixture
def images(root):
    """The folder of the validation images."""
    return paths.images(DATASET, "val2017")
