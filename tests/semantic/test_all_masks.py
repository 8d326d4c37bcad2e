"""What trains with the masks of all classes is one training, whatever its direction hides."""

import shutil

import numpy as np
import pytest

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.declaration import config, recipe, subsets
from pipeline.tasks.semantic import data
from pipeline.tasks.semantic.hiding import hide
from tests.semantic.conftest import DATASET


@pytest.fixture
def directions(scenes_root, scenes, tmp_path, monkeypatch):
    """Directions s5 and s6 in a root of their own."""
    for name in ("pipeline", "params.yaml"):
        (tmp_path / name).symlink_to(scenes_root / name)
    shutil.copytree(scenes_root / "data", tmp_path / "data")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    for name in ("s5", "s6"):
        hide(subsets.train(DATASET).annotations, scenes, name, paths.split(DATASET, f"{name}.semantic"))
    return "s5", "s6"


def resolved(kind, directions):
    return [config.resolve(f"simformer_{kind}{direction}", DATASET, 0) for direction in directions]


def test_an_oracle_trains_the_same_in_every_direction(directions):
    trainings = resolved("oracle_", directions)
    for training in trainings:
        methods.register(training.method, training.knobs)
    one, other = (data.training_set(training) for training in trainings)
    assert len(one) == len(other) == 10
    hidden = 0
    for position in range(len(one)):
        first, second = one[position, 7], other[position, 7]
        assert first.keys() == second.keys() and "img" in first
        for key in ("img", "gt_semantic_seg", "novel_labels"):
            np.testing.assert_array_equal(first[key].data, second[key].data)
        assert first["img_metas"].data.get("novel_classes", ()) == second["img_metas"].data.get("novel_classes", ())
        hidden += len(one.record(position, np.random.default_rng(0))["novel_labels"])
    assert hidden  # the directions do hide something here
    assert recipe.fingerprint(trainings[0]) == recipe.fingerprint(trainings[1])
    source = subsets.train(DATASET).annotations
    before = recipe.fingerprint(trainings[0])
    source.write_text(source.read_text() + "\n")
    assert recipe.fingerprint(trainings[0]) != before


def test_other_runs_are_of_their_direction(directions):
    for kind in ("", "retrained_"):
        one, other = resolved(kind, directions)
        assert not one.all_masks and one.numbers() != other.numbers() and "all_masks" not in one.numbers()
    basic, oracle = resolved("", directions)[0], resolved("oracle_", directions)[0]
    assert recipe.fingerprint(basic) != recipe.fingerprint(oracle)
