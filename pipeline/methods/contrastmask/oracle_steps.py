"""The training steps of oracle supervision: load the masks of all objects as `gt_prior_masks`."""

from pipeline import compat  # noqa: F401  # isort: skip  before anything that imports torchvision

import contextlib
import functools
import io

import numpy as np
from mmcv.parallel import DataContainer
from mmdet.core import BitmapMasks, PolygonMasks
from mmdet.datasets.builder import PIPELINES
from pycocotools.coco import COCO

from pipeline.declaration import subsets
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask.oracle import FIELD
from pipeline.tasks.instances.packed_coco import LoadPartialAnnotations


@functools.cache
def complete_annotations(dataset):
    """pycocotools COCO of the training annotations with every mask; read once in a process."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(subsets.train(dataset).annotations))


@PIPELINES.register_module()
class LoadPriorMasks:
    """Load the mask of every object in the order of `gt_bboxes`; later steps treat them like `gt_masks`.

    Args:
        dataset: name of the dataset.
        poly2mask: as `LoadPartialAnnotations`: bitmaps, or polygons.

    Raises ExperimentError for an object that the complete annotations do not have (they and the split differ), or have
    without a mask.
    """

    def __init__(self, dataset, poly2mask=True):
        self.dataset = dataset
        self.poly2mask = poly2mask
        self.loader = LoadPartialAnnotations(with_mask=True, poly2mask=poly2mask)

    def __call__(self, results):
        coco = complete_annotations(self.dataset)
        image = results["img_info"]
        left = {}  # of the image's objects, by box; several can share one
        for annotation in coco.imgToAnns[image["id"]]:
            left.setdefault(_key(annotation["bbox"]), []).append(annotation)
        masks = []
        for box in results["ann_info"]["bboxes"]:
            same = left.get(tuple(box.tolist()))
            if not same:
                complete = subsets.train(self.dataset).annotations
                raise ExperimentError(
                    f"image {image['filename']}: a box of the split is not in {complete}; run `dvc repro split`"
                )
            annotation = same.pop(0)
            if not annotation.get("segmentation"):
                raise ExperimentError(
                    f"{subsets.train(self.dataset).annotations}: annotation {annotation['id']} has no mask, which "
                    "oracle supervision needs of novel objects too; choose another `supervision`"
                )
            masks.append(annotation["segmentation"])
        size = image["height"], image["width"]
        if self.poly2mask:
            results[FIELD] = BitmapMasks([self.loader._poly2mask(mask, *size) for mask in masks], *size)
        else:
            results[FIELD] = PolygonMasks([self.loader.process_polygons(mask) for mask in masks], *size)
        results["mask_fields"].append(FIELD)
        return results


def _key(box):
    """A COCO box [x, y, w, h] as CocoDataset turns it into corners, float32."""
    x, y, width, height = box
    return tuple(np.array([x, y, x + width, y + height], dtype=np.float32).tolist())


@PIPELINES.register_module()
class FormatPriorMasks:
    """Keep `gt_prior_masks` on the CPU, as DefaultFormatBundle does with `gt_masks`."""

    def __call__(self, results):
        results[FIELD] = DataContainer(results[FIELD], cpu_only=True)
        return results
