"""The training set of partially supervised segmentation, and the validation set.

In the former all objects have boxes and base objects have masks: it reads the annotation file of `split`, in which
novel objects have no mask to begin with. Neither keeps an object for each annotation (860,001 in COCO), see `Records`.
"""

import pickle
import random
from array import array
from contextlib import contextmanager
from pathlib import Path

from pipeline import compat  # noqa: F401  # isort: skip  before anything that imports torchvision

import cv2
import numpy as np
import torch
from mmcv.parallel import DataContainer
from mmdet.datasets import DATASETS, CocoDataset
from mmdet.datasets.builder import PIPELINES
from mmdet.datasets.pipelines import DefaultFormatBundle, LoadAnnotations, LoadImageFromFile

from pipeline.artifacts import paths
from pipeline.datasets.annotations import read_instances
from pipeline.datasets.images import is_whole, remedy
from pipeline.declaration import experiments, subsets
from pipeline.errors import ExperimentError

# A polygon without extent: rasterises to no pixel, as bitmap or cropped to any RoI. MMDetection wants some
# mask for every box; losses select by `gt_is_novel` and never look at this one.
NO_MASK = [[0.0] * 6]

# What training reads of an annotation; the rest, such as ids, is not kept.
ANNOTATION_FIELDS = ("category_id", "bbox", "area", "iscrowd", "ignore", "segmentation")


class Records:
    """Values in one buffer, pickled one after the other; indexing gives a fresh copy.

    A list of objects is copied by every forked process that looks at it, because looking changes reference counts.
    Here nothing is written after the last `append`, so forked processes share all of it.
    """

    def __init__(self, values=()):
        self._bytes, self._ends = bytearray(), array("q", [0])
        for value in values:
            self.append(value)

    def append(self, value):
        self._bytes += pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        self._ends.append(len(self._bytes))

    def __len__(self):
        return len(self._ends) - 1

    def __getitem__(self, index):
        index = range(len(self))[index]
        return pickle.loads(memoryview(self._bytes)[self._ends[index] : self._ends[index + 1]])


@DATASETS.register_module()
class PackedCocoDataset(CocoDataset):
    """CocoDataset in less memory: the same samples of a file with the categories of a label set, without a `coco`.

    The file is read in pieces, and what is kept of it is packed (see `Records`). What mmdet computes from the whole
    index (`evaluate`, `get_cat_ids`) is therefore missing; `pipeline.tasks.instances.scoring` scores.

    Args:
        label_set: of the file; all its categories are classes unless `classes` names some of them.

    Raises:
        ExperimentError: a file that `read_instances` refuses, a class that the label set does not have, or no image to
            train on.
    """

    def __init__(self, *args, label_set, **kwargs):
        self.label_set = label_set
        super().__init__(*args, **{"classes": label_set.names} | kwargs)
        self.data_infos = Records(self.data_infos)

    def load_annotations(self, ann_file):
        if missing := [name for name in self.CLASSES if name not in self.label_set.names]:
            raise ExperimentError(f"{ann_file}: categories does not list {', '.join(missing)}")
        self.cat_ids = [category.id for category in self.label_set.categories if category.name in self.CLASSES]
        self.cat2label = {category: label for label, category in enumerate(self.cat_ids)}
        self._annotations = Records()
        infos, with_object = [], set()  # the latter: ids of images with an object of the classes
        numbers, owners = {}, array("q")  # of images by id, as they first come up; of each annotation's image

        def add_images(images, _):
            infos.extend(image | {"filename": image["file_name"]} for image in images)

        def add_annotations(annotations, _):
            for annotation in annotations:
                self.check(annotation)
                image = annotation["image_id"]
                owners.append(numbers.setdefault(image, len(numbers)))
                self._annotations.append([annotation.get(field) for field in ANNOTATION_FIELDS])
                if annotation["category_id"] in self.cat2label:
                    with_object.add(image)

        read_instances(ann_file, self.label_set, add_images, add_annotations)
        self.img_ids = [info["id"] for info in infos]
        self._has_object = np.array([image in with_object for image in self.img_ids], dtype=bool)
        # Annotations sorted by image, in the order of the file within an image, and where those of an image lie.
        self._order = np.argsort(owners, kind="stable")
        wanted = [numbers.get(image, -1) for image in self.img_ids]
        owners = np.asarray(owners)[self._order]
        self._rows = np.stack([np.searchsorted(owners, wanted, side) for side in ("left", "right")], axis=1)
        return infos

    def check(self, annotation):
        """Raise ExperimentError if an annotation is not fit for this dataset."""

    def _filter_imgs(self, min_size=32):
        """Positions of the images that CocoDataset keeps: large enough and, if asked for, not empty."""
        valid = [
            position
            for position, info in enumerate(self.data_infos)
            if (self._has_object[position] or not self.filter_empty_gt)
            and min(info["width"], info["height"]) >= min_size
        ]
        if not valid:
            small = sum(min(info["width"], info["height"]) < min_size for info in self.data_infos)
            raise ExperimentError(
                f"{self.ann_file}: nothing to train on: of {len(self.data_infos)} images {small} are smaller than "
                f"{min_size} pixels on a side, the others show no object; use other images or another direction"
            )
        self.img_ids = [self.img_ids[position] for position in valid]
        self._rows = self._rows[valid]
        return valid

    def get_ann_info(self, idx):
        annotations = [
            dict(zip(ANNOTATION_FIELDS, self._annotations[row], strict=True))
            for row in self._order[slice(*self._rows[idx])]
        ]
        return self._parse_ann_info(self.data_infos[idx], annotations)


@DATASETS.register_module()
class PartialCocoDataset(PackedCocoDataset):
    """COCO detection with a flag per object that says whether its category is novel, that is, has no mask.

    `get_ann_info(i)` gives CocoDataset's dictionary and `is_novel`, bool [objects], in the order of `labels`;
    objects that CocoDataset skips or ignores (crowd, outside the image, smaller than a pixel) are in neither.

    Raises:
        ExperimentError: as `PackedCocoDataset`, an annotation without the flag `novel`, a novel one with a mask, or a
            base one without.
    """

    def check(self, annotation):
        novel = annotation.get("novel")
        if not isinstance(novel, bool):
            raise ExperimentError(
                f"{self.ann_file}: annotation {annotation['id']} has no flag 'novel'; "
                "train on the output of stage split"
            )
        if novel == ("segmentation" in annotation):
            state = "novel and has a mask" if novel else "base and has no mask"
            direction = Path(self.ann_file).parent.name
            raise ExperimentError(
                f"{self.ann_file}: annotation {annotation['id']} is {state}; run `dvc repro -s -f split@{direction}`"
            )

    def _parse_ann_info(self, img_info, ann_info):
        parsed = super()._parse_ann_info(img_info, ann_info)
        # By construction of the file exactly the novel objects come without a mask.
        parsed["is_novel"] = np.array([mask is None for mask in parsed["masks"]], dtype=bool)
        parsed["masks"] = [NO_MASK if mask is None else mask for mask in parsed["masks"]]
        return parsed

    def __getitem__(self, index):
        """Give one sample.

        Args:
            index: position in the dataset, or `(position, sample seed)` as `IterationBatchSampler` yields.
                With a seed the augmentation is a pure function of it, and the global random states are left
                as they were.
        """
        if not isinstance(index, tuple):
            return super().__getitem__(index)
        index, seed = index
        with seeded(seed):
            return super().__getitem__(index)


def training_set(training):
    """The training set of a `pipeline.declaration.config.Training`: the annotations of its split, through its steps."""
    return PartialCocoDataset(
        ann_file=str(paths.split_train(training.dataset, training.split)),
        img_prefix=str(subsets.train(training.dataset).images),
        label_set=experiments.load().label_set(training.dataset),
        pipeline=training.data["train"],
    )


def validation_set(dataset, steps):
    """The validation images of a dataset through the steps of inference."""
    subset = subsets.validation(dataset)
    return PackedCocoDataset(
        ann_file=str(subset.annotations),
        img_prefix=str(subset.images),
        label_set=experiments.load().label_set(dataset),
        pipeline=steps,
        test_mode=True,
    )


@contextmanager
def seeded(seed):
    """Seed python's, numpy's and torch's CPU generators inside, restore their states after.

    Args:
        seed: 0 <= seed < 2^32.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@PIPELINES.register_module()
class LoadWholeImage(LoadImageFromFile):
    """Load an image; refuse one that is missing, cut short, or not of the size that its annotations assume.

    The stock step crashes on the first kind and silently trains on a half grey picture on the second. It also turns
    images by their EXIF orientation, which COCO's masks do not follow: here pixels are as they are stored.
    """

    def __init__(self, **options):
        super().__init__(color_type="color_ignore_orientation", **options)

    def __call__(self, results):
        path = Path(results["img_prefix"] or "") / results["img_info"]["filename"]
        try:
            if not path.is_file():  # reading a FIFO might never end
                raise FileNotFoundError(path)
            results = super().__call__(results)
            whole = is_whole(path)
        except (OSError, AttributeError, cv2.error):  # mmcv hands on what cv2 could not decode as None
            whole = False
        if not whole:
            state = "is truncated or not an image" if path.exists() else "is missing"
            raise ExperimentError(f"image {path} {state}; {remedy(results['img_prefix'] or '')}")
        height, width = results["img_shape"][:2]
        info = results["img_info"]
        if (width, height) != (info["width"], info["height"]):
            raise ExperimentError(
                f"image {path} is stored {width}x{height} (an EXIF orientation is ignored), its annotations say "
                f"{info['width']}x{info['height']}; save the pixels as they were annotated"
            )
        return results


@PIPELINES.register_module()
class LoadPartialAnnotations(LoadAnnotations):
    """Load boxes, labels and masks, and `gt_is_novel`, bool [objects].

    Masks that are kept as polygons (`poly2mask=False`) may be annotated as run-length encoding too.
    """

    def process_polygons(self, polygons):
        """Return the polygons of one object's annotation, float64 (x, y, x, y, ...); never none.

        The stock step fails on run-length encodings, and cuts coordinates to whole numbers in later steps if the
        file has no others.
        """
        if isinstance(polygons, dict):
            polygons = rectangles(self._poly2mask(polygons, *polygons["size"]))
        polygons = super().process_polygons([np.asarray(polygon, dtype=np.float64) for polygon in polygons])
        return polygons or [np.array(polygon) for polygon in NO_MASK]

    def __call__(self, results):
        results = super().__call__(results)
        results["gt_is_novel"] = results["ann_info"]["is_novel"].copy()
        return results


def rectangles(mask):
    """Cover the pixels of a mask exactly, holes too, with rectangles that do not overlap.

    Args:
        mask: [H, W], 0/1.

    Returns:
        List of polygons [x1, y1, x2, y1, x2, y2, x1, y2] on the corners of pixels, one for each run of pixels in a
        column; equal runs in neighbouring columns are one.
    """
    height, width = mask.shape
    steps = np.diff(np.pad(mask.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    found, running = [], {}  # the latter: first column of the runs that reach the present one, by (top, bottom)
    for column in range(width + 1):
        runs = set()
        if column < width:
            runs = set(zip(*(np.flatnonzero(steps[:, column] == change).tolist() for change in (1, -1)), strict=True))
        for run in sorted(running.keys() - runs):
            (top, bottom), left = run, running.pop(run)
            found.append([left, top, column, top, column, bottom, left, bottom])
        for run in runs - running.keys():
            running[run] = column
    return found


@PIPELINES.register_module()
class FormatPartialBundle(DefaultFormatBundle):
    """Format as DefaultFormatBundle, and `gt_is_novel` as `gt_labels`."""

    def __call__(self, results):
        results = super().__call__(results)
        results["gt_is_novel"] = DataContainer(torch.from_numpy(results["gt_is_novel"]))
        return results
