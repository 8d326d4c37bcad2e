"""Label maps: what is hidden, the data sets, a prediction and its score."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import json

import mmcv
import numpy as np
import torch
from mmcv.parallel import DataContainer
from mmdet.models import build_detector
from pycocotools.coco import COCO

from pipeline.artifacts import checkpoint, files, paths
from pipeline.declaration import experiments, subsets
from pipeline.tasks import WHOLE

UNKNOWN = 255


def maps_of(annotations, label_set, visible):
    """[(file name, labels [H, W] as lists)]; UNKNOWN where no category of `visible` is."""
    coco, labels, found = COCO(str(annotations)), {}, []
    labels = {c.id: label for label, c in enumerate(label_set.categories) if c.name in visible}
    for image in coco.loadImgs(coco.getImgIds()):
        pixels = np.full((image["height"], image["width"]), UNKNOWN)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            if annotation["category_id"] in labels:
                pixels[coco.annToMask(annotation) > 0] = labels[annotation["category_id"]]
        found.append((image["file_name"], pixels.tolist()))
    return found


def hide(annotations, label_set, direction, folder, statistics=None, caption=("", "")):
    base, _ = label_set.base_and_novel(direction)
    files.write_json(folder / "train.json", maps_of(annotations, label_set, base))


class LabelMaps(torch.utils.data.Dataset):
    def __init__(self, maps, folder, classes):
        self.maps, self.folder, self.CLASSES = maps, folder, classes
        self.flag = np.zeros(len(maps), dtype=np.uint8)

    def __len__(self):
        return len(self.maps)

    def image(self, index):
        return torch.from_numpy(mmcv.imread(str(self.folder / self.maps[index][0])).transpose(2, 0, 1) / 255.0).float()

    def __getitem__(self, index):
        position, _ = index  # nothing is drawn, so its seed is of no use
        return {
            "img": DataContainer(self.image(position), stack=True),
            "img_metas": DataContainer({}, cpu_only=True),
            "gt_semantic_seg": DataContainer(torch.tensor(self.maps[position][1])[None], stack=True),
        }


def training_set(training):
    maps = json.loads(paths.split_train(training.dataset, training.split).read_text())
    return LabelMaps(maps, subsets.train(training.dataset).images, _label_set(training.dataset).names)


def validation_set(dataset, steps=()):
    label_set, subset = _label_set(dataset), subsets.validation(dataset)
    return LabelMaps(maps_of(subset.annotations, label_set, label_set.names), subset.images, label_set.names)


def predict(training, path):
    dataset, model = validation_set(training.dataset), build_detector(mmcv.ConfigDict(training.model))
    model.load_state_dict(checkpoint.of_run(training)["state_dict"])
    with torch.no_grad():
        found = [model.simple_test(dataset.image(index)[None], None)[0].tolist() for index in range(len(dataset))]
    files.write_json(path, found)


def score(dataset, predictions, groups):
    truth = np.array([labels for _, labels in validation_set(dataset).maps])
    found, names = np.array(json.loads(predictions.read_text())), _label_set(dataset).names
    found[truth == UNKNOWN] = UNKNOWN
    ious, hits = {}, {}
    for label, name in enumerate(names):
        both, either = (found == label) & (truth == label), (found == label) | (truth == label)
        present = (truth == label).any()
        ious[name] = 100 * both.sum() / either.sum() if present else None
        hits[name] = 100 * both.sum() / (truth == label).sum() if present else None
    rows = [
        {"group": group, "kind": "map", "metric": metric, "value": _mean([values[name] for name in members])}
        for metric, values in (("mIoU", ious), ("accuracy", hits))
        for group, members in (groups | {WHOLE: names}).items()
    ]
    return {
        "scores": rows,
        "per_category": [
            {"category": name, "kind": "map", "metric": "IoU", "value": value} for name, value in ious.items()
        ],
    }


def counts(dataset):
    names = _label_set(dataset).names
    labels = [set(np.unique(labels)) for _, labels in validation_set(dataset).maps]
    images = {name: sum(label in found for found in labels) for label, name in enumerate(names)}
    return {name: f"n {count}" for name, count in images.items() if count}


def _label_set(dataset):
    return experiments.load().label_set(dataset)


def _mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
