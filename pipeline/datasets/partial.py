"""The training set of partially supervised segmentation: all objects have boxes, base objects have masks.

Reads the annotation file of `split`, in which novel objects have no mask to begin with.
"""

import random
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

from pipeline.datasets.images import is_whole
from pipeline.errors import ExperimentError

# A polygon without extent: rasterises to no pixel, as bitmap or cropped to any RoI. MMDetection wants some
# mask for every box; losses select by `gt_is_novel` and never look at this one.
NO_MASK = [[0.0] * 6]


@DATASETS.register_module()
class PartialCocoDataset(CocoDataset):
    """COCO detection with a flag per object that says whether its category is novel, that is, has no mask.

    `get_ann_info(i)` gives CocoDataset's dictionary and `is_novel`, bool [objects], in the order of `labels`;
    objects that CocoDataset skips or ignores (crowd, outside the image, smaller than a pixel) are in neither.

    Raises:
        ExperimentError: an annotation without the flag `novel`, a novel one with a mask, a base one without,
            or a class that the file does not list.
    """

    def load_annotations(self, ann_file):
        infos = super().load_annotations(ann_file)
        listed = {category["name"] for category in self.coco.loadCats(self.cat_ids)}
        if missing := [name for name in self.CLASSES if name not in listed]:
            raise ExperimentError(f"{ann_file}: categories does not list {', '.join(missing)}")
        for annotation in self.coco.anns.values():
            if not isinstance(annotation.get("novel"), bool):
                raise ExperimentError(
                    f"{ann_file}: annotation {annotation['id']} has no flag 'novel'; "
                    "train on the output of stage split"
                )
            if annotation["novel"] == ("segmentation" in annotation):
                state = "novel and has a mask" if annotation["novel"] else "base and has no mask"
                raise ExperimentError(
                    f"{ann_file}: annotation {annotation['id']} is {state}; run stage split again"
                )
        return infos

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

    The stock step crashes on the first kind and silently trains on a half grey picture on the second.
    """

    def __call__(self, results):
        path = Path(results["img_prefix"] or "") / results["img_info"]["filename"]
        try:
            results = super().__call__(results)
            whole = is_whole(path)
        except (OSError, AttributeError, cv2.error):  # mmcv hands on what cv2 could not decode as None
            whole = False
        if not whole:
            state = "is truncated or not an image" if path.exists() else "is missing"
            raise ExperimentError(f"image {path} {state}; delete it and run stage download again")
        height, width = results["img_shape"][:2]
        info = results["img_info"]
        if (width, height) != (info["width"], info["height"]):
            raise ExperimentError(
                f"image {path} is {width}x{height}, its annotations say {info['width']}x{info['height']}; "
                "images and annotations belong to different datasets: run stage download again"
            )
        return results


@PIPELINES.register_module()
class LoadPartialAnnotations(LoadAnnotations):
    """Load boxes, labels and masks, and `gt_is_novel`, bool [objects]."""

    def __call__(self, results):
        results = super().__call__(results)
        results["gt_is_novel"] = results["ann_info"]["is_novel"].copy()
        return results


@PIPELINES.register_module()
class FormatPartialBundle(DefaultFormatBundle):
    """Format as DefaultFormatBundle, and `gt_is_novel` as `gt_labels`."""

    def __call__(self, results):
        results = super().__call__(results)
        results["gt_is_novel"] = DataContainer(torch.from_numpy(results["gt_is_novel"]))
        return results
