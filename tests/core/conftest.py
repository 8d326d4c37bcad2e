"""A tiny training of the embedded profile in a root of its own."""

import shutil
from dataclasses import replace

import pytest

from pipeline import config, experiments, paths, training
from pipeline.datasets.prepare import prepare
from pipeline.datasets.split import split

DATASET = "generated"


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    """A folder with a copy of the code, a few drawn images, their split, and random initial weights."""
    root = tmp_path_factory.mktemp("root")
    patch = pytest.MonkeyPatch()
    # a copy: in a process started there `pipeline.paths` finds this root, and not where a link leads to
    shutil.copytree(paths.ROOT / "pipeline", root / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(paths.ROOT / "params.yaml", root)
    patch.setattr(paths, "ROOT", root)
    patch.setenv("CONTRASTMASK_HOME", str(root))
    try:
        entry = experiments.load().dataset(DATASET) | {"train_images": 12, "val_images": 2}
        prepare(DATASET, entry, images_root=paths.images_root(DATASET), out_dir=paths.data(DATASET))
        direction = experiments.load().directions["nonvoc2voc"]
        split(paths.annotations(DATASET, "train2017"), direction, paths.split(DATASET, "nonvoc2voc"))
        weights = paths.initial_weights(DATASET, "r50")
        weights.parent.mkdir(parents=True)
        training.save_atomically({"state_dict": {}}, weights)
    finally:
        patch.undo()
    return root


@pytest.fixture
def workspace(tiny_root, monkeypatch):
    """Paths lead to the tiny root."""
    monkeypatch.setattr(paths, "ROOT", tiny_root)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tiny_root))
    return tiny_root


def job(seed=0, interval=2, iterations=6, data=None, **optimisation):
    """A training of a few steps."""
    full = config.resolve("contrastmask_r50_1x_nonvoc2voc", DATASET, seed)
    return replace(
        full,
        data=full.data | {"batch_size": 2, "images_per_gpu": 2} | (data or {}),
        schedule={"iterations": iterations, "milestones": []},
        optimisation=full.optimisation | {"log_interval": 1, "checkpoint_interval": interval} | optimisation,
    )


def empty(scratch):
    """Forget a training."""
    for path in scratch.glob("*"):
        path.unlink()
