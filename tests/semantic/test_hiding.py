"""What training may read of novel classes: their names in a list, and no pixel."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts import paths
from pipeline.datasets.label_maps import drawn
from pipeline.datasets.label_maps.checking import classes_in
from pipeline.datasets.label_maps.packs import Pack, Writer
from pipeline.declaration import experiments, subsets
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.tasks.semantic import complete, hiding, steps  # noqa: F401  # registers its types
from pipeline.tasks.semantic.data import LabelMaps
from tests.semantic.conftest import DATASET

LABELS = label_set("stuff_and_things")
NOVEL = {LABELS.names.index(name) for name in LABELS.base_and_novel("s1")[1]}
SPEC = {"version": 1, "seed": 5, "image_size": 64}


def write_complete(folder, maps, classes=LABELS.names):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "maps.pack", "wb") as file:
        writer = Writer(file, "maps.pack")
        for number, labels in enumerate(maps):
            writer.add(f"{number}.png", labels, classes=classes_in(labels, len(classes)).tolist())
    (folder / "maps.json").write_text(writer.index(classes=list(classes)))
    return folder / "maps.json"


def moved(labels, rng):
    """The map with other pixels of novel classes and without label in their places: the same classes, the same base."""
    found, free = labels.copy(), np.flatnonzero(np.isin(labels.ravel(), [*NOVEL, 255]))
    shown = sorted(set(labels.ravel()[free].tolist()) - {255})
    if len(free) > len(shown):
        values = rng.choice([*shown, 255], len(free))
        values[rng.permutation(len(free))[: len(shown)]] = shown
        found.ravel()[free] = values
    return found


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_novel_pixels_that_lie_elsewhere_change_no_byte(seed, tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("leak"), np.random.default_rng(seed)
    maps = [drawn.draw(SPEC | {"seed": seed}, 0, index)[1] for index in range(3)]
    others = [moved(labels, rng) for labels in maps]
    assert any((one != other).any() for one, other in zip(maps, others, strict=True))
    found = []
    for name, source in (("one", maps), ("other", others)):
        hiding.hide(write_complete(folder / name, source), LABELS, "s1", folder / name / "split")
        found.append([(folder / name / "split" / file).read_bytes() for file in ("train.json", "train.pack")])
    assert found[0] == found[1]


def test_base_pixels_stay_and_novel_ones_are_listed(tmp_path):
    maps = [drawn.draw(SPEC, 0, index)[1] for index in range(8)]
    hiding.hide(write_complete(tmp_path, maps), LABELS, "s1", tmp_path / "split")
    pack = Pack(tmp_path / "split" / "train.json")
    assert set(pack.facts["novel"]) == NOVEL and set(pack.facts["base"]) == set(range(16)) - NOVEL
    for position, labels in enumerate(maps):
        hidden, shown = pack.read(position), set(np.unique(labels).tolist()) - {255}
        novel = np.isin(labels, [*NOVEL])
        assert (hidden[novel] == 255).all() and (hidden[~novel] == labels[~novel]).all()
        assert set(pack.images[position]["novel"]) == shown & NOVEL
        assert set(pack.images[position]["base"]) == shown - NOVEL


def test_training_opens_no_complete_map(scenes, monkeypatch):
    """Nor any annotation but the split: the images are all that it reads beside it."""
    opened, kept = [], Pack.__init__

    def watched(self, path, *rest):
        opened.append(str(path))
        kept(self, path, *rest)

    monkeypatch.setattr(Pack, "__init__", watched)
    split = paths.split_train(DATASET, "s1.semantic")
    given = steps.steps(experiments.load().profile(DATASET)["images"])["train"]
    data = LabelMaps(Pack(split), subsets.train(DATASET).images, scenes.names, given)
    for position in range(len(data)):
        data[position, 3]
    assert opened == [str(split)]
    crop = LabelMaps(Pack(split), subsets.train(DATASET).images, scenes.names, steps.with_crop_labels(given, DATASET))
    crop[0, 3]
    assert opened[-1] == str(subsets.train(DATASET).annotations), "an ablation that is more than weak supervision"


def test_classes_of_neither_group_are_hidden(tmp_path):
    labels = drawn.draw(SPEC, 0, 0)[1]
    name = LABELS.names[int(labels[labels != 255][0])]
    hiding.hide(write_complete(tmp_path, [labels]), LABELS, {"base": [name], "novel": ["bar"]}, tmp_path / "split")
    assert set(np.unique(Pack(tmp_path / "split/train.json").read(0))) <= {LABELS.names.index(name), 255}


@pytest.mark.parametrize(
    "maps, direction, message",
    [
        ([np.full((4, 4), 255, np.uint8)], "s1", "nothing to train on"),
        ([np.full((4, 4), min(NOVEL), np.uint8)], "s1", "no base mask left"),
        ([np.zeros((4, 4), np.uint8)], "s2", "unknown direction"),
    ],
)
def test_nothing_to_train_on_is_refused(maps, direction, message, tmp_path):
    with pytest.raises(ExperimentError, match=message):
        hiding.hide(write_complete(tmp_path, maps), LABELS, direction, tmp_path / "split")
    assert not (tmp_path / "split" / "train.json").exists()


def test_maps_of_another_label_set_are_refused(tmp_path):
    index = write_complete(tmp_path, [np.zeros((4, 4), np.uint8)])
    with pytest.raises(ExperimentError, match="of other classes than ADE20K's"):
        hiding.hide(index, label_set("ade20k"), "a1", tmp_path / "split")


@pytest.mark.parametrize("damage", ["byte", "short", "gone", "index", "format"])
def test_a_damaged_pack_is_told(damage, tmp_path):
    path = write_complete(tmp_path, [np.arange(16, dtype=np.uint8).reshape(4, 4)])
    pack, content = tmp_path / "maps.pack", (tmp_path / "maps.pack").read_bytes()
    if damage == "byte":
        pack.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    elif damage == "short":
        pack.write_bytes(content[:-1])
    elif damage == "gone":
        pack.unlink()
    elif damage == "index":
        path.write_text("[]")
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))
    with pytest.raises(ExperimentError, match=r"run `python -m stages.download`"):
        Pack(path).read(0)
