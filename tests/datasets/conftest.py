import json

import pytest

from pipeline.datasets.generated.scenes import generate
from pipeline.declaration.label_sets import label_set
from pipeline.tasks.instances.split import split

SPEC = {"version": 1, "seed": 7, "train_images": 12, "val_images": 4, "image_size": 128}
COCO_SET = label_set("coco")
VOC = COCO_SET.groups["voc"]
SUBSETS = ("train2017", "val2017")
LABELS = {"label_set": "coco", "train": "train2017", "validation": "val2017"}  # columns of an entry
NONVOC2VOC = {"base": "nonvoc", "novel": "voc"}


@pytest.fixture(scope="session")
def generated_root(tmp_path_factory):
    """A small generated dataset in COCO's layout: train2017/, val2017/, annotations/. Read only."""
    root = tmp_path_factory.mktemp("generated")
    generate(SPEC, COCO_SET, SUBSETS, root, root / "annotations")
    return root


@pytest.fixture(scope="session")
def train_annotations(generated_root):
    return generated_root / "annotations" / "instances_train2017.json"


@pytest.fixture(scope="session")
def nonvoc2voc(train_annotations, tmp_path_factory):
    """Folder with train.json and split.json of the small generated dataset. Read only."""
    folder = tmp_path_factory.mktemp("nonvoc2voc")
    split(train_annotations, COCO_SET, NONVOC2VOC, folder)
    return folder


@pytest.fixture
def edited(train_annotations, tmp_path):
    """Give a function that writes a changed copy of the training annotations and returns its path."""

    def edit(change):
        content = json.loads(train_annotations.read_text())
        content = change(content) or content
        path = tmp_path / "edited.json"
        path.write_text(json.dumps(content))
        return path

    return edit
