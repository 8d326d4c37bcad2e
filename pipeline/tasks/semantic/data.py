"""The training set of weak-shot segmentation, and the images that are predicted.

The former reads what `hiding` wrote: maps without novel pixels, and lists of novel classes. It never opens the complete
maps, unless one of its steps is of `complete`.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import numpy as np
from mmdet.datasets.pipelines import Compose
from torch.utils.data import Dataset

from pipeline.artifacts import paths
from pipeline.datasets.label_maps.packs import Pack
from pipeline.declaration import experiments, subsets
from pipeline.errors import ExperimentError
from pipeline.tasks.semantic import augmentation  # noqa: F401  # registers its types


class LabelMaps(Dataset):
    """Images with label maps of base classes and lists of novel ones, through steps.

    Args:
        pack: what `hiding.hide` wrote, or complete maps to be predicted.
        folder: of the images.
        classes: names of all classes.
        steps: configurations, see `steps`. Beside what `record` gives, a step gets `dataset`, this one, and `rng`.

    Attributes:
        CLASSES: names of all classes.
        flag: 1 for images wider than high, else 0: batches are of one kind.
        novel: positions of the classes that have no masks.
        shown: [(base, novel)] of each image, positions of the classes that it shows, int64 each.
    """

    def __init__(self, pack, folder, classes, steps):
        self.pack, self.folder, self.CLASSES = pack, folder, tuple(classes)
        self.novel = tuple(pack.facts.get("novel", ()))
        self.flag = np.array([image["width"] > image["height"] for image in pack.images], np.uint8)
        self.shown = [
            tuple(np.array(image.get(group, []), np.int64) for group in ("base", "novel")) for image in pack.images
        ]
        self.pipeline = Compose(steps)

    def __len__(self):
        return len(self.pack)

    def record(self, position, rng):
        """What the first step gets of the image at a position."""
        image = self.pack.images[position]
        return {
            "position": position,
            "file_name": image["file_name"],
            "width": image["width"],
            "height": image["height"],
            "folder": self.folder,
            "pack": self.pack,
            "novel_labels": self.shown[position][1],
            "novel_classes": self.novel,
            "dataset": self,
            "rng": rng,
        }

    def __getitem__(self, index):
        """Give one sample.

        Args:
            index: position, or `(position, sample seed)` as `IterationBatchSampler` yields; the sample is a pure
                function of both, and no global random state is used.
        """
        position, seed = index if isinstance(index, tuple) else (index, None)
        return self.pipeline(self.record(position, np.random.default_rng(seed)))


def training_set(training):
    """The training set of a `pipeline.declaration.config.Training`: the annotations of its split, through its steps.

    Raises:
        ExperimentError: images of several sizes are to be trained with as they are.
    """
    index = paths.split_train(training.dataset, training.split)
    direction = training.split.partition(".")[0]
    pack = Pack(index, f"run `dvc repro -s -f split_task@{direction}_semantic`")
    sizes = {(image["width"], image["height"]) for image in pack.images}
    if len(sizes) > 1 and not any(step["type"] == "CropScene" for step in _flat(training.data["train"])):
        raise ExperimentError(
            f"{index}: images of {len(sizes)} sizes; a batch takes one: give the profile of {training.dataset} an "
            "images.crop_size (pipeline/experiments/profiles.yaml)"
        )
    labels = experiments.load().label_set(training.dataset)
    return LabelMaps(pack, subsets.train(training.dataset).images, labels.names, training.data["train"])


def _flat(steps):
    for step in steps:
        yield step
        yield from _flat(step.get("steps", ()))


def validation_set(dataset, steps):
    """The validation images of a dataset through the steps of inference."""
    return images_of(dataset, subsets.validation(dataset), steps)


def images_of(dataset, subset, steps):
    """The images of a `subsets.Subset` through the steps of inference."""
    names = experiments.load().label_set(dataset).names
    return LabelMaps(Pack(subset.annotations), subset.images, names, steps)
