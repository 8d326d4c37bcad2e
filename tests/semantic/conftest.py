"""A few drawn scenes, in a root of their own."""

import pytest

from pipeline import compat  # noqa: F401  # before the tests import mmdet
from pipeline.artifacts import paths
from pipeline.datasets.prepare import prepare
from pipeline.declaration import experiments, subsets
from pipeline.tasks.semantic.hiding import hide

DATASET = "scenes"


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory):
    """Root with ten training and four test scenes, split in direction s1. Read only."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pipeline", "params.yaml"):
            (root / name).symlink_to(paths.ROOT / name)
        patch.setattr(paths, "ROOT", root)
        patch.setenv("CONTRASTMASK_HOME", str(root))
        entry = experiments.load().dataset(DATASET) | {"train_images": 10, "val_images": 4}
        prepare(DATASET, entry, images_root=paths.images_root(DATASET), out_dir=paths.data(DATASET))
        labels = experiments.load().label_set(DATASET)
        hide(subsets.train(DATASET).annotations, labels, "s1", paths.split(DATASET, "s1.semantic"))
    return root


@pytest.fixture
def scenes(scenes_root, monkeypatch):
    """Paths lead to the scenes; gives their label set."""
    monkeypatch.setattr(paths, "ROOT", scenes_root)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(scenes_root))
    return experiments.load().label_set(DATASET)
